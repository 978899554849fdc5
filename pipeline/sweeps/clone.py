"""What one machine of a cluster does with one trial: clone, pull, run, push, tidy up.

The function travels to the machine as it is, so it needs nothing but the standard library; the machine needs git
and, in the Python that Ray runs, the packages of this project.
"""

from __future__ import annotations

import contextlib
import os
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
    store. All clones on a machine share one DVC cache, so that data are prepared once.
    """
    shared = Path(tempfile.gettempdir()) / f"depth-sweeps-{os.getuid()}"
    shared.mkdir(mode=0o700, exist_ok=True)
    clone = shared / key
    python = Path(sys.executable).parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_"))}
    environment |= {**settings, "PATH": f"{python}{os.pathsep}{environment.get('PATH', '')}"}
    # DVC makes commits, and a machine of a cluster seldom has an identity.
    for role in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{role}_NAME": "depth sweep", f"GIT_{role}_EMAIL": "depth-sweep@localhost"}
    output = ""

    def call(*command: str) -> int:
        nonlocal output
        # A session of its own: what ends the trial must reach the stage, not only dvc.
        process = subprocess.Popen(
            command,
            cwd=clone if clone.is_dir() else shared,
            env=environment,
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
        output = (output + printed)[-LAST_CHARACTERS:]
        return process.returncode

    def shown(*command: str) -> str:
        return subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True).stdout.strip()

    def dvc(*arguments: str) -> int:
        return call(sys.executable, "-m", "dvc", *arguments)

    def unsent() -> bool:
        """Whether MLflow could not be told everything; that would be lost with the clone."""
        return any((clone / ".state" / "outbox").glob("*/*.json"))

    try:
        status = call("git", "clone", "--quiet", url, str(clone)) or call("git", "checkout", "--quiet", commit)
        pushed = False
        if status == 0:
            status = dvc("cache", "dir", "--local", str(shared / "cache"))
            remote = bool(shown(sys.executable, "-m", "dvc", "config", "core.remote"))
            if remote:
                dvc("pull", "--allow-missing")  # what cannot be had is made anew
            parts = [part for item in overrides for part in ("-S", item)]
            status = status or dvc("exp", "run", "--name", name, *parts)
            pushed = status == 0 and dvc("exp", "push", *([] if remote else ["--no-cache"]), "origin", name) == 0
        return {"status": status, "output": output, "pushed": pushed, "kept": str(clone) if unsent() else None}
    finally:
        if not unsent():
            shutil.rmtree(clone, ignore_errors=True)
