"""DVC's experiments: their names and the files in them. Beside this only `sweeps/queue.py` knows DVC."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.repo import Repo
from scmrepo.exceptions import SCMError

from pipeline.errors import PipelineError
from pipeline.paths import repository_root


@dataclass(frozen=True)
class Experiment:
    """An experiment that `dvc exp show --all-commits` lists."""

    name: str
    baseline_rev: str
    """the commit that it starts from"""
    rev: str
    """the commit that holds its parameters and results"""


def list_experiments() -> list[Experiment]:
    """The experiments of the repository, of all commits, finished ones only."""
    try:
        with Repo(str(repository_root())) as repo:
            found = repo.experiments.ls(all_commits=True)
    except (DvcException, SCMError) as error:
        raise PipelineError(f"the experiments of {repository_root()} cannot be listed: {error}") from error
    return [Experiment(name, baseline, rev) for baseline, listed in found.items() for name, rev in listed if rev]


class ExperimentFiles:
    """The files of an experiment, from git or from DVC's cache, as a function of their path."""

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        """folder: where copies are put."""
        self._files = DVCFileSystem(str(repository_root()), rev=experiment.rev)
        self._folder = folder

    def __call__(self, path: Path) -> Path | None:
        """A copy of the file; None if the experiment does not have it, or the cache does not any more."""
        copy = self._folder / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._files.get_file(path.as_posix(), str(copy))
        except (OSError, DvcException):
            copy.unlink(missing_ok=True)
            return None
        return copy


@contextlib.contextmanager
def files_of(experiment: Experiment) -> Iterator[ExperimentFiles]:
    """The experiment's files, copied to a folder that is removed afterwards."""
    with TemporaryDirectory(prefix="depth-") as folder:
        yield ExperimentFiles(experiment, Path(folder))
