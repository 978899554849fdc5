"""Checkpoints that are kept in MLflow: of a run, or of a version of a registered model."""

from __future__ import annotations

from pathlib import Path

import mlflow

from pipeline import paths
from pipeline.errors import PipelineError
from pipeline.tracking.store import first_line, open_store, shown_uri, store_is_missing, store_uri
from pipeline.tracking.stored_runs import find_run

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
    run = find_run(client, model)
    if run is None:
        raise PipelineError(
            f"{model} is no file, and MLflow at {shown_uri()} has no run of this id or name; "
            "give a file, a run, or models:/NAME@ALIAS"
        )
    return run.needed(paths.BEST_CHECKPOINT, folder)


def _fetch_registered(model: str, folder: Path) -> Path:
    try:
        found = mlflow.artifacts.download_artifacts(
            artifact_uri=model, dst_path=str(folder), tracking_uri=store_uri(), registry_uri=store_uri()
        )
    except Exception as error:  # every kind of artifact store has its own
        raise PipelineError(f"{model} cannot be had from MLflow at {shown_uri()}: {first_line(error)}") from error
    checkpoints = sorted(Path(found).rglob("*.safetensors"))
    if len(checkpoints) != 1:
        raise PipelineError(
            f"{model} holds {len(checkpoints)} safetensors files; a depth model of this project holds one"
        )
    return checkpoints[0]
