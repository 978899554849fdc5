"""Stage `report`: what the other stages wrote, as one HTML file and its figures."""

from __future__ import annotations

from pipeline.tracking import PipedRun, stage_run, start_sender

if __name__ == "__main__":
    start_sender()  # it imports MLflow while the imports below go on here

import json
import math
import sys
import time
from dataclasses import replace

import pandas as pd
from safetensors import safe_open

from pipeline import paths
from pipeline.data.shards import read_index
from pipeline.errors import PipelineError, reported_to_user
from pipeline.files import read_json, write_text, written_whole
from pipeline.params import flatten, load_params
from pipeline.reporting import figures
from pipeline.reporting.benchmarks import read_benchmarks
from pipeline.reporting.experiments import gather
from pipeline.reporting.figures import draw_figures
from pipeline.reporting.html import render_report
from pipeline.reporting.inputs import Experiments, Predictions, ReportInputs


def main() -> None:
    params = load_params()
    with stage_run("report", params.model_dump()) as run:
        origin = read_json(paths.RUN)
        inputs = ReportInputs(
            title=params.report.title,
            metrics=read_json(paths.METRICS),
            per_image=pd.read_csv(paths.PER_IMAGE, dtype={"frame": str}),
            history=pd.read_csv(paths.HISTORY),
            predictions=read_predictions(),
            params=params.model_dump(),
            environment=origin["environment"],
            data_fingerprint=read_index(paths.SHARDS)["fingerprint"],
            run_id=run.run_id,
            benchmarks=read_benchmarks(),
        )
        inputs = replace(inputs, experiments=compare_with_store(inputs, run))
        for name, png in draw_figures(inputs).items():
            with written_whole(paths.FIGURES / f"{name}.png") as partial:
                partial.write_bytes(png)
        write_text(paths.REPORT, render_report(inputs))


def compare_with_store(inputs: ReportInputs, run: PipedRun) -> Experiments | None:
    """The other finished runs, if there are any to compare with.

    What the store holds is no input that DVC knows of: a report that DVC restores from its cache shows the store
    as it was, and the page says of which day. A store that does not answer costs the page this section only.
    """
    tracking = inputs.params["tracking"]
    try:
        finished = run.finished_runs(tracking["experiment"])
    except PipelineError as error:
        print(f"warning: the report leaves the other experiments out: {error}", file=sys.stderr)
        return None
    best = figures.best_epoch(inputs.history)
    this = {
        "run_id": run.run_id,
        "name": run.tags.get("mlflow.runName", run.run_id),
        "group": run.tags.get("group"),
        "training": run.tags.get("training.run_id", run.run_id),
        **{f"params.{name}": str(value) for name, value in flatten(inputs.params).items()},
        "val_rmse": math.nan if best is None else inputs.history["val_rmse"].min(),
        "test_rmse": inputs.metrics["full"]["rmse"],
        "test_delta1": inputs.metrics["full"]["delta1"],
    }
    others = finished[finished["run_id"] != run.run_id]
    return gather(this, others, tracking["group"], time.strftime("%Y-%m-%d"))


def read_predictions() -> Predictions:
    with safe_open(paths.PREDICTIONS, framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in ("rgb_u8", "depth_mm", "prediction_mm")}
        return Predictions(**tensors, frames=json.loads(file.metadata()["frames"]))


if __name__ == "__main__":
    with reported_to_user("report"):
        main()
