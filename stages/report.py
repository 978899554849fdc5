"""Stage `report`: what the other stages wrote, as one HTML file and its figures."""

from __future__ import annotations

import json

import pandas as pd
from safetensors import safe_open

from pipeline import paths
from pipeline.data.shards import read_index
from pipeline.errors import reported_to_user
from pipeline.files import read_json, write_text, written_whole
from pipeline.params import load_params
from pipeline.reporting.figures import draw_figures
from pipeline.reporting.html import render_report
from pipeline.reporting.inputs import Predictions, ReportInputs
from pipeline.tracking import stage_run


def main() -> None:
    params = load_params()
    with stage_run("report", params.model_dump()):
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
            run_id=origin["run_id"],
        )
        for name, png in draw_figures(inputs).items():
            with written_whole(paths.FIGURES / f"{name}.png") as partial:
                partial.write_bytes(png)
        write_text(paths.REPORT, render_report(inputs))


def read_predictions() -> Predictions:
    with safe_open(paths.PREDICTIONS, framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in ("rgb_u8", "depth_mm", "prediction_mm")}
        return Predictions(**tensors, frames=json.loads(file.metadata()["frames"]))


if __name__ == "__main__":
    with reported_to_user("report"):
        main()
