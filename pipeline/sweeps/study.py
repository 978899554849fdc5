"""A search for good parameters: Optuna proposes, every trial is a DVC experiment with a run of its own.

The study is an SQLite file under `.state`, so that a search that was stopped, or lost its machine, goes on.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline import paths
from pipeline.errors import PipelineError
from pipeline.files import locked
from pipeline.progress import progress_bar
from pipeline.sweeps.grid import PATIENCE, POLL_S, aligned, number
from pipeline.sweeps.queue import State
from pipeline.sweeps.space import Range, Space, refuse_bad_name
from pipeline.tracking.compare import Result, Results

ATTEMPTS = 3
"""How often the same values are tried when the machine fails, not the training."""
INTERRUPTED = "interrupted"
"""Set on trials that were stopped from outside: they say nothing about their values and are repeated."""


class Executor(Protocol):
    """Where trials work: DVC's queue or a cluster."""

    results: Results

    def submit(self, name: str | None, overrides: Sequence[str]) -> list[str]: ...
    def states(self) -> Mapping[str, State]: ...
    def kill(self, name: str) -> bool: ...
    def stop(self, names: Collection[str]) -> None: ...
    def find(self, name: str) -> Result | None: ...
    def complete(self, name: str) -> None: ...
    def explain(self, name: str) -> str: ...


def default_pruner() -> optuna.pruners.BasePruner:
    """A trial ends early if after four epochs or more its best error is worse than half of the others' then."""
    return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=3)


class Study:
    """A named search over `space`, with `fixed` overrides (`key=value`) in every trial."""

    def __init__(
        self,
        name: str,
        space: Space,
        executor: Executor,
        *,
        fixed: Sequence[str] = (),
        pruner: optuna.pruners.BasePruner | None = None,
    ) -> None:
        """Go on with the study of this name, or begin it. Raises `PipelineError` if it searched something else."""
        refuse_bad_name(name)
        self.name = name
        self._space = space
        self._fixed = list(fixed)
        self._executor = executor
        self._study = _open(name, pruner or default_pruner())
        searched = json.dumps({"space": {key: str(value) for key, value in space.items()}, "fixed": self._fixed})
        begun_with = self._study.user_attrs.get("searched")
        if begun_with not in (None, searched):
            raise PipelineError(
                f"the sweep {name} was begun with other ranges or overrides ({begun_with}); choose another --name"
            )
        self._study.set_user_attr("searched", searched)
        self._active: dict[str, Trial] = {
            self.experiment(trial): Trial(self._study, trial._trial_id)
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state == TrialState.RUNNING
        }
        self._missing: dict[str, int] = {}

    def experiment(self, trial: FrozenTrial | Trial) -> str:
        """The trial's name as a DVC experiment."""
        return f"{self.name}-{trial.number:03d}"

    @property
    def ended(self) -> list[FrozenTrial]:
        """The trials that told something: complete, pruned or failed by themselves."""
        return [
            trial
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state.is_finished() and INTERRUPTED not in trial.user_attrs
        ]

    def run(self, trials: int, jobs: int) -> None:
        """Go on until `trials` have ended in total, `jobs` at a time.

        An interruption stops those at work, which the next call repeats.
        """
        with _alone(self.name), progress_bar(trials, "sweep", "trial", initial=len(self.ended)) as progress:
            try:
                while (ended := len(self.ended)) < trials:
                    progress.update(ended - progress.n)
                    self._fill(min(jobs, trials - ended))
                    self._look()
                    progress.set_postfix_str(self._summary(), refresh=False)
                    time.sleep(POLL_S)
                progress.update(trials - progress.n)
            except BaseException:
                print(f"\nstopping; the same command goes on with sweep {self.name}", file=sys.stderr)
                self._executor.stop(set(self._active))
                for name in list(self._active):
                    self._repeat(name)
                raise

    def _fill(self, jobs: int) -> None:
        while len(self._active) < jobs:
            trial = self._study.ask()
            values = {key: _suggest(trial, key, values) for key, values in self._space.items()}
            overrides = [f"{key}={self._space[key].text(value)}" for key, value in values.items()]
            name = self.experiment(trial)
            self._active[name] = trial
            self._executor.submit(name, [*overrides, *self._fixed, f"tracking.group={self.name}"])

    def _look(self) -> None:
        """What has become of the trials at work."""
        states = self._executor.states()
        for name, trial in list(self._active.items()):
            state = states.get(name, State.LOST)
            self._missing[name] = self._missing.get(name, 0) + 1 if state is State.LOST else 0
            try:
                if state is State.SUCCEEDED:
                    self._executor.complete(name)
                result = self._executor.find(name)
            except PipelineError as error:
                print(f"\nwarning: {error}; trying again", file=sys.stderr)
                continue
            if result is not None:
                self._report(trial, result)
            if state is State.SUCCEEDED:
                self._tell(name, result.best if result else None)
            elif state is State.FAILED:
                self._tell(name, None)
            elif self._missing[name] >= PATIENCE:
                self._executor.kill(name)
                self._repeat(name, attempts=1)
            elif result is not None and self._is_hopeless(trial, result) and self._executor.kill(name):
                self._executor.results.tag(result.run_id, {"pruned": "true"})
                self._study.tell(trial, state=TrialState.PRUNED)
                del self._active[name]

    def _report(self, trial: Trial, result: Result) -> None:
        known = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for epoch, value in enumerate(result.curve):
            if epoch not in known:
                trial.report(value, epoch)

    def _is_hopeless(self, trial: Trial, result: Result) -> bool:
        """Not while it only evaluates: the training has been paid for."""
        return not result.is_trained and bool(result.curve) and trial.should_prune()

    def _tell(self, name: str, value: float | None) -> None:
        trial = self._active.pop(name)
        if value is None or not math.isfinite(value):
            self._study.tell(trial, state=TrialState.FAIL)
            print(f"\nwarning: {name} has no result: {self._executor.explain(name)}", file=sys.stderr)
        else:
            self._study.tell(trial, value)

    def _repeat(self, name: str, attempts: int = 0) -> None:
        """Give the values of a trial that was stopped from outside to a later one, unless it was so too often."""
        trial = self._active.pop(name)
        attempts += trial.user_attrs.get("attempts", 0)
        if attempts < ATTEMPTS:
            trial.set_user_attr(INTERRUPTED, True)
            self._study.enqueue_trial(trial.params, user_attrs={"attempts": attempts})
        self._study.tell(trial, state=TrialState.FAIL)

    def _summary(self) -> str:
        done = [trial for trial in self.ended if trial.state == TrialState.COMPLETE and trial.value is not None]
        best = min((trial.value for trial in done if trial.value is not None), default=None)
        return f"best val RMSE {number(best)} m, {len(self._active)} at work"

    def table(self) -> str:
        """The trials that have ended, the best first."""
        order = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1, TrialState.FAIL: 2}
        rows = [[*self._space, "val RMSE (m)", "experiment"]]
        for trial in sorted(self.ended, key=lambda trial: (order[trial.state], trial.value or 0.0)):
            note = "" if trial.state == TrialState.COMPLETE else f" ({trial.state.name.lower()})"
            values = [self._space[key].text(trial.params[key]) for key in self._space]
            best = trial.value if note == "" else min(trial.intermediate_values.values(), default=None)
            rows.append([*values, number(best), f"{self.experiment(trial)}{note}"])
        return aligned(rows)

    def best(self) -> str | None:
        """The experiment with the lowest error; None if none was completed."""
        done = [trial for trial in self.ended if trial.state == TrialState.COMPLETE]
        return self.experiment(min(done, key=lambda trial: trial.value or 0.0)) if done else None


def _suggest(trial: Trial, key: str, values: Range) -> float:
    if values.step:
        return trial.suggest_int(key, int(values.low), int(values.high), step=values.step)
    return trial.suggest_float(key, values.low, values.high, log=values.log)


def _open(name: str, pruner: optuna.pruners.BasePruner) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = paths.repository_root() / paths.STATE / "optuna.db"
    uri = f"sqlite:///{path}"
    with locked(path.with_name("optuna.lock")):  # two processes that create the tables at once disturb each other
        storage = optuna.storages.RDBStorage(uri, engine_kwargs={"connect_args": {"timeout": 60}})
        study = optuna.create_study(
            storage=storage, study_name=name, direction="minimize", pruner=pruner, load_if_exists=True
        )
    # Another seed at every call: the same one would propose again what the calls before have tried. The constant
    # liar keeps trials that work side by side apart.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.get_trials(deepcopy=False)), constant_liar=True)
    return study


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """Two processes that drive one study would take each other's trials for lost."""
    path: Path = paths.repository_root() / paths.STATE / "sweeps" / f"{name}.lock"
    try:
        with locked(path, wait=False):
            yield
    except BlockingIOError:
        raise PipelineError(f"the sweep {name} is already being run by another process") from None
