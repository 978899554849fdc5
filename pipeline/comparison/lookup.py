"""What a person calls an experiment, and its files: in the working copy, in git and DVC's cache, or in MLflow."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import pandas as pd

from pipeline import paths
from pipeline.errors import PipelineError
from pipeline.experiments import (
    SHORT,
    branches_and_tags,
    files_of,
    find_experiment,
    find_revision,
    list_experiments,
)
from pipeline.files import read_json
from pipeline.reporting.compared import Evaluated
from pipeline.reporting.inputs import Predictions
from pipeline.reporting.verdict import HEADLINE_PROTOCOL
from pipeline.yaml_text import parse_yaml

WORKSPACE = "workspace"
"""DVC's own word for the working copy."""
HINTS = 3

Files = Callable[[Path], Path | None]


class Lookup:
    """Reads experiments by name, as a context manager that removes the copies of their files."""

    def __enter__(self) -> Self:
        self._held = ExitStack()
        self._runs: Any = None
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def read(self, name: str) -> Evaluated:
        """The evaluated experiment of this name. Raises `PipelineError` if there is none, or it has no results."""
        files, shown, origin, in_dvc = self._find(name)
        metrics_file, params_file = files(paths.METRICS), files(paths.PARAMS)
        if metrics_file is None:
            raise PipelineError(
                f"{name} ({origin}) has no {paths.METRICS}: it was not evaluated, or its results were not kept"
            )
        metrics = read_json(metrics_file)
        if not isinstance(metrics, dict) or HEADLINE_PROTOCOL not in metrics or "trained_on" not in metrics:
            raise PipelineError(f"{paths.METRICS} of {name} ({origin}) is of other code; evaluate it again")
        return Evaluated(
            shown,
            origin,
            name,
            in_dvc,
            metrics,
            (parse_yaml(params_file.read_text(encoding="utf-8")) or {}) if params_file else {},
            _table(files(paths.PER_IMAGE), dtype={"frame": str}),
            _table(files(paths.HISTORY)),
            None if (found := files(paths.PREDICTIONS)) is None else Predictions.read(found),
        )

    def _find(self, name: str) -> tuple[Files, str, str, bool]:
        """The files, a name for readers, where they are from, and whether DVC knows them by the name given."""
        if name == WORKSPACE:
            return _in_working_copy, name, "as it is here", True
        if (experiment := find_experiment(name)) is not None:
            files = self._held.enter_context(files_of(experiment))
            return files, name, f"DVC experiment, commit {experiment.rev[:SHORT]}", True
        if (commit := find_revision(name)) is not None:
            return self._held.enter_context(files_of(commit)), name, f"git commit {commit.rev[:SHORT]}", True
        try:
            run = self._stored_runs().find(name)
        except PipelineError as error:
            raise PipelineError(f"{name} is no DVC experiment and no git revision, and {error}") from error
        if run is not None:
            folder = Path(self._held.enter_context(TemporaryDirectory(prefix="depth-")))
            shown = f"{run.name} ({run.run_id[:SHORT]})" if name == run.run_id else name
            return run.files(folder), shown, f"MLflow run {run.run_id[:SHORT]}", False
        raise PipelineError(
            f"{name} is no DVC experiment, git revision or MLflow run; "
            + (
                f"is it {' or '.join(near)}?"
                if (near := self._nearest(name))
                else "`dvc exp show` lists experiments"
            )
        )

    def _stored_runs(self) -> Any:
        if self._runs is None:
            from pipeline.tracking.stored_runs import StoredRuns  # MLflow takes two seconds, and may not be needed

            self._runs = StoredRuns()
        return self._runs

    def _nearest(self, name: str) -> list[str]:
        known = [WORKSPACE, *(experiment.name for experiment in list_experiments()), *branches_and_tags()]
        return difflib.get_close_matches(name, dict.fromkeys([*known, *self._stored_runs().names]), HINTS)


def _in_working_copy(path: Path) -> Path | None:
    found = paths.repository_root() / path
    return found if found.is_file() else None


def _table(path: Path | None, **options: Any) -> pd.DataFrame | None:
    if path is None:
        return None
    try:
        return pd.read_csv(path, **options)
    except ValueError as error:  # pandas' own are, too
        raise PipelineError(f"{path.name} is damaged: {error}") from error
