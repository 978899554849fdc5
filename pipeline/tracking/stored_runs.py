"""Runs of the store by their ids and names, and the files of the pipeline that they hold."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline import paths
from pipeline.errors import PipelineError
from pipeline.tracking.records import ARTIFACTS, Files
from pipeline.tracking.store import first_line, open_store, search_runs, shown_uri, store_is_missing, told
from pipeline.tracking.sync import all_runs

PLACES = {paths.PARAMS: paths.PARAMS.name} | {
    path: f"{folder}/{path.name}" if folder else path.name
    for listed in ARTIFACTS.values()
    for path, folder in listed
}
"""Where each file of the pipeline lies among a run's artifacts."""


@dataclass(frozen=True)
class StoredRun:
    """A run of the store."""

    run_id: str
    name: str
    client: mlflow.MlflowClient

    @classmethod
    def of(cls, run: Run, client: mlflow.MlflowClient) -> StoredRun:
        return cls(str(run.info.run_id), str(run.info.run_name), client)

    def files(self, folder: Path) -> Files:
        """The files that the run holds, copied into `folder` as they are asked for; None for what it has not.

        To ask raises `PipelineError` if the store does not give them.
        """

        @functools.cache
        def held(within: str) -> set[str]:
            try:
                return {item.path for item in self.client.list_artifacts(self.run_id, within or None)}
            except Exception as error:  # every kind of artifact store has its own
                raise PipelineError(
                    f"the files of run {self.name} cannot be listed: {first_line(error)}"
                ) from error

        def fetch(path: Path) -> Path | None:
            place = PLACES.get(path)
            if place is None or place not in held(place.rpartition("/")[0]):
                return None
            try:
                return Path(self.client.download_artifacts(self.run_id, place, str(folder)))
            except Exception as error:  # as above
                where = f"{place} of run {self.name}"
                raise PipelineError(
                    f"{where} cannot be had from MLflow at {shown_uri()}: {first_line(error)}"
                ) from error

        return fetch

    def needed(self, path: Path, folder: Path) -> Path:
        """A copy in `folder` of a file. Raises `PipelineError` if the run has it not."""
        found = self.files(folder)(path)
        if found is None:
            raise PipelineError(
                f"run {self.name} has no {PLACES[path]}; the stage that leaves it did not end there"
            )
        return found


def find_run(client: mlflow.MlflowClient, name: str) -> StoredRun | None:
    """The run of this id or, else, the newest of this name; None if there is none, or it was deleted.

    Raises `PipelineError` if the store does not answer.
    """
    with told():
        try:
            runs = [client.get_run(name)]
        except MlflowException:
            quoted = name.replace("'", "")  # no run of ours has one in its name, and MLflow's filter has no escape
            where = f"attributes.run_name = '{quoted}'"
            numbers = [found.experiment_id for found in client.search_experiments()]
            runs = [run for number in numbers for run in search_runs(client, number, where)]
            runs = [run for run in runs if run.info.run_name == name]
    runs = [run for run in runs if run.info.lifecycle_stage == "active"]
    return StoredRun.of(max(runs, key=lambda run: run.info.start_time), client) if runs else None


class StoredRuns:
    """All runs of the store; without a store none. Raises `PipelineError` if it does not answer."""

    def __init__(self) -> None:
        self._client = None if store_is_missing() else open_store()

    @functools.cached_property
    def names(self) -> list[str]:
        if self._client is None:
            return []
        with told():
            return [str(run.info.run_name) for run in all_runs(self._client)]

    def find(self, name: str) -> StoredRun | None:
        """As `find_run` does."""
        return None if self._client is None else find_run(self._client, name)
