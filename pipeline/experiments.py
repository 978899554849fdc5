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

from pipeline.environment import git
from pipeline.errors import PipelineError
from pipeline.paths import repository_root

SHORT = 7
"""Digits of a commit that are shown."""


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


def find_experiment(name: str) -> Experiment | None:
    """The experiment of this name; of several, at several commits, that of the present one.

    Raises `PipelineError` if none of several is of the present commit.
    """
    found = [experiment for experiment in list_experiments() if experiment.name == name]
    head = _git("rev-parse", "HEAD")
    found = [experiment for experiment in found if experiment.baseline_rev == head] or found
    if len(found) > 1:
        commits = ", ".join(experiment.rev[:SHORT] for experiment in found)
        raise PipelineError(f"{len(found)} DVC experiments are called {name}; name one by its commit: {commits}")
    return found[0] if found else None


def find_revision(name: str) -> Experiment | None:
    """The commit that git knows by this name, with the parameters and results that it holds."""
    rev = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    return Experiment(name, rev, rev) if rev else None


def branches_and_tags() -> list[str]:
    return _git("for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags").splitlines()


def _git(*arguments: str) -> str:
    return git("-C", str(repository_root()), *arguments)


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
