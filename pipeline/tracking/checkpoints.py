"""Checkpoints that are kept in MLflow: of a run, or of a version of a registered model."""

from __future__ import annotations

from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from pipeline import paths
from pipeline.errors import PipelineError
from pipeline.tracking.records import ARTIFACTS
from pipeline.tracking.store import (
    first_line,
    open_store,
    search_runs,
    shown_uri,
    store_is_missing,
    store_uri,
    told,
)

REGISTRY = "models:/"


def fetch_checkpoint(model: str, folder: Path) -> Path:
    """Bring a model's safetensors file into `folder`. Nothing in it is run, nor any other file of the model looked
    at.

    model: `models:/NAME@ALIAS` or `models:/NAME/VERSION`, or the id or name of a run, of which the best checkpoint
    is taken (of several runs of one name that of the newest). Raises `PipelineError` if there is none.
    """
    if store_is_missing():
        raise PipelineError(f"{model} is no file, and there is no MLflow store at {shown_uri()} to look it up in")
    client = open_store()
    if model.startswith(REGISTRY):
        return _fetch_registered(model, folder)
    with told():
        run_id = run_id_of(client, model)
    if run_id is None:
        raise PipelineError(
            f"{model} is no file, and MLflow at {shown_uri()} has no run of this id or name; "
            "give a file, a run, or models:/NAME@ALIAS"
        )
    artifact = f"{dict(ARTIFACTS['train'])[paths.BEST_CHECKPOINT]}/{paths.BEST_CHECKPOINT.name}"
    try:
        return Path(client.download_artifacts(run_id, artifact, str(folder)))
    except Exception as error:  # every kind of artifact store has its own
        raise PipelineError(
            f"run {model} has no {artifact} (its training did not end?): {first_line(error)}"
        ) from error


def _fetch_registered(model: str, folder: Path) -> Path:
    try:
        found = mlflow.artifacts.download_artifacts(
            artifact_uri=model, dst_path=str(folder), tracking_uri=store_uri(), registry_uri=store_uri()
        )
    except Exception as error:  # as above
        raise PipelineError(f"{model} cannot be had from MLflow at {shown_uri()}: {first_line(error)}") from error
    checkpoints = sorted(Path(found).rglob("*.safetensors"))
    if len(checkpoints) != 1:
        raise PipelineError(
            f"{model} holds {len(checkpoints)} safetensors files; a depth model of this project holds one"
        )
    return checkpoints[0]


def run_id_of(client: mlflow.MlflowClient, name: str) -> str | None:
    """The id of the run that has this id or, else, the newest that has this name; None if there is none."""
    try:
        return str(client.get_run(name).info.run_id)
    except MlflowException:
        pass
    numbers = [found.experiment_id for found in client.search_experiments()]
    quoted = name.replace("'", "")  # no run of ours has one in its name, and MLflow's filter knows no escape
    runs = [run for number in numbers for run in search_runs(client, number, f"attributes.run_name = '{quoted}'")]
    runs = [run for run in runs if run.info.run_name == name]
    return str(max(runs, key=lambda run: run.info.start_time).info.run_id) if runs else None
