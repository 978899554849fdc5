"""A run while its stage works: parameters, points, files and pictures, how it ends, and who goes on in it."""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import PipelineError, Terminated
from pipeline.params import flatten
from pipeline.tracking.compare import Results
from pipeline.tracking.opening import Opening, Origin, close_abandoned, open_run
from pipeline.tracking.run import StageRun
from pipeline.tracking.store import experiment_id
from pipeline.tracking.tags import group_tags

PARAMS = {"seed": 3, "loss": {"ssim_weight": 0.5}, "fetch": {"nyu_v2": {"urls": ["a", "b"]}, "list": None}}


def start(stage: str = "train", params: dict = PARAMS, resume: str | None = None) -> StageRun:
    return open_run(Opening(stage, "depth", params, resume=resume))


def picture(width: int = 900, height: int = 300) -> bytes:
    png = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 128, np.uint8)).save(png, format="PNG")
    return png.getvalue()


def test_nested_parameters_get_the_names_that_dvc_uses() -> None:
    assert flatten(PARAMS) == {
        "seed": 3,
        "loss.ssim_weight": 0.5,
        "fetch.nyu_v2.urls": ["a", "b"],
        "fetch.list": None,
    }


def test_runs_that_differ_in_the_seed_share_a_group_and_others_do_not() -> None:
    same, other = PARAMS | {"seed": 4}, PARAMS | {"loss": {"ssim_weight": 0.7}}
    assert group_tags(PARAMS, None) == group_tags(same, None) != group_tags(other, None)
    there, here = (
        {"train": {"device": name, "epochs": 3}, "evaluate": {"device": name}} for name in ("cpu", "cuda")
    )
    assert group_tags(there, None) == group_tags(here, None), "where it is computed makes no difference"
    longer = here | {"train": {"device": "cuda", "epochs": 4}}
    assert group_tags(longer, None) != group_tags(here, None)
    assert group_tags(PARAMS, "weights") == group_tags(other, "weights") == {"group": "weights"}


def test_a_run_holds_every_parameter_and_where_it_comes_from(
    root: Path, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "brisk-otter")
    many = {"section": {f"key{index}": index for index in range(250)}}
    with open_run(Opening("train", "depth", {**PARAMS, **many}, group="weights")) as started:
        assert store.get_run(started.run_id).info.status == "RUNNING"
    run = store.get_run(started.run_id)
    assert run.info.run_name == started.tags["mlflow.runName"] == "brisk-otter"
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


def test_pictures_are_kept_as_mlflow_s_own_are(root: Path, store: mlflow.MlflowClient, tmp_path: Path) -> None:
    with start() as run:
        run.log_figure("predictions", picture(), step=20)
    store.log_image(run.run_id, Image.open(io.BytesIO(picture())), key="predictions", step=20)
    names = [Path(item.path).name for item in store.list_artifacts(run.run_id, "images")]
    stems = {name.split("+timestamp+")[0] for name in names}
    endings = sorted(name.rsplit("+", 1)[-1] for name in names if name.endswith(".webp"))
    assert (len(names), stems, endings) == (4, {"predictions+step+20"}, ["compressed.webp"] * 2)
    assert store.get_run(run.run_id).data.tags["mlflow.loggedImages"] == "True"
    (small,) = [name for name in names if name.endswith(".webp") and run.run_id[:8] in name]
    copy = store.download_artifacts(run.run_id, f"images/{small}", str(tmp_path))
    assert Image.open(copy).size == (256, 85)
    assert not list((root / ".state" / "pictures").rglob("*.png")), "what was sent is not kept a second time"


@pytest.mark.parametrize(
    ("error", "status", "tag"),
    [
        (PipelineError("the loss became nan"), "FAILED", "PipelineError: the loss became nan"),
        (ValueError("x" * 9000), "FAILED", "ValueError: " + "x" * 4988),
        (MemoryError("tried to allocate 40 GiB"), "FAILED", "MemoryError: tried to allocate 40 GiB"),
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt"),
        (Terminated(15), "KILLED", "Terminated: SIGTERM"),
    ],
    ids=["error of the user's", "long text", "out of memory", "Ctrl-C", "polite kill"],
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


# An interrupted training ----------------------------------------------------------------------------------

POINTS = [(step, 1 / step, 1_700_000_000_000 + step) for step in range(1, 31)]
"""Step, value, and when it came."""


def tell(run: StageRun, steps: int) -> None:
    for step, value, time_ms in POINTS[:steps]:
        run.log_metrics({"train/loss/total": value}, step, time_ms=time_ms)
        if step % 10 == 0:
            run.log_figure("predictions", picture(60, 20), step, time_ms=time_ms)


@pytest.fixture
def interrupted(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of the run of a training that was stopped after twenty points."""
    monkeypatch.setenv("DVC_EXP_NAME", "first-attempt")
    run = start()
    with pytest.raises(KeyboardInterrupt), run:
        tell(run, 20)
        raise KeyboardInterrupt
    monkeypatch.setenv("DVC_EXP_NAME", "second-attempt")
    return run.run_id


def test_a_resumed_training_goes_on_in_its_own_run_and_nothing_is_doubled(
    interrupted: str, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store.get_run(interrupted)
    assert before.data.tags["error"] == "KeyboardInterrupt"
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "b" * 40)
    with start(resume=interrupted) as resumed:
        assert store.get_run(interrupted).info.status == "RUNNING"
        tell(resumed, 30)
    with start("evaluate") as later:
        later.log_metrics({"test/full/rmse": 0.5})
    assert interrupted == resumed.run_id == later.run_id
    (run,) = store.search_runs([before.info.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.start_time == before.info.start_time
    assert run.info.run_name == resumed.tags["mlflow.runName"] == "second-attempt"
    assert (run.data.tags["dvc.experiment"], run.data.tags["dvc.baseline_rev"]) == ("second-attempt", "b" * 40)
    assert run.data.tags["execution"] != before.data.tags["execution"]
    assert not {"error", "resumed_from"} & set(run.data.tags)
    history = store.get_metric_history(interrupted, "train/loss/total")
    assert sorted((point.step, point.value, point.timestamp) for point in history) == POINTS
    assert len(store.list_artifacts(interrupted, "images")) == 2 * 3


def test_with_other_parameters_a_resumed_training_has_a_new_run_that_names_the_old(
    interrupted: str, store: mlflow.MlflowClient
) -> None:
    with start(params=PARAMS | {"report": {"title": "other"}}, resume=interrupted) as resumed:
        tell(resumed, 30)
    assert resumed.run_id != interrupted
    run = store.get_run(resumed.run_id)
    assert run.data.tags["resumed_from"] == interrupted
    assert len(store.get_metric_history(resumed.run_id, "train/loss/total")) == 30
    assert store.get_run(interrupted).info.status == "KILLED"


def test_an_execution_that_has_a_run_stays_in_it_when_its_training_is_resumed(
    interrupted: str, store: mlflow.MlflowClient
) -> None:
    with start("preprocess") as first:
        pass
    with start("train", resume=interrupted) as resumed:
        pass
    assert resumed.run_id == first.run_id
    assert store.get_run(first.run_id).data.tags["resumed_from"] == interrupted


def test_a_run_that_is_gone_is_not_gone_on_with(interrupted: str, store: mlflow.MlflowClient) -> None:
    store.delete_run(interrupted)
    with start(resume=interrupted) as resumed:
        pass
    assert resumed.run_id != interrupted
    assert store.get_run(resumed.run_id).info.status == "FINISHED"


def test_a_run_in_which_another_process_works_is_left_to_it(
    root: Path, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "at-work")
    with start() as other:
        monkeypatch.setenv("DVC_EXP_NAME", "second")
        with start(resume=other.run_id) as run:
            assert run.run_id != other.run_id


def test_a_run_whose_processes_a_power_cut_ended_is_closed_and_can_be_gone_on_with(
    root: Path, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "cut")
    with start() as cut:
        tell(cut, 10)
    owner = cut.tags["owner"]
    for tag in ("owner", "sender"):  # of the process that had this number before the machine's last start
        store.set_tag(cut.run_id, tag, owner.rsplit(":", 1)[0] + ":00000000-1")
    store.update_run(cut.run_id, status="RUNNING")
    monkeypatch.setenv("DVC_EXP_NAME", "anything")
    with start("evaluate"):
        found = store.get_run(cut.run_id)
        assert found.info.status == "KILLED"
        assert found.data.tags["error"] == "stage train ended without a word (kill -9, power cut)"
    monkeypatch.setenv("DVC_EXP_NAME", "again")
    with start(resume=cut.run_id) as resumed:
        assert resumed.run_id == cut.run_id
    assert str(os.getpid()) in owner


def test_a_run_that_somebody_deletes_meanwhile_stops_no_start(root: Path, store: mlflow.MlflowClient) -> None:
    class Slow(mlflow.MlflowClient):
        """Whose runs are deleted as soon as they are found."""

        def search_runs(self, *arguments: Any, **options: Any) -> Any:
            found = super().search_runs(*arguments, **options)
            for run in found:
                self.delete_run(run.info.run_id)
            return found

    number = experiment_id(store, "depth")
    run = store.create_run(number, tags={"owner": f"{platform.node()}:1:00000000-1"})
    close_abandoned(Slow(store.tracking_uri, store.tracking_uri), number)
    assert store.get_run(run.info.run_id).info.lifecycle_stage == "deleted"


TIDYING = """
import sys
from pipeline.tracking.opening import Origin
print("ready", flush=True)
sys.stdin.readline()
Origin("0" * 32, 0, "command").write(sys.argv[1])
"""


def test_two_starts_at_once_both_tidy_away_what_ended_executions_left(root: Path) -> None:
    ended = Origin("0" * 32, 0, f"{platform.node()}:1:00000000-1")
    (root / ".state/executions").mkdir(parents=True)
    for number in range(1000):
        (root / f".state/executions/{number}.json").write_text(json.dumps(asdict(ended)), encoding="utf-8")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [subprocess.Popen([sys.executable, "-c", TIDYING, key], text=True, **pipes) for key in ("a", "b")]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
    assert len(list((root / ".state/executions").iterdir())) == 2
    assert Origin.read("a") == Origin.read("b") == Origin("0" * 32, 0, "command")


def test_runs_are_found_whatever_the_repository_s_folder_is_called(
    tmp_path: Path, empty_store: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "it's 100%_mine"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.setenv("DVC_EXP_NAME", "first")
    with start() as run:
        pass
    results = Results("depth")
    assert results.find("first").run_id == run.run_id
    results.tag(run.run_id, {"repository": "0123@far:/clones/first-000"})
    assert results.find("first", "first-000").run_id == run.run_id
    assert results.find("first", "first_000") is results.find("first") is None
