"""Runs of the store by their ids and names, and the files of the pipeline that they hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import Run

from pipeline import paths
from pipeline.errors import PipelineError
from pipeline.tracking.records import ARTIFACTS, Files
from pipeline.tracking.store import first_line, open_store, shown_uri, store_is_missing, told
from pipeline.tracking.sync import all_runs

AT_ROOT = {path for listed in ARTIFACTS.values() for path, folder in listed if folder is None} | {paths.PARAMS}
"""Files of the pipeline that lie among a run's artifacts by their names alone."""


@dataclass(frozen=True)
class StoredRun:
    """A run of the store."""

    run_id: str
    name: str
    client: mlflow.MlflowClient

    def files(self, folder: Path) -> Files:
        """The files that the run holds, copied into `folder` as they are asked for; None for what it has not.

        Raises `PipelineError` if the store does not give them.
        """
        try:
            held = {item.path for item in self.client.list_artifacts(self.run_id)}
        except Exception as error:  # every kind of artifact store has its own
            raise PipelineError(f"the files of run {self.name} cannot be listed: {first_line(error)}") from error

        def fetch(path: Path) -> Path | None:
            if path not in AT_ROOT or path.name not in held:
                return None
            try:
                return Path(self.client.download_artifacts(self.run_id, path.name, str(folder)))
            except Exception as error:  # as above
                where = f"{path.name} of run {self.name}"
                raise PipelineError(
                    f"{where} cannot be had from MLflow at {shown_uri()}: {first_line(error)}"
                ) from error

        return fetch


class StoredRuns:
    """All runs of the store, read once; without a store none. Raises `PipelineError` if it does not answer."""

    def __init__(self) -> None:
        self._runs: list[Run] = []
        if store_is_missing():
            return
        self._client = open_store()
        with told():
            self._runs = all_runs(self._client)

    @property
    def names(self) -> list[str]:
        return [str(run.info.run_name) for run in self._runs]

    def find(self, name: str) -> StoredRun | None:
        """The run of this id or, else, the newest of this name."""
        found = [run for run in self._runs if run.info.run_id == name]
        found = found or [run for run in self._runs if run.info.run_name == name]
        if not found:
            return None
        newest = max(found, key=lambda run: run.info.start_time)
        return StoredRun(str(newest.info.run_id), str(newest.info.run_name), self._client)
