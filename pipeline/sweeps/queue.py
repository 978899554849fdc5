"""DVC's queue of experiments: what stands in it, its workers, and how a sweep's own experiments leave it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil
from dvc.exceptions import DvcException
from dvc.repo import Repo
from scmrepo.exceptions import SCMError

from pipeline.errors import PipelineError
from pipeline.experiments import files_of, list_experiments
from pipeline.files import read_json
from pipeline.paths import repository_root
from pipeline.tracking.compare import Result, Results
from pipeline.tracking.sync import sync

WORKERS_PACE_S = 10.0
"""`dvc queue start` takes seconds to ask which workers live, and a new one seconds until it answers."""


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    """said to be running, but the process that did so is gone"""


class Queue:
    """The queue of this repository, worked off by up to `jobs` workers, and the runs of what it executes."""

    def __init__(self, jobs: int, results: Results) -> None:
        self._jobs = jobs
        self.results = results
        self._started = -WORKERS_PACE_S

    def submit(self, name: str | None, overrides: Sequence[str]) -> list[str]:
        """Queue one experiment, or one for each value that an override lists; return their names.

        overrides: `key=value` as `dvc exp run -S` takes them. name: None lets DVC invent names.
        """
        named = ["--name", name] if name else []
        printed = dvc("exp", "run", "--queue", *named, *(part for item in overrides for part in ("-S", item)))
        return re.findall(r"Queued experiment '([^']+)'", printed)

    def states(self) -> dict[str, State]:
        """By name. Starts workers where experiments wait: a worker ends after a killed task, and when idle."""
        found = _states()
        waiting = State.QUEUED in found.values()
        running = list(found.values()).count(State.RUNNING)
        if waiting and running < self._jobs and time.monotonic() - self._started >= WORKERS_PACE_S:
            self._started = time.monotonic()
            start_workers(self._jobs)
        return found

    def kill(self, name: str) -> bool:
        """Interrupt a running experiment, which then closes its run; return whether there was one to interrupt."""
        try:
            dvc("queue", "kill", name)
        except PipelineError:
            return False  # it has just ended by itself
        return True

    def find(self, name: str) -> Result | None:
        """The run of an experiment, from when its first stage has begun."""
        return self.results.find(name)

    def complete(self, name: str) -> None:
        """Make or complete the run of an experiment that DVC restored from its cache, in whole or at its end."""
        found = self.find(name)
        if found is None or not found.is_complete:
            experiments = [experiment for experiment in list_experiments() if experiment.name == name]
            sync(experiments, files_of)

    def stop(self, names: Collection[str]) -> None:
        """Take these experiments out of the queue, interrupt those that run, and let the workers end."""
        found = _states()
        queued = [name for name in names if found.get(name) is State.QUEUED]
        # Not `dvc queue stop --kill`: it kills dvc's process only, and the stage goes on as an orphan.
        with contextlib.suppress(PipelineError):
            dvc("queue", "stop")
        if queued:
            with contextlib.suppress(PipelineError):  # a worker may have taken it meanwhile
                dvc("queue", "remove", *queued)
        for name, state in _states().items():
            if name in names and state in (State.RUNNING, State.LOST):
                self.kill(name)

    def explain(self, name: str) -> str:
        """Why an experiment failed, or where that stands."""
        return f"`dvc queue logs {name}` says why"


def start_workers(jobs: int) -> None:
    """Start as many workers as are missing."""
    # They inherit the output, so a pipe would be open for as long as they live.
    with _dvc_process("queue", "start", "-j", str(jobs), stdout=subprocess.DEVNULL) as process:
        status = _ended(process)[0]
    if status:
        raise PipelineError(f"`dvc queue start` ended with status {status}")


def dvc(*arguments: str) -> str:
    """What a dvc command prints. Raises `PipelineError` with its last line if it fails."""
    with _dvc_process(*arguments, stdout=subprocess.PIPE) as process:
        status, printed = _ended(process)
    if status:
        lines = [line for line in printed.splitlines() if line.startswith("ERROR")] or printed.splitlines()[-1:]
        raise PipelineError(f"`dvc {' '.join(arguments[:2])}`: {lines[0] if lines else f'status {status}'}")
    return printed


def _dvc_process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    # DVC starts workers as `dvc` and stages as `python`: both must be those of this environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=repository_root(),
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C is for the caller, who then ends things in order
        **options,
    )


def _ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its status and output. An interruption waits for it: half a queue entry would be in everybody's way."""
    try:
        printed, _ = process.communicate()
    except BaseException:
        process.communicate()
        raise
    return process.returncode, printed or ""


def _states() -> dict[str, State]:
    # Asked of DVC's library: the command takes five seconds.
    for attempt in range(5):
        try:
            with Repo(str(repository_root())) as repo:
                queue = repo.experiments.celery_queue
                found: dict[str, State] = {}
                # What runs and waits comes first; an earlier attempt of the same name comes later.
                for entry in queue.status():
                    name = entry["name"] or entry["rev"][:7]
                    found.setdefault(name, _state(queue, entry["rev"], entry["status"]))
                return found
        except (DvcException, SCMError, OSError, ValueError) as error:
            # A worker may be moving the very file that is read.
            if attempt == 4:
                raise PipelineError(f"DVC's queue cannot be read: {error}") from error
            time.sleep(0.2)
    raise AssertionError


def _state(queue: Any, rev: str, status: str) -> State:
    if status != "Running":
        return {"Queued": State.QUEUED, "Success": State.SUCCEEDED}.get(status, State.FAILED)
    process = queue.proc.get(rev)
    if process is None:  # a worker is setting it up
        alive = any(_works(_pid(path), "queue-worker") for path in Path(queue.wdir).glob("dvc-exp-worker-*.json"))
    else:
        alive = process.returncode is not None or _works(process.pid, "exec-run")
    return State.RUNNING if alive else State.LOST


def _pid(path: Path) -> int:
    return int(read_json(path)["pid"])


def _works(pid: int, what: str) -> bool:
    """Whether the process lives and is what it is thought to be, not another with the same number."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and what in process.cmdline()
    except psutil.Error:
        return False
