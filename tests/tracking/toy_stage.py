"""A stage of the toy repository of these tests: the pipeline's files and calls without its work."""

from __future__ import annotations

from pipeline.tracking import PipedRun, Run, stage_run, start_sender

if __name__ == "__main__":
    start_sender()

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from pipeline import paths
from pipeline.errors import PipelineError, reported_to_user
from pipeline.files import write_json, write_text, written_whole

EPOCHS = 3


def train(params: dict[str, Any], run: PipedRun) -> None:
    settings = params["train"]
    write_json(paths.RUN, {"run_id": run.run_id})
    weight = params["loss"]["ssim_weight"]
    for step in range(1, settings["steps"] + 1):
        run.log_metrics({"train/loss/total": weight + 1 / step}, step)
        time.sleep(settings["pause_s"])
        if step == settings["steps"] // 2 and settings["fail"] == "sender":
            os.kill(run.sender.process, 9)
    steps = settings["steps"] // EPOCHS
    rows = ["epoch,step,seconds,learning_rate,frames_per_s,train_loss_total,val_loss_total,val_rmse"]
    for epoch in range(1, EPOCHS + 1):
        rows.append(f"{epoch},{epoch * steps},1.5,0.001,100.0,{weight + 1 / epoch},{weight},{1 + weight / epoch}")
        run.log_metrics({"val/rmse": 1 + weight / epoch}, epoch * steps)
    write_text(paths.HISTORY, "\n".join(rows) + "\n")
    for path in (paths.BEST_CHECKPOINT, paths.LAST_CHECKPOINT):
        write_text(path, f"weights of {weight}")
    if settings["fail"] == "error":
        raise PipelineError("the loss became nan in epoch 3")
    if settings["fail"] == "memory":
        raise MemoryError("tried to allocate 40 GiB")
    if settings["fail"] in ("kill", "power cut"):
        time.sleep(0.5)  # what was told before is on its way by then
        if settings["fail"] == "power cut":
            os.kill(run.sender.process, 9)
        os.kill(os.getpid(), 9)


def evaluate(params: dict[str, Any], run: Run) -> None:
    weight = float(Path(paths.BEST_CHECKPOINT).read_text(encoding="utf-8").split()[-1])
    scores = {"rmse": 1 + weight, "delta1": 0.5, "examples": params["evaluate"]["examples"]}
    told = {"trained_on": "official train split", "source": "rooms", "frames": 4, "height": 24, "width": 32}
    more = {"aligned": {"full": {"delta1": 0.75, "sq_rel": 1.0}}, "intervals": {"full": {"rmse": [1.0, 2.0]}}}
    write_json(
        paths.METRICS,
        {"full": scores, "eigen": scores, "baseline_mean_map": {"full": {}, "eigen": {}}} | more | told,
    )
    rows = [f"{frame},office_0,office,{frame / 2 + weight}" for frame in range(4)]
    write_text(paths.PER_IMAGE, "\n".join(["frame,scene,scene_type,full_rmse", *rows]) + "\n")
    depth_mm = np.full((1, 1, 24, 32), 2000, np.int16)
    tensors = {"rgb_u8": np.zeros((1, 3, 24, 32), np.uint8), "depth_mm": depth_mm}
    tensors["prediction_mm"] = depth_mm + np.int16(1000 * weight)
    frames = [{"frame": "2", "scene": "office_0", "rank": "fixed", "rmse": 1 + weight}]
    with written_whole(paths.PREDICTIONS) as partial:
        save_file(tensors, partial, {"frames": json.dumps(frames)})


def report(params: dict[str, Any], run: Run) -> None:
    rmse = json.loads(paths.METRICS.read_text(encoding="utf-8"))["full"]["rmse"]
    write_text(paths.REPORT, f"<h1>{params['report']['title']}: {rmse}</h1>")


if __name__ == "__main__":
    stage = sys.argv[1]
    with reported_to_user(stage):
        params = yaml.safe_load(paths.PARAMS.read_text(encoding="utf-8"))
        if params[stage].get("fail") == "import":
            raise ImportError("no module of this name")
        with stage_run(stage, params) as run:
            {"train": train, "evaluate": evaluate, "report": report}[stage](params, run)
