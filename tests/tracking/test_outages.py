"""A server that dies in mid-training, comes back, or was never there."""

from __future__ import annotations

import socket
import time

from tests.tracking.toy import ALL_FILES, Server, Toy, is_training, wait_until

STEPS = 60


def served(toy: Toy, server: Server) -> Toy:
    toy.environment["MLFLOW_TRACKING_URI"] = server.uri
    return toy


def logged_steps(toy: Toy, name: str) -> list[int]:
    run = toy.runs()[name]
    return sorted(point.step for point in toy.client.get_metric_history(run.info.run_id, "train/loss/total"))


def test_a_run_on_a_server_has_everything(toy: Toy, server: Server) -> None:
    served(toy, server).experiment("--name", "remote")
    run = toy.runs()["remote"]
    assert run.info.status == "FINISHED"
    assert toy.artifacts(run) == ALL_FILES
    assert not (toy.root / "mlartifacts").exists()


def test_what_a_dead_server_misses_is_sent_when_it_is_back(toy: Toy, server: Server) -> None:
    process = served(toy, server).start(
        "dvc", "exp", "run", "--name", "cut", "-S", "train.pause_s=0.2", "-S", f"train.steps={STEPS}"
    )
    wait_until(lambda: is_training(toy), 60, "the training runs")
    server.kill()
    time.sleep(3)
    server.start()
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    run = toy.runs()["cut"]
    assert run.info.status == "FINISHED"
    assert logged_steps(toy, "cut") == list(range(1, STEPS + 1)), "nothing lost, nothing doubled"
    assert toy.artifacts(run) == ALL_FILES
    assert not list((toy.root / ".state" / "outbox").glob("*/*.json"))


def test_a_server_that_stays_away_ends_no_experiment_and_sync_brings_it_all(toy: Toy, server: Server) -> None:
    served(toy, server)
    process = toy.start("dvc", "exp", "run", "--name", "alone", "-S", "train.pause_s=0.5")
    wait_until(lambda: is_training(toy), 60, "the training runs")
    server.kill()
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert output.count("are kept in") == 3, "every stage says so"
    assert "depth sync" in output
    server.start()
    assert toy.runs()["alone"].info.status == "RUNNING"
    assert "sent what was kept of 1 run" in toy.run("depth", "sync").splitlines()
    run = toy.runs()["alone"]
    assert run.info.status == "FINISHED"
    assert logged_steps(toy, "alone") == list(range(1, 31))
    assert len(toy.client.get_metric_history(run.info.run_id, "val/rmse")) == 3, "nothing doubled"
    assert {run.data.tags[f"stage.{stage}"] for stage in ("train", "evaluate", "report")} == {"executed"}
    assert toy.artifacts(run) == ALL_FILES


def test_a_server_that_is_down_at_the_start_is_told_before_any_work(toy: Toy) -> None:
    toy.environment["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    started = time.monotonic()
    output = toy.run("python", "toy_stage.py", "train", status=1)
    assert time.monotonic() - started < 20
    assert "error: train: the MLflow store http://127.0.0.1:9 cannot be opened" in output
    assert not (toy.root / "models").exists()


def test_a_server_that_takes_the_line_and_says_nothing_is_told_as_soon(toy: Toy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        toy.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        output = toy.run("python", "toy_stage.py", "train", status=1)
    assert time.monotonic() - started < 20
    assert "the server does not answer (ReadTimeout)" in output
