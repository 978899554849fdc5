"""What one machine of a cluster does with one trial: clone, pull, run, push, tidy up.

The module travels to the machine as it is, so it needs nothing but the standard library; the machine needs git
and, in the Python that Ray runs, the packages of this project.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LAST_CHARACTERS = 4000
"""How much of a failure's output is sent back."""


def run_trial(
    url: str, commit: str, key: str, name: str, overrides: Sequence[str], settings: Mapping[str, str]
) -> dict[str, Any]:
    """Run the experiment `name` in a clone of `url` at `commit`; return its status, output and what became of it.

    key: the clone's folder, of which there is no other. settings: environment variables of MLflow and of the object
    store. All clones on a machine share one DVC cache, so that data are prepared once. What could not be sent away
    stays in the clone, which is then kept.
    """
    shared = Path(tempfile.gettempdir()) / f"depth-sweeps-{os.getuid()}"
    shared.mkdir(mode=0o700, exist_ok=True)
    clone = Clone(shared / key, settings)
    pushed = True
    try:
        status = (
            clone.call("git", "clone", "--quiet", url, str(clone.folder))
            or clone.call("git", "checkout", "--quiet", commit)
            or clone.dvc("cache", "dir", "--local", str(shared / "cache"))
        )
        remote = status == 0 and bool(clone.shown(sys.executable, "-m", "dvc", "config", "core.remote"))
        if remote:
            clone.dvc("pull", "--allow-missing")  # what cannot be had is made anew
        parts = [part for item in overrides for part in ("-S", item)]
        status = status or clone.dvc("exp", "run", "--name", name, *parts)
        if status == 0:
            status = clone.dvc("exp", "push", *([] if remote else ["--no-cache"]), "origin", name)
            status = status or int(not has_arrived(clone, name))
            pushed = status == 0
        output = clone.output if pushed else unpushed(clone, name)
        return {"status": status, "output": output, "kept": str(clone.folder) if clone.is_unsent() else None}
    finally:
        if pushed and not clone.is_unsent():
            shutil.rmtree(clone.folder, ignore_errors=True)


def has_arrived(clone: Clone, name: str) -> bool:
    """Whether git's remote has the experiment. `dvc exp push` also ends well if it kept another of that name."""
    ours = clone.shown("git", "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}")
    return bool(ours) and ours in clone.shown("git", "ls-remote", "origin", f"refs/exps/*/*/{name}")


def unpushed(clone: Clone, name: str) -> str:
    """What to do about an experiment that could not leave its clone: MLflow alone would know of it."""
    return (
        f"ERROR: {platform.node()} could not push it ({error_line(clone.output)}); give that machine the keys of "
        f"git's and DVC's remote, then send it from {clone.folder} there: dvc exp push origin {name}"
    )


def error_line(output: str) -> str:
    """The line that says why a command failed."""
    lines = output.strip().splitlines() or ["the machine said nothing"]
    return next((line for line in lines if re.match(r"(error|ERROR)", line)), lines[-1])


class Clone:
    """The folder of a trial, and the commands that work in it."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self.output = ""
        """the end of what the last command printed"""
        python = Path(sys.executable).parent
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_"))}
        self._environment = {**ours, **settings, "PATH": f"{python}{os.pathsep}{ours.get('PATH', '')}"}
        # DVC makes commits, and a machine of a cluster seldom has an identity.
        for role in ("AUTHOR", "COMMITTER"):
            self._environment |= {f"GIT_{role}_NAME": "depth sweep", f"GIT_{role}_EMAIL": "depth-sweep@localhost"}

    def dvc(self, *arguments: str) -> int:
        return self.call(sys.executable, "-m", "dvc", *arguments)

    def call(self, *command: str) -> int:
        """Run a command to its end, or to that of the trial; return its status."""
        # A session of its own: what ends the trial must reach the stage, not only dvc.
        process = subprocess.Popen(
            command,
            cwd=self.folder if self.folder.is_dir() else self.folder.parent,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        printed = None
        try:
            while printed is None:
                # Ray's cancellation is noticed between two waits only.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    printed, _ = process.communicate(timeout=0.5)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # Ray's processes and their children are deaf to SIGINT
            process.communicate()
            raise
        self.output = printed[-LAST_CHARACTERS:]
        return process.returncode

    def shown(self, *command: str) -> str:
        """What a short command prints."""
        done = subprocess.run(command, cwd=self.folder, env=self._environment, capture_output=True, text=True)
        return done.stdout.strip()

    def is_unsent(self) -> bool:
        """Whether MLflow could not be told everything; that would be lost with the clone."""
        return any((self.folder / ".state" / "outbox").glob("*/*.json"))
