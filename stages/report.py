"""Stage `report`: what the other stages wrote, as one HTML file and its figures."""

from __future__ import annotations

from pipeline.tracking import PipedRun, stage_run, start_sender

if __name__ == "__main__":
    start_sender()  # it imports MLflow while the imports below go on here

import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from pipeline import paths
from pipeline.environment import git
from pipeline.errors import PipelineError, reported_to_user
from pipeline.files import read_json, write_text, written_whole
from pipeline.params import flatten, load_params
from pipeline.reporting import experiments
from pipeline.reporting.benchmarks import read_benchmarks
from pipeline.reporting.data_facts import data_facts
from pipeline.reporting.figures import draw_figures
from pipeline.reporting.html import render_report
from pipeline.reporting.inputs import Output, Predictions, ReportInputs
from pipeline.reporting.studies import measured_studies
from pipeline.reporting.training_figures import best_epoch
from pipeline.yaml_text import parse_yaml


def main() -> None:
    params = load_params()
    nested = params.model_dump()
    with stage_run("report", nested) as run:
        environment = read_json(paths.RUN)["environment"]
        data = data_facts(paths.SHARDS, nested["augment"], params.seed)
        metrics, history = read_json(paths.METRICS), pd.read_csv(paths.HISTORY)
        this, finished = row_of_this(run, nested, metrics, history), finished_runs(run, params.tracking.experiment)
        before = None if finished is None else experiments.previous(this, finished)
        before_metrics, before_per_image = files_of(run, this, before)
        today = time.strftime("%Y-%m-%d")
        inputs = ReportInputs(
            title=params.report.title,
            metrics=metrics,
            per_image=pd.read_csv(paths.PER_IMAGE, dtype={"frame": str}),
            history=history,
            predictions=Predictions.read(paths.PREDICTIONS),
            params=nested,
            environment=environment,
            data_fingerprint=data.fingerprint,
            run_id=run.run_id,
            experiments=None
            if finished is None
            else experiments.gather(this, finished, params.tracking.group, today),
            benchmarks=read_benchmarks(),
            studies=measured_studies(),
            data=data,
            this_run=this,
            previous_run=before,
            previous_metrics=before_metrics,
            previous_per_image=before_per_image,
            committed_params=committed_params(environment),
            outputs=list(locked_outputs()),
        )
        for name, png in draw_figures(inputs).items():
            with written_whole(paths.FIGURES / f"{name}.png") as partial:
                partial.write_bytes(png)
        write_text(paths.REPORT, render_report(inputs))


def finished_runs(run: PipedRun, experiment: str) -> pd.DataFrame | None:
    """The other finished runs of the store; None if it does not answer.

    What the store holds is no input that DVC knows of: a report that DVC restores from its cache shows the store
    as it was, and the page says of which day. A store that does not answer costs the page these parts only.
    """
    try:
        finished = run.finished_runs(experiment)
    except PipelineError as error:
        print(f"warning: the report leaves the other experiments out: {error}", file=sys.stderr)
        return None
    return finished[finished["run_id"] != run.run_id]


def files_of(
    run: PipedRun, this: Mapping[str, Any], before: Mapping[str, Any] | None
) -> tuple[dict[str, Any] | None, pd.DataFrame | None]:
    """What the run before scored, in all and on each test frame; None where it does not compare or is not kept."""
    if before is None or not experiments.same_data(before, this):
        return None, None
    try:
        with TemporaryDirectory(prefix="depth-") as folder:
            found = run.stored_files(str(before["run_id"]), (paths.METRICS, paths.PER_IMAGE), Path(folder))
            metrics, per_image = found
            if metrics is None or per_image is None:
                return None, None
            return read_json(metrics), pd.read_csv(per_image, dtype={"frame": str})
    except (PipelineError, ValueError, OSError) as error:
        print(f"warning: the report does not tell how sure the last change is: {error}", file=sys.stderr)
        return None, None


def row_of_this(
    run: PipedRun, params: Mapping[str, Any], metrics: Mapping[str, Any], history: pd.DataFrame
) -> dict[str, Any]:
    """This run as a row of the table of finished runs."""
    return {
        "run_id": run.run_id,
        "name": run.tags.get("mlflow.runName", run.run_id),
        "group": run.tags.get("group"),
        "training": run.tags.get("training.run_id", run.run_id),
        **{f"params.{name}": str(value) for name, value in flatten(params).items()},
        "val_rmse": math.nan if best_epoch(history) is None else history["val_rmse"].min(),
        "test_rmse": metrics["full"]["rmse"],
        "test_delta1": metrics["full"]["delta1"],
    }


def committed_params(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the commit that trained, from which an experiment's differ; empty where it is not known."""
    text = git("show", f"{commit}:{paths.PARAMS}") if (commit := environment.get("git_commit")) else ""
    return parse_yaml(text) or {}


def locked_outputs() -> Iterator[Output]:
    """What the stages before made, with DVC's hashes: it writes them down as each stage ends."""
    try:
        stages = (parse_yaml(paths.LOCK.read_text(encoding="utf-8")) or {}).get("stages", {})
    except FileNotFoundError:  # a stage was started without DVC
        return
    for stage in ("fetch", "preprocess", "train", "evaluate"):
        for out in stages.get(stage, {}).get("outs", ()):
            yield Output(stage, out["path"], out.get("md5", ""))


if __name__ == "__main__":
    with reported_to_user("report"):
        main()
