"""Whatever DVC executes ends in one run: in the workspace, in copies, in queues, in parts, and after a failure."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest
import yaml

from tests.tracking.toy import ALL_FILES, CHECKPOINTS, Toy, is_training, stages_at_work, wait_until

INDEX = {
    "fingerprint": "f" * 64,
    "trained_on": "official train split",
    "source": "rooms",
    "height": 120,
    "width": 160,
    "splits": {split: {"frames": 7, "scenes": 2} for split in ("train", "val", "test")},
}


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Toy:
    """A repository in which much was executed. Tests that only look share it: each execution takes seconds."""
    toy = Toy(tmp_path_factory.mktemp("grown") / "toy")
    shutil.copy(empty_store, toy.root / "mlflow.db")
    (toy.root / "mlruns" / "0").mkdir(parents=True)  # of an MLflow of old, whose metadata would turn it to files
    (toy.root / "mlruns" / "0" / "meta.yaml").write_text("experiment_id: '0'\n", encoding="utf-8")
    index = toy.root / "data/shards/index.json"
    index.parent.mkdir(parents=True)
    index.write_text(json.dumps(INDEX), encoding="utf-8")
    toy.run("dvc", "repro")
    toy.client.update_run(toy.runs()["repro"].info.run_id, name="all stages")
    toy.run("dvc", "repro", "--force", "--single-item", "report")
    toy.client.update_run(toy.runs()["repro"].info.run_id, name="report only")
    toy.experiment("-S", "evaluate.examples=2")
    (unnamed,) = toy.run("dvc", "exp", "list", "--name-only").split()
    toy.client.update_run(toy.runs()[unnamed].info.run_id, name="unnamed")
    toy.experiment("--name", "copy", "--temp", "-S", "loss.ssim_weight=0.9")
    return toy


def test_all_stages_of_a_repro_share_one_run(grown: Toy) -> None:
    run = grown.runs()["all stages"]
    assert len(grown.runs()) == 4
    assert run.info.status == "FINISHED"
    assert run.data.params["loss.ssim_weight"] == "0.5"
    assert run.data.metrics["val/rmse"] == pytest.approx(1 + 0.5 / 3)
    assert run.data.metrics["test/full/rmse"] == run.data.metrics["test/eigen/rmse"] == 1.5
    assert run.data.metrics["test/full/aligned/delta1"] == 0.75
    assert (run.data.metrics["test/full/rmse_low"], run.data.metrics["test/full/rmse_high"]) == (1.0, 2.0)
    assert "test/full/aligned/sq_rel" not in run.data.metrics
    history = grown.client.get_metric_history(run.info.run_id, "train/loss/total")
    assert sorted((point.step, point.value) for point in history) == [(s, 0.5 + 1 / s) for s in range(1, 31)]
    assert grown.artifacts(run) == ALL_FILES
    assert {run.data.tags[f"stage.{stage}"] for stage in ("train", "evaluate", "report")} == {"executed"}
    assert {f"stage.{stage}.hash" for stage in ("train", "evaluate", "report")} <= set(run.data.tags)
    assert {"host", "torch"} <= set(run.data.tags)
    head = grown.run("git", "rev-parse", "HEAD").strip()
    assert run.data.tags["mlflow.source.git.commit"] == head


def test_a_second_repro_is_a_second_run_complete_although_it_only_reports(grown: Toy) -> None:
    run = grown.runs()["report only"]
    assert run.data.tags["training.run_id"] == grown.runs()["all stages"].info.run_id
    assert (run.data.tags["stage.evaluate"], run.data.tags["stage.report"]) == ("reused", "executed")
    assert run.data.metrics["test/full/rmse"] == 1.5
    assert grown.artifacts(run) == ALL_FILES


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("unnamed", "evaluate.examples", "2"), ("copy", "loss.ssim_weight", "0.9")],
    ids=["in the workspace", "in a copy"],
)
def test_an_experiment_has_its_run_in_the_store_of_the_root(grown: Toy, name: str, key: str, value: str) -> None:
    run = grown.runs()[name]
    assert run.info.status == "FINISHED"
    assert run.data.tags["dvc.experiment"] in grown.run("dvc", "exp", "list", "--name-only").split()
    assert (run.data.tags["dvc.experiment"] == name) == (name != "unnamed"), "DVC invented a name"
    head = grown.run("git", "rev-parse", "HEAD").strip()
    assert run.data.tags["dvc.baseline_rev"] == run.data.tags["mlflow.source.git.commit"] == head
    assert run.data.params[key] == value
    assert grown.artifacts(run) == ALL_FILES
    assert run.info.artifact_uri.startswith((grown.root / "mlartifacts").as_uri())


def test_an_experiment_that_only_evaluates_has_a_complete_run_linked_to_its_training(grown: Toy) -> None:
    training, run = grown.runs()["all stages"], grown.runs()["unnamed"]
    assert run.data.tags["training.run_id"] == training.info.run_id
    assert (run.data.tags["stage.train"], run.data.tags["stage.evaluate"]) == ("reused", "executed")
    assert run.data.metrics["val/rmse"] == training.data.metrics["val/rmse"]
    assert run.data.metrics["test/full/examples"] == 2
    assert grown.steps(run, "val/rmse") == [10, 20, 30]
    assert training.data.metrics["test/full/examples"] == 1, "the training's own run is as it was"


def test_what_dvc_itself_changes_does_not_make_the_tree_dirty(grown: Toy) -> None:
    assert {run.data.tags["git_dirty"] for run in grown.all_runs()} == {"false"}


@pytest.mark.parametrize("name", ["unnamed", "copy"])
def test_a_run_holds_dvc_lock_as_dvc_wrote_it_after_the_last_stage(grown: Toy, name: str) -> None:
    run = grown.runs()[name]
    refs = grown.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
    (ref,) = [ref for ref in refs if ref.endswith(f"/{run.data.tags['dvc.experiment']}")]
    assert grown.artifact(run, "dvc.lock") == grown.run("git", "show", f"{ref}:dvc.lock")
    entry = yaml.safe_load(grown.artifact(run, "dvc.lock"))["stages"]["report"]
    expected = hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
    assert run.data.tags["stage.report.hash"] == expected


def test_the_metadata_of_the_data_is_the_run_s_input(grown: Toy) -> None:
    run = grown.runs()["all stages"]
    inputs = {item.dataset.name: item for item in run.inputs.dataset_inputs}
    assert set(inputs) == {"rooms-train", "rooms-val", "rooms-test"}
    assert json.loads(inputs["rooms-train"].dataset.profile)["frames"] == 7
    assert inputs["rooms-train"].tags[0].value == "training"
    assert run.data.tags["data.fingerprint"] == "f" * 64


def test_eight_queued_experiments_of_four_workers_on_a_store_that_does_not_exist_lose_nothing(toy: Toy) -> None:
    (toy.root / "mlflow.db").unlink()
    weights = [f"0.{number}" for number in range(1, 9)]
    toy.experiment("--queue", "-S", f"loss.ssim_weight={','.join(weights)}", "-S", "tracking.group=weights")
    toy.start_queue(workers=4)
    wait_until(lambda: told_by_reports(toy.root / "mlflow.db") == 8, 280, "eight experiments report")
    wait_until(lambda: toy.run("dvc", "queue", "status").count("Success") == 8, 60, "eight experiments succeed")
    toy.settle()
    runs = toy.runs().values()
    assert sorted(run.data.params["loss.ssim_weight"] for run in runs) == weights
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["group"] for run in runs} == {"weights"}
    for run in runs:
        assert toy.steps(run) == list(range(1, 31))
        assert toy.artifacts(run) == ALL_FILES
        assert "stage.report.hash" in run.data.tags
    listed = toy.run("dvc", "exp", "list", "--name-only").split()
    assert sorted(listed) == sorted(toy.runs())


def told_by_reports(database: Path) -> int:
    """How many runs say that their report was made. Whoever asked MLflow would take part in making the store."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM tags WHERE key = 'stage.report'").fetchone()[0])
    except sqlite3.OperationalError:  # there is no such table yet
        return 0


# How it ends ---------------------------------------------------------------------------------------------


def test_a_failed_stage_leaves_a_failed_run_with_the_error_and_what_was_logged(toy: Toy) -> None:
    toy.experiment("--name", "nan", "-S", "train.fail=error", status=255)
    run = toy.runs()["nan"]
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "PipelineError: the loss became nan in epoch 3"
    assert run.data.metrics["train/loss/total"] == pytest.approx(0.5 + 1 / 30)
    assert toy.artifacts(run) >= CHECKPOINTS


def test_a_stage_that_ends_before_it_has_opened_the_run_fails_it(toy: Toy) -> None:
    toy.experiment("--name", "early", "-S", "evaluate.fail=import", status=255)
    run = toy.runs()["early"]
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "stage evaluate ended before it began to work; its output says why"
    assert run.data.tags["stage.train"] == "executed"


def test_kill_9_of_one_worker_s_stage_loses_no_other_run(toy: Toy) -> None:
    toy.experiment("--queue", "-S", "loss.ssim_weight=0.1,0.2", "-S", "train.pause_s=0.2")
    toy.start_queue(workers=2)
    wait_until(lambda: len(stages_at_work(toy, "train")) == 2 and is_training(toy), 60, "both train")
    victim = stages_at_work(toy, "train")[0]
    name = victim.environ()["DVC_EXP_NAME"]
    victim.kill()
    wait_until(lambda: told_by_reports(toy.root / "mlflow.db") == 1, 60, "the other reports")
    toy.settle()
    runs = toy.runs()
    assert runs.pop(name).info.status == "KILLED"
    (other,) = runs.values()
    assert other.info.status == "FINISHED"
    assert (toy.steps(other), toy.artifacts(other)) == (list(range(1, 31)), ALL_FILES)


def test_the_path_of_an_sqlite_store_counts_from_the_repository_s_root(toy: Toy) -> None:
    (toy.root / "mlflow.db").rename(toy.root / "own.db")
    toy.environment["MLFLOW_TRACKING_URI"] = "sqlite:///own.db"
    toy.experiment("--name", "copy", "--temp")
    toy.environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{toy.root / 'own.db'}"
    assert toy.runs()["copy"].info.status == "FINISHED"
    assert toy.artifacts(toy.runs()["copy"]) == ALL_FILES


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, "Terminated: SIGTERM"), (signal.SIGINT, "KeyboardInterrupt")]
)
def test_a_stopped_execution_is_killed(toy: Toy, number: int, error: str) -> None:
    process = toy.start("dvc", "exp", "run", "--name", "stopped", "-S", "train.pause_s=0.5", start_new_session=True)
    wait_until(lambda: is_training(toy), 60, "the training runs")
    os.killpg(process.pid, number)
    process.communicate(timeout=60)
    run = toy.runs()["stopped"]
    assert (run.info.status, run.data.tags["error"]) == ("KILLED", error)
