"""The process beside a stage that sends what it tells: what it takes from the stage, and who dies before whom."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
import yaml
from PIL import Image

from pipeline import paths
from pipeline.errors import PipelineError
from pipeline.files import write_json, write_text
from pipeline.tracking import dismiss_sender, stage_run, start_sender
from pipeline.tracking.compare import finished_rows
from pipeline.tracking.execution import has_ended, process_mark
from pipeline.tracking.kept import kept_entries
from pipeline.tracking.table import table_of
from tests.tracking.toy import TOY_PARAMS, Toy, senders, wait_until

ONE_RUN = """
import sys, yaml
from pipeline.tracking import stage_run
heavy = {"mlflow", "sqlalchemy", "alembic", "pandas"}
with stage_run("train", yaml.safe_load(open("params.yaml"))) as run:
    run.log_metrics({"loss": 0.5}, 1)
assert not (heavy | {"requests"}) & set(sys.modules), sys.modules.keys()
import stages.fetch, stages.preprocess, stages.train, stages.evaluate, stages.report
assert not (heavy - {"pandas"}) & set(sys.modules), sys.modules.keys()
"""

HELD_PIPE = """
import os, signal, sys, time, yaml
from pipeline.tracking import stage_run
with stage_run("train", yaml.safe_load(open("params.yaml"))) as run:
    if not os.fork():  # it has the pipe to the sender, too
        os.closerange(0, 3)
        time.sleep(60)
    print(run.run_id, flush=True)
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_gets_everything_through_the_pipe_and_its_sender_heeds_no_signal(
    root: Path, store: mlflow.MlflowClient, capfd: pytest.CaptureFixture[str]
) -> None:
    png = io.BytesIO()
    Image.new("RGB", (64, 48)).save(png, "PNG")
    with stage_run("train", TOY_PARAMS) as run:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(run.sender.process, number)
        run.log_figure("predictions", png.getvalue(), 1)
        os.kill(run.sender.process, signal.SIGSTOP)  # nobody reads the pipe, and nobody waits for that
        for step in range(5000):
            run.log_metrics({"train/loss/total": step / 8, "nothing": float("nan")}, step)
        os.kill(run.sender.process, signal.SIGCONT)
        assert run.finished_runs("depth").empty
        time.sleep(1.5)
    found = store.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params["loss.ssim_weight"] == "0.5"
    assert found.data.tags["owner"].split(":")[-2] == str(os.getpid())
    assert found.data.metrics["wall_s/train"] > 1.5
    history = store.get_metric_history(run.run_id, "train/loss/total")
    assert sorted((point.step, point.value) for point in history) == [(s, s / 8) for s in range(5000)]
    assert len(store.list_artifacts(run.run_id, "images")) == 2
    assert 0 < found.data.metrics["system/cpu_utilization_percentage"] <= 100
    assert found.data.metrics["system/system_memory_usage_megabytes"] > 0
    assert not psutil.pid_exists(run.sender.process)
    assert not list((root / ".state").rglob("*.png"))
    with stage_run("report", TOY_PARAMS) as later:
        assert later.run_id == run.run_id
        assert later.tags["stage.train"] == "executed"
        store.set_terminated(later.run_id, "FINISHED")
        assert later.finished_runs("depth").empty, "a training alone is no experiment to compare with"
        store.log_metric(later.run_id, "test/full/rmse", 0.5)
        table = later.finished_runs("depth")
        assert list(table["run_id"]) == [run.run_id]
        assert table.equals(table_of(finished_rows("depth")))
        store.log_text(run.run_id, "frame,full_rmse\n1,0.5\n", "per_image.csv")
        metrics, per_image = later.stored_files(run.run_id, (paths.METRICS, paths.PER_IMAGE), root)
        assert metrics is None
        assert per_image is not None and per_image.read_text() == "frame,full_rmse\n1,0.5\n"
        with pytest.raises(PipelineError, match="cannot be listed"):
            later.stored_files("0" * 32, (paths.METRICS,), root)
    assert capfd.readouterr().err == ""


def test_a_stage_that_fails_tells_its_own_error_and_nothing_of_what_lay_there_before(
    root: Path, store: mlflow.MlflowClient
) -> None:
    write_json(paths.METRICS, {"full": {"rmse": 1.0}, "baseline_mean_map": {"full": {}}})
    write_text(paths.PER_IMAGE, "frame,full_rmse\n")
    for path in (paths.METRICS, paths.PER_IMAGE):
        os.utime(path, (time.time() - 60, time.time() - 60))
    with pytest.raises(ValueError, match="its own"), stage_run("evaluate", TOY_PARAMS) as run:
        raise ValueError("its own")
    assert {item.path for item in store.list_artifacts(run.run_id)} == {"params.yaml"}
    assert "test/full/rmse" not in store.get_run(run.run_id).data.metrics
    with pytest.raises(ValueError, match="its own"), stage_run("evaluate", TOY_PARAMS) as run:
        paths.METRICS.write_text("{ damaged", encoding="utf-8")
        raise ValueError("its own")
    assert store.get_run(run.run_id).data.tags["error"] == "ValueError: its own"


def test_a_sender_that_nobody_needs_ends(root: Path) -> None:
    before = set(psutil.Process().children())
    start_sender()
    (sender,) = set(psutil.Process().children()) - before
    mark = process_mark(sender.pid)
    dismiss_sender()
    wait_until(lambda: has_ended(mark), 30, "it ends")
    assert not (root / ".state" / "executions").exists()


# Who dies before whom -------------------------------------------------------------------------------------


class Ended:
    """A repository in which stages, their senders, and both were killed."""

    def __init__(self, root: Path, store: Path) -> None:
        self.toy = Toy(root)
        shutil.copy(store, root / "mlflow.db")
        self.output: dict[str, str] = {}
        self.statuses: dict[str, str] = {}
        self.kept: dict[str, int] = {}
        for name, fail, status in (("stage", "kill", -9), ("both", "power cut", -9), ("sender", "sender", 0)):
            self.train(name, fail, status)
        self.train("memory", "memory", 1)
        self.train("next", "", 0)

    def train(self, name: str, fail: str, status: int) -> None:
        params: dict[str, Any] = TOY_PARAMS | {"train": TOY_PARAMS["train"] | {"fail": fail}}
        (self.toy.root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        self.toy.environment["DVC_EXP_NAME"] = name
        self.output[name] = self.toy.run("python", "toy_stage.py", "train", status=status)
        run = self.toy.runs()[name]
        self.statuses[name] = run.info.status
        self.kept[name] = len(kept_entries(self.toy.root / ".state" / "outbox" / run.info.run_id))


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Ended:
    return Ended(tmp_path_factory.mktemp("ended") / "toy", empty_store)


def test_a_stage_that_is_killed_has_its_run_closed_at_once_with_all_that_it_told(ended: Ended) -> None:
    assert ended.statuses["stage"] == "KILLED"
    run = ended.toy.runs()["stage"]
    assert run.data.tags["error"] == "stage train ended without a word (kill -9)"
    assert "stage.train" not in run.data.tags
    assert ended.toy.steps(run) == list(range(1, 31))
    assert ended.toy.steps(run, "val/rmse") == [10, 20, 30]


def test_a_stage_without_memory_fails_its_run(ended: Ended) -> None:
    assert ended.statuses["memory"] == "FAILED"
    assert ended.toy.runs()["memory"].data.tags["error"] == "MemoryError: tried to allocate 40 GiB"


def test_a_power_cut_leaves_a_run_that_the_next_start_closes(ended: Ended) -> None:
    assert ended.statuses["both"] == "RUNNING"
    run = ended.toy.runs()["both"]
    assert run.info.status == "KILLED"
    assert run.data.tags["error"] == "stage train ended without a word (kill -9, power cut)"


def test_a_stage_whose_sender_is_killed_goes_on_and_the_next_start_sends_what_it_told(ended: Ended) -> None:
    assert ended.statuses["sender"] == "RUNNING"
    assert ended.kept["sender"] > 0
    (warning,) = ended.output["sender"].splitlines()
    assert warning.startswith("warning: the process that speaks to MLflow has ended before its time")
    run = ended.toy.runs()["sender"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["stage.train"] == "executed"
    assert "error" not in run.data.tags
    assert ended.toy.steps(run) == list(range(1, 31)), "nothing lost, nothing doubled"
    assert {"checkpoints/best.safetensors", "history.csv"} <= ended.toy.artifacts(run)


def test_no_sender_and_no_unsent_call_is_left(ended: Ended) -> None:
    assert ended.statuses["next"] == "FINISHED"
    assert ended.output["next"] == ""
    assert senders(ended.toy.root) == []
    assert not list((ended.toy.root / ".state" / "outbox").glob("*/*.json"))


def test_a_stage_imports_nothing_of_mlflow_into_its_own_process(ended: Ended) -> None:
    ended.toy.environment["DVC_EXP_NAME"] = "light"
    ended.toy.run(sys.executable, "-c", ONE_RUN)
    assert ended.toy.runs()["light"].info.status == "FINISHED"


def test_a_child_that_outlives_a_killed_stage_does_not_keep_the_run_open(ended: Ended) -> None:
    ended.toy.environment["DVC_EXP_NAME"] = "held"
    run_id = ended.toy.run(sys.executable, "-c", HELD_PIPE, status=-9).strip()
    assert ended.toy.client.get_run(run_id).info.status == "KILLED"
    for process in psutil.process_iter(["cmdline"]):
        if HELD_PIPE in (process.info["cmdline"] or []):
            process.kill()
