"""A run while its stage works: parameters, points, files and pictures, and how it ends."""

from __future__ import annotations

import io
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import PipelineError, Terminated
from pipeline.tracking.run import StageRun, flatten, open_run

PARAMS = {"seed": 3, "loss": {"ssim_weight": 0.5}, "fetch": {"nyu_v2": {"urls": ["a", "b"]}, "list": None}}


def start(stage: str = "train") -> StageRun:
    return open_run(stage, "depth", PARAMS)


def test_nested_parameters_get_the_names_that_dvc_uses() -> None:
    assert flatten(PARAMS) == {
        "seed": 3,
        "loss.ssim_weight": 0.5,
        "fetch.nyu_v2.urls": ["a", "b"],
        "fetch.list": None,
    }


def test_a_run_holds_every_parameter_and_where_it_comes_from(
    root: Path, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "brisk-otter")
    many = {"section": {f"key{index}": index for index in range(250)}}
    with open_run("train", "depth", {**PARAMS, **many}, group="weights") as started:
        assert store.get_run(started.run_id).info.status == "RUNNING"
    run = store.get_run(started.run_id)
    assert run.info.run_name == "brisk-otter"
    assert run.data.params == {
        "seed": "3",
        "loss.ssim_weight": "0.5",
        "fetch.nyu_v2.urls": "['a', 'b']",
        "fetch.list": "None",
        **{f"section.key{index}": str(index) for index in range(250)},
    }
    assert run.data.tags["dvc.experiment"] == "brisk-otter"
    assert run.data.tags["group"] == "weights"
    assert run.data.metrics["wall_s/train"] > 0
    assert run.data.tags["stage.train"] == "executed"


def test_points_arrive_with_their_steps_however_many_there_are(root: Path, store: mlflow.MlflowClient) -> None:
    with start() as run:
        for step in range(2500):
            run.log_metrics({"train/loss/total": step / 8}, step=step)
    history = store.get_metric_history(run.run_id, "train/loss/total")
    assert sorted((point.step, point.value) for point in history) == [(s, s / 8) for s in range(2500)]


def test_pictures_are_kept_as_mlflow_s_own_are(root: Path, store: mlflow.MlflowClient) -> None:
    picture = Image.fromarray(np.full((300, 900, 3), 128, np.uint8))
    png = io.BytesIO()
    picture.save(png, format="PNG")
    with start() as run:
        run.log_figure("predictions", png.getvalue(), step=20)
    store.log_image(run.run_id, picture, key="predictions", step=20)
    names = [Path(item.path).name for item in store.list_artifacts(run.run_id, "images")]
    stems = {name.split("+timestamp+")[0] for name in names}
    endings = sorted(name.rsplit("+", 1)[-1] for name in names if name.endswith(".webp"))
    assert (len(names), stems, endings) == (4, {"predictions+step+20"}, ["compressed.webp"] * 2)
    assert store.get_run(run.run_id).data.tags["mlflow.loggedImages"] == "True"
    assert not list((root / ".state" / "pictures").rglob("*.png")), "what was sent is not kept a second time"


def test_the_load_of_the_machine_is_logged(root: Path, store: mlflow.MlflowClient) -> None:
    import time

    with start() as run:
        time.sleep(2.5)
    metrics = store.get_run(run.run_id).data.metrics
    assert 0 < metrics["system/cpu_utilization_percentage"] <= 100
    assert metrics["system/system_memory_usage_megabytes"] > 0


@pytest.mark.parametrize(
    ("error", "status", "tag"),
    [
        (PipelineError("the loss became nan"), "FAILED", "PipelineError: the loss became nan"),
        (ValueError("x" * 9000), "FAILED", "ValueError: " + "x" * 4988),
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt"),
        (Terminated(15), "KILLED", "Terminated: SIGTERM"),
    ],
    ids=["error of the user's", "long text", "Ctrl-C", "polite kill"],
)
def test_a_run_tells_how_it_ended_and_keeps_what_was_logged_before(
    root: Path, store: mlflow.MlflowClient, error: BaseException, status: str, tag: str
) -> None:
    run = start()
    with pytest.raises(type(error)), run:
        run.log_metrics({"val/rmse": 1.5}, step=1)
        raise error
    found = store.get_run(run.run_id)
    assert found.info.status == status
    assert found.data.tags["error"] == tag
    assert found.data.metrics["val/rmse"] == 1.5
    assert "stage.train" not in found.data.tags


def test_a_later_stage_of_the_execution_goes_on_in_the_same_run(root: Path, store: mlflow.MlflowClient) -> None:
    with start("train") as first:
        first.log_metrics({"val/rmse": 1.0})
    with start("evaluate") as second:
        assert store.get_run(first.run_id).info.status == "RUNNING"
        second.log_metrics({"test/full/rmse": 0.5})
    assert second.run_id == first.run_id
    found = store.get_run(first.run_id)
    assert (found.data.metrics["val/rmse"], found.data.metrics["test/full/rmse"]) == (1.0, 0.5)
    assert found.info.status == "FINISHED"
