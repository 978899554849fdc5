"""The experiments of studies in DVC's queue, and what came out of each into the record as it ends."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.environment import git
from pipeline.errors import PipelineError
from pipeline.experiments import Experiment, files_of, list_experiments
from pipeline.files import locked
from pipeline.studies.declaration import Study, refuse_wrong_parameters
from pipeline.studies.machine import recorded
from pipeline.studies.measuring import measure
from pipeline.studies.record import add_to_record, read_record
from pipeline.sweeps.grid import no_names_told, refuse_failures, wait_for
from pipeline.sweeps.queue import Queue, State
from pipeline.tracking.compare import Results
from pipeline.yaml_text import parse_yaml


@dataclass(frozen=True)
class Task:
    """One variant with one seed."""

    study: str
    variant: str
    seed: int
    overrides: dict[str, Any]

    @property
    def key(self) -> tuple[str, str, int]:
        return self.study, self.variant, self.seed

    def experiment(self, commit: str, machine: Mapping[str, Any]) -> str:
        """A name that the same recipe, code and data have again, and no other."""
        decisive = json.dumps([self.overrides, commit, recorded(dict(machine))], sort_keys=True)
        return f"{self.study}-{self.variant}-s{self.seed}-{hashlib.sha256(decisive.encode()).hexdigest()[:6]}"


def run_studies(studies: Sequence[Study], machine: Mapping[str, Any], jobs: int, again: bool) -> None:
    """Run what the record lacks, or all. Raises `PipelineError` at the end if an experiment did not succeed.

    machine: overrides that hold on this machine.
    """
    root = paths.repository_root()
    defaults = committed_params(root)
    for study in studies:
        refuse_wrong_parameters(study, machine, defaults)
    known = {} if again else {entry.key: entry.overrides for entry in read_record(root / paths.STUDIES)}
    listed = [task for study in studies for task in tasks_of(study)]
    tasks = [task for task in listed if known.get(task.key) != task.overrides]
    print(f"{len(listed) - len(tasks)} of {len(listed)} experiments are recorded already, {len(tasks)} to run")
    if not tasks:
        return
    try:
        # Two calls would queue the same, and DVC resets the working copy for a moment while it queues.
        with locked(root / paths.STATE / "studies.lock", wait=False):
            queue = Queue(jobs, Results(defaults["tracking"]["experiment"]))
            _run(tasks, machine, queue, again, root)
    except BlockingIOError:
        raise PipelineError("another `depth study` is at work in this repository; wait for it") from None


def committed_params(root: Path) -> dict[str, Any]:
    """The content of params.yaml. Raises `PipelineError` if it differs from the commit, which the record names."""
    if not git("-C", str(root), "rev-parse", "HEAD"):
        raise PipelineError("a study needs a git repository with a commit")
    if git("-C", str(root), "status", "--porcelain", "--", str(paths.PARAMS)):
        raise PipelineError(
            f"{paths.PARAMS} has changes that are not committed, which no record would tell; commit them, "
            f"or `git restore {paths.PARAMS}`"
        )
    content: dict[str, Any] = parse_yaml((root / paths.PARAMS).read_text(encoding="utf-8"))
    return content


def tasks_of(study: Study) -> Iterator[Task]:
    """Seed by seed, so that an early end leaves whole comparisons."""
    seeds = {variant.name: study.seeds_of(variant) for variant in study.variants}
    for seed in dict.fromkeys(seed for listed in seeds.values() for seed in listed):
        for variant in study.variants:
            if seed in seeds[variant.name]:
                yield Task(study.name, variant.name, seed, study.overrides_of(variant))


def _run(tasks: Sequence[Task], machine: Mapping[str, Any], queue: Queue, again: bool, root: Path) -> None:
    commit = git("-C", str(root), "rev-parse", "HEAD")
    waiting: dict[str, Task] = {}
    experiments = {experiment.name for experiment in list_experiments()}
    states = queue.states()
    lost: dict[str, State] = {}

    def note(name: str, state: State) -> None:
        if state is not State.SUCCEEDED:
            return
        try:
            queue.complete(name)
            note_result(waiting[name], name, machine, queue, root)
        except PipelineError as error:
            print(f"\nwarning: {name} is not recorded: {error}; the same call tries again", file=sys.stderr)
            lost[name] = State.LOST

    try:
        for task in tasks:
            name, what = _name_of(task.experiment(commit, machine), experiments, states, again)
            waiting[name] = task
            if what is _Found.ENDED:
                continue
            if what is _Found.NEW and queue.submit(name, list(_arguments(task, machine))) != [name]:
                raise no_names_told()
            queue.states()  # which lets workers begin while the rest is queued
    except BaseException:
        queue.stop([name for name in waiting if name not in experiments])
        raise
    for name in [name for name in waiting if name in experiments]:
        note(name, State.SUCCEEDED)
    open_names = [name for name in waiting if name not in experiments]
    ended = wait_for(open_names, queue, "study", note) | lost
    print(f"commit {paths.STUDIES} and docs/: `dvc exp apply` discards what is not committed")
    refuse_failures(ended, queue)


class _Found(Enum):
    NEW = auto()
    WAITING = auto()
    ENDED = auto()


def _name_of(name: str, experiments: set[str], states: Mapping[str, State], again: bool) -> tuple[str, _Found]:
    """The name of a task's experiment, and whether it ended or waits since an earlier call that was killed."""
    attempt, latest = 2, name
    taken = {*experiments, *states}
    if name not in taken:
        return name, _Found.NEW
    while f"{name}-{attempt}" in taken:
        latest, attempt = f"{name}-{attempt}", attempt + 1
    if states.get(latest) in (State.QUEUED, State.RUNNING):
        return latest, _Found.WAITING
    if latest in experiments and not again:
        return latest, _Found.ENDED
    return f"{name}-{attempt}", _Found.NEW


def _arguments(task: Task, machine: Mapping[str, Any]) -> Iterator[str]:
    """As `dvc exp run -S` takes them; what holds on this machine comes last."""
    given = {**task.overrides, "seed": task.seed, "tracking.group": task.study, **machine}
    for key, value in given.items():
        yield f"{key}={override_text(value)}"


def override_text(value: Any) -> str:
    """A value in the grammar of Hydra, in which commas and brackets mean something."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(override_text, value))}]"
    if isinstance(value, int | float) or re.fullmatch(r"[A-Za-z_][\w.-]*", value):
        return str(value)
    return "'{}'".format(value.replace("\\", "\\\\").replace("'", "\\'"))


def note_result(task: Task, name: str, machine: Mapping[str, Any], queue: Queue, root: Path) -> None:
    """Add what an experiment came to to the record. Raises `PipelineError` if it does not tell."""
    experiment = _experiment(name)
    found = queue.find(name)
    with files_of(experiment) as files:
        measured = measure(
            task.study,
            task.variant,
            task.seed,
            task.overrides,
            recorded(dict(machine)),
            experiment,
            files,
            None if found is None else found.run_id,
        )
    add_to_record(measured, root / paths.STUDIES)


def _experiment(name: str) -> Experiment:
    found = [experiment for experiment in list_experiments() if experiment.name == name]
    if not found:
        raise PipelineError(f"DVC has no experiment of the name {name}")
    return found[0]
