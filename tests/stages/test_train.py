"""Stage `train` as a process that is killed, stopped, starved and started again."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from pipeline.data.splits import TRAINED_ON
from pipeline.model.checkpoint import read_checkpoint_info, save_checkpoint
from pipeline.model.network import build_network
from tests.tracking.toy import clean_environment, client_of, wait_until
from tests.training.slopes import STEPS, write_slopes

REPOSITORY = Path(__file__).resolve().parents[2]
EPOCHS = 10
MOMENTS_S = 1.0
"""About what the training takes after its first state is there."""
LEISURELY_S = 0.5
"""A step of a training that a signal must find at work, however busy the machine is."""
KILLS = int(os.environ.get("DEPTH_KILLS", "3"))
"""`make soak` takes twenty."""


class Work:
    """A working copy with shards, in which the stage runs as DVC starts it."""

    def __init__(self, root: Path, store: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        for name in ("pipeline", "stages", "tests", "dvc.yaml"):
            (root / name).symlink_to(REPOSITORY / name)
        shutil.copy(store, root / "mlflow.db")
        write_slopes(root / "data" / "shards")
        self.params: dict[str, Any] = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
        self.params["network"]["width"] = 4
        self.params["augment"]["at"] = "step"
        self.params["train"] |= {"epochs": EPOCHS, "batch_size": 4, "device": "cpu", "ema_decay": 0.9}
        self.params["tracking"]["log_every_steps"] = 2

    def start(self, *, step_s: float = 0.0, **options: Any) -> subprocess.Popen[str]:
        """step_s: seconds that a step takes at least."""
        (self.root / "params.yaml").write_text(yaml.safe_dump(self.params), encoding="utf-8")
        environment = clean_environment() | {
            "DVC_ROOT": str(self.root),
            "OMP_NUM_THREADS": "1",
            "DEPTH_STEP_S": str(step_s),
        }
        # DVC deletes a stage's outputs before it runs.
        shutil.rmtree(self.root / "models", ignore_errors=True)
        command = [sys.executable, "-m", "tests.stages.eager_train"]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.root, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True, **options
        )

    def run(self, status: int = 0, **options: Any) -> str:
        process = self.start(**options)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == status, output
        return output

    def states(self) -> list[Path]:
        return sorted((self.root / ".state" / "training").glob("*/state.pt"))

    def weights(self, name: str = "last") -> dict[str, torch.Tensor]:
        return load_file(self.root / "models" / f"{name}.safetensors")

    def runs(self) -> list[mlflow.entities.Run]:
        client = client_of(f"sqlite:///{self.root / 'mlflow.db'}")
        found = client.get_experiment_by_name("depth")
        return list(client.search_runs([found.experiment_id])) if found else []

    def logged_steps(self, metric: str = "train/loss/total") -> list[int]:
        """Of the one run that finished."""
        (run,) = [run for run in self.runs() if run.info.status == "FINISHED"]
        client = client_of(f"sqlite:///{self.root / 'mlflow.db'}")
        return sorted(point.step for point in client.get_metric_history(run.info.run_id, metric))


def steps_of(epochs: int) -> list[int]:
    """At which losses are logged: every second, and what is left at an epoch's end."""
    return sorted([STEPS * e + 2 for e in range(epochs)] + [STEPS * (e + 1) for e in range(epochs)])


EXPECTED_STEPS = steps_of(EPOCHS)


@pytest.fixture
def work(tmp_path: Path, empty_store: Path) -> Work:
    return Work(tmp_path / "work", empty_store)


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> dict[str, dict[str, torch.Tensor]]:
    work = Work(tmp_path_factory.mktemp("uninterrupted") / "work", empty_store)
    work.run()
    assert work.logged_steps() == EXPECTED_STEPS
    assert not (work.root / ".state" / "training").exists() or not work.states()
    return {name: work.weights(name) for name in ("best", "last")}


def is_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(found[name], expected[name]) for name in found | expected)


@pytest.mark.parametrize("seed", range(KILLS))
def test_kill_9_at_a_random_moment_changes_nothing(
    work: Work, uninterrupted: dict[str, dict[str, torch.Tensor]], seed: int
) -> None:
    expected = uninterrupted
    process = work.start()
    wait_until(lambda: bool(work.states()) or process.poll() is not None, 60, "a state is saved")
    time.sleep(random.Random(seed).uniform(0, MOMENTS_S))
    process.kill()
    process.communicate()
    (first,) = work.runs()
    if first.info.status != "FINISHED":  # it may have been too quick
        work.run()
    assert is_equal(work.weights(), expected["last"])
    assert is_equal(work.weights("best"), expected["best"])
    assert len(work.runs()) == 1, "it went on in its own run"
    assert work.logged_steps() == EXPECTED_STEPS
    assert work.logged_steps("val/rmse") == [STEPS * (epoch + 1) for epoch in range(EPOCHS)]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves_at_once_with_its_own_status(
    work: Work, uninterrupted: dict[str, dict[str, torch.Tensor]], number: int, status: int
) -> None:
    process = work.start(step_s=LEISURELY_S)
    wait_until(lambda: bool(work.states()), 60, "a state is saved")
    sent = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert time.monotonic() - sent < 5
    assert process.returncode == status, output
    (run,) = work.runs()
    assert run.info.status == "KILLED"
    work.run()
    assert is_equal(work.weights(), uninterrupted["last"])
    (run,) = work.runs()
    assert run.info.status == "FINISHED"
    assert "error" not in run.data.tags


def test_changed_parameters_start_afresh_and_leave_the_state_of_the_others(work: Work) -> None:
    process = work.start(step_s=LEISURELY_S)
    wait_until(lambda: bool(work.states()), 60, "a state is saved")
    process.terminate()
    process.communicate(timeout=30)
    states = work.states()
    work.params["loss"]["ssim_weight"] = 0.7
    work.run()
    assert work.logged_steps() == EXPECTED_STEPS
    assert work.states() == states
    assert sorted(run.info.status for run in work.runs()) == ["FINISHED", "KILLED"]


def test_a_signal_to_one_rank_ends_all_and_the_training_goes_on_with_another_number_of_devices(work: Work) -> None:
    epochs = 4 * EPOCHS  # not at its end yet when the signal comes, however busy the machine is
    work.params["train"] |= {"devices": 2, "epochs": epochs}
    process = work.start(step_s=LEISURELY_S)
    wait_until(lambda: bool(work.states()), 60, "a state is saved")
    ranks = psutil.Process(process.pid).children()
    second = next(rank for rank in ranks if rank.environ().get("RANK") == "1")
    second.terminate()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 143, output
    assert output.count("error:") == 1 and "error: train: ended by SIGTERM" in output, output
    assert "torch" not in output, "the launcher has nothing to say"
    assert not any(rank.is_running() for rank in ranks)
    work.params["train"]["devices"] = 1
    work.run()
    assert work.logged_steps() == steps_of(epochs)
    # Not the run that it began: `train.devices` is a parameter, and those of a run cannot change.
    (finished,) = [run for run in work.runs() if run.info.status == "FINISHED"]
    (killed,) = [run for run in work.runs() if run.info.status == "KILLED"]
    assert finished.data.tags["resumed_from"] == killed.info.run_id


def test_a_loss_that_is_no_number_is_told_once_by_all_ranks(work: Work) -> None:
    work.params["train"] |= {"devices": 2, "learning_rate": 1e30, "epochs": 3}
    output = work.run(status=1)
    (told,) = [line for line in output.splitlines() if "error:" in line]
    assert "error: train: the loss became" in told and "lower train.learning_rate" in told
    assert "Traceback" not in output
    assert not work.states(), "there is nothing to go on from"
    (run,) = work.runs()
    assert run.info.status == "FAILED"


def test_two_devices_end_as_one(work: Work, tmp_path: Path, empty_store: Path) -> None:
    alone = Work(tmp_path / "alone", empty_store)
    for devices, copy in ((1, alone), (2, work)):
        copy.params["train"] |= {"devices": devices, "epochs": 2}
        copy.run()
    expected, found = (
        (copy.root / "reports" / "train" / "history.csv").read_text(encoding="utf-8").splitlines()
        for copy in (alone, work)
    )
    assert found[0] == expected[0]
    for row, other in zip(found[1:], expected[1:], strict=True):
        for name, value, wanted in zip(found[0].split(","), row.split(","), other.split(","), strict=True):
            if name not in ("seconds", "frames_per_s"):
                assert float(value) == pytest.approx(float(wanted), rel=1e-3), name
    assert work.logged_steps() == alone.logged_steps()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_shard_is_named_before_anything_is_done(work: Work, damage: str) -> None:
    shard = next((work.root / "data" / "shards").glob("train-*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    match damage:
        case "truncated":
            shard.write_bytes(content[: len(content) // 2])
        case "flipped":
            shard.write_bytes(content)
        case "missing":
            shard.unlink()
    output = work.run(status=1)
    assert "error: train: data/shards/train-00000.safetensors" in output
    assert "Traceback" not in output
    assert not (work.root / "models").exists()


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing_half_written(work: Work) -> None:
    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        # Smaller than a state, larger than the store's files.
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    (work.root / "mlflow.db").unlink()
    output = work.run(status=1, preexec_fn=fill)
    assert "Traceback" not in output
    assert not list(work.root.rglob("*partial*"))


def test_a_folder_that_cannot_be_written_is_told_in_one_line(work: Work) -> None:
    process_folder = Path("/proc/self/task")
    work.params["train"]["epochs"] = 1
    (work.root / "reports").symlink_to(process_folder)
    output = work.run(status=1)
    assert "error: train:" in output.splitlines()[-1]
    assert "Traceback" not in output


def test_a_training_begins_with_the_weights_that_it_is_given(work: Work) -> None:
    work.params["train"] |= {"epochs": 1, "ema_decay": 0.0}
    work.run()
    first = work.weights()
    shutil.move(work.root / "models" / "last.safetensors", work.root / "start.safetensors")
    # Steps too small to be seen: what comes out is what went in, but for the batch statistics.
    work.params["train"] |= {"start_from": "start.safetensors", "learning_rate": 1e-12, "weight_decay": 0.0}
    work.params["seed"] = 5
    work.run()
    assert read_checkpoint_info(work.root / "models" / "last.safetensors").started_from == {
        "file": "start.safetensors",
        "sha256": hashlib.sha256((work.root / "start.safetensors").read_bytes()).hexdigest(),
        "source": "slopes",
        "trained_on": "slopes",
    }
    for name, tensor in work.weights().items():
        if "running" not in name and "batches" not in name:
            torch.testing.assert_close(tensor, first[name])


def test_a_start_that_is_missing_is_named(work: Work) -> None:
    work.params["train"]["start_from"] = "gone.safetensors"
    output = work.run(status=1)
    assert "error: train: train.start_from: gone.safetensors does not exist" in output
    assert "Traceback" not in output


def test_weights_that_have_seen_the_test_frames_are_no_start(work: Work) -> None:
    info = read_checkpoint_info(REPOSITORY / "models/pretrained/rooms-0.5M.safetensors")
    network = build_network(info.architecture, **info.options)
    start = work.root / "start.safetensors"
    save_checkpoint(start, network.state_dict(), replace(info, trained_on=TRAINED_ON["all"]))
    work.params["train"]["start_from"] = start.name
    output = work.run(status=1)
    assert "the test frames included, so no score would be of unseen frames" in output
    assert "Traceback" not in output
