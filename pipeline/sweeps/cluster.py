"""Trials on the machines of a Ray cluster, each in a clone of its own."""

from __future__ import annotations

import contextlib
import os
import sys
import uuid
from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import urlsplit

from pipeline.environment import git
from pipeline.errors import PipelineError
from pipeline.experiments import files_of, list_experiments
from pipeline.paths import repository_root
from pipeline.ray_cluster import connected
from pipeline.sweeps import clone
from pipeline.sweeps.queue import State, dvc
from pipeline.tracking.compare import Result, Results
from pipeline.tracking.sync import sync

SETTINGS = ("MLFLOW_", "AWS_")
"""Environment variables that travel with a trial: where MLflow is, and the keys to it and to the object store.

What `.dvc/config.local` holds stays: it may name files of this machine.
"""


def travelling_settings() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key.startswith(SETTINGS)}


def shared_store() -> str:
    """The MLflow server that every machine reaches. Raises `PipelineError` if there is none."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri or urlsplit(uri).scheme in ("", "sqlite", "file"):
        raise PipelineError(
            "--ray needs an MLflow server that every machine reaches; set MLFLOW_TRACKING_URI to its address "
            f"(it is {uri or 'not set'}), such as http://HOST:5000"
        )
    return uri


def shared_repository() -> tuple[str, str]:
    """Where the machines clone from, and the commit. Raises `PipelineError` if they would not get this code."""
    commit = git("rev-parse", "HEAD")
    if not commit:
        raise PipelineError("--ray needs a git repository with a commit: the machines clone it")
    if git("status", "--porcelain", "--untracked-files=no"):
        raise PipelineError("--ray runs the committed code, and there are uncommitted changes; commit them first")
    remote = first_remote()
    if not remote:
        return str(repository_root()), commit
    if not git("branch", "--remotes", "--contains", commit):
        raise PipelineError(f"the machines clone from {remote}, which lacks commit {commit[:7]}; git push first")
    return git("remote", "get-url", remote), commit


def first_remote() -> str:
    """The git remote that clones are made from; empty without one."""
    return git("remote").partition("\n")[0]


class Cluster:
    """A Ray cluster as executor of trials. Use as a context manager: leaving it lets go of the cluster."""

    def __init__(self, address: str, results: Results) -> None:
        """address: of the cluster's head, `HOST:6379`, or `auto` on a machine of it."""
        self._url, self._commit = shared_repository()
        self.results = results
        self._tasks: dict[str, Any] = {}
        self._keys: dict[str, str] = {}
        self._output: dict[str, dict[str, Any]] = {}
        self._pulled: set[str] = set()
        self._adopted: set[str] = set()
        self._open = contextlib.ExitStack()
        ray = self._ray = self._open.enter_context(connected(address, "--ray"))
        # By value: the machines may have another version of this package, or none.
        ray.cloudpickle.register_pickle_by_value(clone)
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        self._task = ray.remote(clone.run_trial).options(
            num_cpus=1, num_gpus=gpus, max_retries=0, scheduling_strategy="SPREAD"
        )

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def submit(self, name: str | None, overrides: Sequence[str]) -> list[str]:
        assert name is not None
        self._keys[name] = f"{name}-{uuid.uuid4().hex[:8]}"
        self._tasks[name] = self._task.remote(
            self._url, self._commit, self._keys[name], name, list(overrides), travelling_settings()
        )
        return [name]

    def states(self) -> dict[str, State]:
        return {name: self._state(name) for name in self._tasks}

    def _state(self, name: str) -> State:
        if name not in self._output:
            ready, _ = self._ray.wait([self._tasks[name]], timeout=0)
            if not ready:
                return State.RUNNING
            try:
                self._output[name] = self._ray.get(ready[0])
            except self._ray.exceptions.RayTaskError as error:  # a defect of ours, or git is absent
                self._output[name] = {"status": 1, "output": str(error)}
            except self._ray.exceptions.RayError:
                return State.LOST  # the machine is gone, or memory was short there
        outcome = self._output[name]
        if outcome.get("kept"):
            print(
                f"\nwarning: MLflow could not be told all of {name}; run `depth sync` in {outcome['kept']} there",
                file=sys.stderr,
            )
            outcome["kept"] = None
        return State.SUCCEEDED if outcome["status"] == 0 else State.FAILED

    def kill(self, name: str) -> bool:
        if name not in self._tasks or self._state(name) is not State.RUNNING:
            return False
        self._ray.cancel(self._tasks[name], force=False)
        return True

    def stop(self, names: Collection[str]) -> None:
        killed = [self._tasks[name] for name in names if self.kill(name)]
        if killed:  # the cluster would end what is left of them the hard way
            self._ray.wait(killed, num_returns=len(killed), timeout=60)

    def find(self, name: str) -> Result | None:
        if name in self._adopted:
            return self.results.find(name)
        return self.results.find(name, self._keys[name]) if name in self._keys else None

    def complete(self, name: str) -> None:
        """Bring the experiment, which its clone has pushed, here and count its run as one of this repository.

        A machine that took everything from its DVC cache made no run; it is made here from the experiment's files.
        """
        if name in self._adopted:
            return
        if self._url != str(repository_root()) and name not in self._pulled:
            self._pulled.add(name)
            self._pull(name)
        experiments = [experiment for experiment in list_experiments() if experiment.name == name]
        if not experiments:
            return
        found = self.find(name)
        if found is not None:
            self.results.adopt(found.run_id)
        if found is None or not found.is_complete:
            sync(experiments, files_of)
        self._adopted.add(name)

    def _pull(self, name: str) -> None:
        remote = first_remote()
        # Without DVC's remote the files stay in the cache of the machine that made them.
        cache = [] if dvc("config", "core.remote").strip() else ["--no-cache"]
        try:
            dvc("exp", "pull", *cache, remote, name)
        except PipelineError as error:
            print(f"\nwarning: {error}; try `dvc exp pull {remote} {name}` later", file=sys.stderr)

    def explain(self, name: str) -> str:
        return clone.error_line(self._output.get(name, {}).get("output", ""))
