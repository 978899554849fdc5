"""A team's MLflow server, DVC remote and clones: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import copy
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import requests
import yaml

from tests.server.services import SETTINGS, Postgres, TeamServer
from tests.tracking.toy import ALL_FILES, Toy, is_training, stages_at_work, wait_until

STEPS = 150
RUNS = "SELECT runs.name FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = 'depth'"
COMPLETE = f"""{RUNS} AND status = 'FINISHED' AND run_uuid IN
    (SELECT run_uuid FROM tags WHERE key = 'stage.report' AND value = 'executed')"""


def assert_complete(toy: Toy, run: mlflow.entities.Run, steps: int = 30) -> None:
    assert run.info.status == "FINISHED"
    weight = float(run.data.params["loss.ssim_weight"])
    history = toy.client.get_metric_history(run.info.run_id, "train/loss/total")
    assert sorted((point.step, point.value) for point in history) == [
        (s, weight + 1 / s) for s in range(1, steps + 1)
    ]
    assert run.data.metrics["val/rmse"] == pytest.approx(1 + weight / 3)
    assert run.data.metrics["test/full/rmse"] == run.data.metrics["test/eigen/rmse"] == 1 + weight
    assert toy.artifacts(run) == ALL_FILES


def test_an_experiment_is_in_the_database_and_its_files_in_the_bucket(
    toy: Toy, server: TeamServer, tmp_path: Path
) -> None:
    toy.experiment("--name", "shared", "-S", "loss.ssim_weight=0.7")
    run = toy.runs()["shared"]
    assert_complete(toy, run)
    params = yaml.safe_load((toy.root / "params.yaml").read_text(encoding="utf-8"))
    assert run.data.params["train.steps"] == str(params["train"]["steps"])
    assert server.select(COMPLETE) == [("shared",)]

    kept = server.objects.files("mlflow", run.info.run_id)
    assert {key.partition("/artifacts/")[2] for key in kept} == ALL_FILES
    trained = (toy.root / "models/best.safetensors").read_bytes()
    (key,) = [key for key in kept if key.endswith("checkpoints/best.safetensors")]
    assert kept[key] == trained
    downloaded = toy.client.download_artifacts(run.info.run_id, "checkpoints/best.safetensors", str(tmp_path))
    assert Path(downloaded).read_bytes() == trained
    assert not (toy.root / "mlartifacts").exists()
    assert not (toy.root / "mlflow.db").exists()


def test_the_server_refuses_names_that_are_not_its_own(server: TeamServer) -> None:
    search = f"{server.uri}/api/2.0/mlflow/experiments/search"
    for host, status in (("mlflow.example.com:5000", 200), ("elsewhere.example.org", 403)):
        answer = requests.post(search, json={"max_results": 1}, headers={"Host": host}, timeout=10)
        assert answer.status_code == status, host


def add_remote(toy: Toy, endpoint: str) -> None:
    """As the README says."""
    toy.run("dvc", "remote", "add", "--default", "team", "s3://dvc")
    toy.run("dvc", "remote", "modify", "team", "endpointurl", endpoint)
    toy.run("git", "add", ".dvc/config")


def add_keys(toy: Toy) -> None:
    toy.run("dvc", "remote", "modify", "--local", "team", "access_key_id", SETTINGS["S3_ACCESS_KEY"])
    toy.run("dvc", "remote", "modify", "--local", "team", "secret_access_key", SETTINGS["S3_SECRET_KEY"])


def test_what_one_pushes_another_pulls_and_need_not_run(toy: Toy, server: TeamServer, tmp_path: Path) -> None:
    toy.experiment("--name", "first")
    add_remote(toy, server.objects.url)
    add_keys(toy)
    toy.run("git", "add", ".")
    toy.run("git", "commit", "--quiet", "--message", "first results")
    toy.run("dvc", "push")
    locked = yaml.safe_load((toy.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    pushed = server.objects.files("dvc")
    for out in locked["train"]["outs"]:
        if not out["path"].endswith(".csv"):
            content = pushed[f"files/md5/{out['md5'][:2]}/{out['md5'][2:]}"]
            assert hashlib.md5(content).hexdigest() == out["md5"]
            assert content == (toy.root / out["path"]).read_bytes()

    other = copy.copy(toy)
    other.root = tmp_path / "toy-elsewhere"
    toy.run("git", "clone", "--quiet", str(toy.root), str(other.root))
    assert SETTINGS["S3_SECRET_KEY"] not in other.run("git", "log", "--all", "--patch")
    add_keys(other)
    other.run("dvc", "pull")
    assert (other.root / "models/best.safetensors").read_bytes() == (
        toy.root / "models/best.safetensors"
    ).read_bytes()
    output = other.run("dvc", "repro")
    assert "Running stage" not in output
    assert output.count("didn't change, skipping") == len(locked)
    assert server.select(RUNS) == [("first",)]


def test_eight_experiments_of_four_workers_on_a_fresh_server_lose_nothing(
    toy_folder: Path, new_server: Callable[[], TeamServer]
) -> None:
    server = new_server()
    toy = Toy(toy_folder, MLFLOW_TRACKING_URI=server.uri)
    weights = [f"0.{number}" for number in range(1, 9)]
    toy.experiment("--queue", "-S", f"loss.ssim_weight={','.join(weights)}")
    started = time.monotonic()
    toy.start_queue(workers=4)
    wait_until(lambda: len(server.select(COMPLETE)) == 8, 400, "eight runs are complete")
    print(f"8 experiments, 4 workers: {time.monotonic() - started:.1f} s")
    wait_until(lambda: toy.run("dvc", "queue", "status").count("Success") == 8, 60, "eight experiments succeed")
    toy.settle()
    runs = toy.runs()
    assert sorted(run.data.params["loss.ssim_weight"] for run in runs.values()) == weights
    for run in runs.values():
        assert_complete(toy, run)
    assert sorted(toy.run("dvc", "exp", "list", "--name-only").split()) == sorted(runs)
    assert not list((toy.root / ".state/outbox").glob("*/*.json"))


def test_kill_9_of_one_worker_s_stage_loses_no_other_run(toy: Toy, server: TeamServer) -> None:
    toy.experiment("--queue", "-S", "loss.ssim_weight=0.1,0.2,0.3", "-S", "train.pause_s=0.2")
    toy.start_queue(workers=3)
    wait_until(lambda: is_training(toy), 60, "a training runs")
    running = {
        run.data.tags["dvc.experiment"] for run in toy.runs().values() if "train/loss/total" in run.data.metrics
    }
    victim = next(p for p in stages_at_work(toy, "train") if p.environ()["DVC_EXP_NAME"] in running)
    name = victim.environ()["DVC_EXP_NAME"]
    os.kill(victim.pid, 9)
    wait_until(lambda: len(server.select(COMPLETE)) == 2, 120, "the others are complete")
    toy.settle()
    runs = toy.runs()
    assert len(runs) == 3
    for other in set(runs) - {name}:
        assert_complete(toy, runs[other])
    assert runs[name].info.status in ("RUNNING", "KILLED"), "a later start may have closed it already"
    toy.run("python", "toy_stage.py", "train")
    closed = toy.client.get_run(runs[name].info.run_id)
    assert closed.info.status == "KILLED"
    assert "kill -9" in closed.data.tags["error"]


@pytest.mark.parametrize("killed", ["mlflow", "postgresql"])
def test_what_an_outage_keeps_back_is_sent_when_it_is_over(
    toy: Toy, server: TeamServer, postgres: Postgres, killed: str
) -> None:
    process = toy.start(
        "dvc", "exp", "run", "--name", "cut", "-S", "train.pause_s=0.2", "-S", f"train.steps={STEPS}"
    )
    wait_until(lambda: is_training(toy), 60, "the training runs")
    service = server if killed == "mlflow" else postgres
    service.kill()
    time.sleep(3)
    service.start()
    output, _ = process.communicate(timeout=150)
    toy.settle()
    assert process.returncode == 0, output
    assert_complete(toy, toy.runs()["cut"], STEPS)
    assert len(toy.runs()) == 1
    assert not list((toy.root / ".state/outbox").glob("*/*.json"))


def test_pruned_runs_leave_the_bucket_and_gc_empties_the_bin(toy: Toy, server: TeamServer) -> None:
    toy.experiment("--name", "kept")
    toy.experiment("--name", "failed", "-S", "train.fail=error", status=255)
    run_id = toy.runs()["failed"].info.run_id
    assert server.objects.files("mlflow", run_id)
    assert run_id in toy.run("depth", "prune", "--yes")
    assert set(toy.runs()) == {"kept"}
    assert not server.objects.files("mlflow", run_id)
    rows = f"SELECT count(*) FROM runs WHERE run_uuid = '{run_id}'"
    assert server.select(rows) == [(1,)], "a server keeps deleted runs in its bin"
    server.run("sh", "-c", 'mlflow gc --backend-store-uri "$MLFLOW_BACKEND_STORE_URI"')
    assert server.select(rows) == [(0,)]
    assert_complete(toy, toy.runs()["kept"])
