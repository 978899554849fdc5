"""What an ended experiment says of itself, from the files that its stages left in git and in DVC's cache."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Mapping
from typing import Any

from pipeline import paths
from pipeline.errors import PipelineError
from pipeline.experiments import Experiment
from pipeline.files import read_json
from pipeline.studies.record import Measured, Validation
from pipeline.tracking.records import Files
from pipeline.yaml_text import parse_yaml

PROTOCOLS = ("full", "eigen")
SCORES = ("rmse", "abs_rel", "delta1")
ENVIRONMENT = ("device", "gpu", "processor", "torch")


def measure(
    study: str,
    variant: str,
    seed: int,
    overrides: Mapping[str, Any],
    machine: Mapping[str, Any],
    experiment: Experiment,
    files: Files,
    run_id: str | None,
) -> Measured:
    """files: of the experiment. Raises `PipelineError` if it left no scores."""
    history, metrics, trained = files(paths.HISTORY), files(paths.METRICS), files(paths.RUN)
    if history is None or metrics is None:
        raise PipelineError(f"experiment {experiment.name} holds no {paths.HISTORY} or no {paths.METRICS}")
    with history.open(encoding="utf-8", newline="") as file:
        epochs = [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]
    scores = read_json(metrics)
    index_file, params_file = files(paths.SHARDS_INDEX), files(paths.PARAMS)
    params = parse_yaml(params_file.read_text(encoding="utf-8")) if params_file else {}
    environment = read_json(trained).get("environment", {}) if trained else {}
    index = read_json(index_file) if index_file else None
    return Measured(
        study=study,
        variant=variant,
        seed=seed,
        overrides=dict(overrides),
        machine=dict(machine),
        validation=_validation(epochs, params.get("evaluate", {}).get("checkpoint", "best")),
        test={
            protocol: {name: scores[protocol].get(name) for name in SCORES}
            for protocol in PROTOCOLS
            if protocol in scores
        },
        epochs=len(epochs),
        training_s=round(sum(epoch["seconds"] for epoch in epochs), 1),
        parameters=scores.get("parameters"),
        train_frames=_clean_frames(index, "train"),
        val_frames=_clean_frames(index, "val"),
        test_frames=scores.get("frames"),
        source=scores.get("source"),
        environment={name: environment[name] for name in ENVIRONMENT if name in environment},
        git_commit=experiment.baseline_rev,
        git_dirty=environment.get("git_dirty") == "true",
        experiment=experiment.name,
        run_id=run_id,
        date=time.strftime("%Y-%m-%d"),
    )


def _validation(epochs: list[dict[str, float]], checkpoint: str) -> Validation | None:
    known = [epoch for epoch in epochs if not math.isnan(epoch.get("val_rmse", math.nan))]
    if not known:
        return None
    scored = min(known, key=lambda epoch: epoch["val_rmse"]) if checkpoint == "best" else known[-1]
    delta1 = scored.get("val_delta1", math.nan)
    return Validation(scored["val_rmse"], None if math.isnan(delta1) else delta1, int(scored["epoch"]), checkpoint)


def _clean_frames(index: Mapping[str, Any] | None, split: str) -> int | None:
    if index is None:
        return None
    return sum(frame["copy"] == 0 for frame in index["splits"][split]["contents"])
