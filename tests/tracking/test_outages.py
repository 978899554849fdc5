"""A server that dies in mid-training, comes back, or was never there."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracking.toy import ALL_FILES, Server, Toy, is_training, senders, wait_until

STEPS = 150
PAUSE_S = 0.15
"""So that a training lasts longer than it takes to see that it is at work and to kill the server."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), empty_store)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Toy:
    """A repository whose store is the server. Each test has an experiment of its own in it."""
    return Toy(tmp_path_factory.mktemp("served") / "toy", MLFLOW_TRACKING_URI=server.uri)


def cut_off(toy: Toy, server: Server, name: str, weight: float) -> str:
    """Start an experiment, and kill the server while it trains."""
    changes = [f"train.pause_s={PAUSE_S}", f"train.steps={STEPS}", f"loss.ssim_weight={weight}"]
    process = toy.start(
        "dvc", "exp", "run", "--name", name, *(word for change in changes for word in ("-S", change))
    )
    wait_until(lambda: is_training(toy, name), 60, "the training runs")
    server.kill()
    if name == "cut":
        time.sleep(3)
        server.start()
    output, _ = process.communicate(timeout=200)
    toy.settle()
    assert process.returncode == 0, output
    return str(output)


def test_what_a_dead_server_misses_is_sent_when_it_is_back(served: Toy, server: Server) -> None:
    cut_off(served, server, "cut", 0.5)
    run = served.runs()["cut"]
    assert run.info.status == "FINISHED"
    assert served.steps(run) == list(range(1, STEPS + 1)), "nothing lost, nothing doubled"
    assert served.artifacts(run) == ALL_FILES
    assert not list((served.root / ".state" / "outbox").glob("*/*.json"))
    assert not (served.root / "mlartifacts").exists(), "a server keeps the artifacts itself"


def test_a_server_that_stays_away_ends_no_experiment_and_sync_brings_it_all(served: Toy, server: Server) -> None:
    output = cut_off(served, server, "alone", 0.7)
    assert output.count("are kept in") == 3, "every stage says so"
    assert "depth sync" in output
    server.start()
    assert served.runs()["alone"].info.status == "RUNNING"
    assert "sent what was kept of 1 run" in served.run("depth", "sync").splitlines()
    run = served.runs()["alone"]
    assert run.info.status == "FINISHED"
    assert served.steps(run) == list(range(1, STEPS + 1))
    assert len(served.steps(run, "val/rmse")) == 3, "nothing doubled"
    assert {run.data.tags[f"stage.{stage}"] for stage in ("train", "evaluate", "report")} == {"executed"}
    assert served.artifacts(run) == ALL_FILES


def test_a_server_that_is_down_at_the_start_is_told_before_any_work(toy: Toy) -> None:
    toy.environment["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    started = time.monotonic()
    output = toy.run("python", "toy_stage.py", "train", status=1)
    assert time.monotonic() - started < 20
    assert output.startswith("error: train: the MLflow store http://127.0.0.1:9 cannot be opened")
    assert output.count("\n") == 1
    assert not (toy.root / "models").exists()
    assert senders(toy.root) == []


def test_a_server_that_takes_the_line_and_says_nothing_is_told_as_soon_and_ctrl_c_does_not_wait_for_it(
    toy: Toy,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        toy.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        waiting, stopped = (toy.start("python", "toy_stage.py", "train") for _ in range(2))
        # Their senders are through with their imports, so the stages have long been waiting.
        lines = [silent.accept() for _ in range(2)]
        stopped.send_signal(signal.SIGINT)
        assert stopped.wait(timeout=60) == 130
        assert waiting.poll() is None
        output, _ = waiting.communicate(timeout=60)
        assert time.monotonic() - started < 20
        assert waiting.returncode == 1
        assert "the server does not answer (ReadTimeout)" in output
        assert stopped.communicate()[0] == "error: train: interrupted\n"
        assert len(lines) == 2
    wait_until(lambda: senders(toy.root) == [], 20, "no sender is left")
