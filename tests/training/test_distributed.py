"""Two real processes that talk by gloo train as one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.training.distributed import Ranks, count_devices
from tests.training.slopes import write_slopes

ROOT = Path(__file__).parents[2]


def launched(world: int, *arguments: str, module: str = "tests.training.rank") -> subprocess.Popen[str]:
    """As the train stage does it."""
    code = f"from pipeline.training.distributed import launch; launch({world}, {module!r}, *{arguments!r})"
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slopes(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module", params=[4, 3], ids=["two frames each", "one rank has none at the end"])
def results(
    request: pytest.FixtureRequest, shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Any]:
    """What one and two processes made of ten frames; of batches of 3, the last holds a single frame."""
    folder = tmp_path_factory.mktemp("results")
    found = {}
    for world in (1, 2):
        out = folder / f"{world}.pt"
        process = launched(world, str(shards), str(out), str(request.param))
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        found[world] = torch.load(out)
    return found


def test_gradients_of_a_shared_batch_are_those_of_a_single_process(results: dict[int, Any]) -> None:
    alone, shared = (results[world]["gradients"] for world in (1, 2))
    assert set(alone) == set(shared)
    assert max(float(gradient.abs().max()) for gradient in alone.values()) > 1e-2
    for name, gradient in alone.items():
        torch.testing.assert_close(shared[name], gradient, rtol=1e-6, atol=1e-6, msg=name)


def test_losses_and_validation_metrics_agree(results: dict[int, Any]) -> None:
    for alone, shared in zip(results[1]["history"], results[2]["history"], strict=True):
        assert set(alone) == set(shared)
        for name, value in alone.items():
            if name not in ("seconds", "frames_per_s"):
                assert shared[name] == pytest.approx(value, rel=1e-3), name


def test_a_rank_that_fails_ends_the_others_with_its_status(tmp_path: Path) -> None:
    process = launched(2, str(tmp_path / "nothing"), str(tmp_path / "out"), "4")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "index.json does not exist" in output
    assert "torch/distributed" not in output.replace(os.sep, "/").split("PipelineError")[-1], (
        "no words of the launcher"
    )


@pytest.mark.parametrize(
    ("kind", "told"), [("expected", "out of memory; lower train.batch_size"), ("defect", "ValueError: a defect")]
)
def test_the_error_of_another_rank_is_the_training_s(kind: str, told: str) -> None:
    """The first rank owns the MLflow run, which would otherwise be told of a lost connection or a signal."""
    process = launched(2, kind, module="tests.training.failing_rank")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    # From wherever in a line it begins: several processes write into one pipe.
    errors = [line[line.index("error:") :] for line in output.splitlines() if "error:" in line]
    assert errors == [f"error: train: {told}"], output
    assert ("Traceback" in output) == (kind == "defect")


def test_the_number_of_devices_is_checked_against_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_devices(3, "cpu") == 3
    assert count_devices("auto", "cpu") == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (count_devices("auto", "auto"), count_devices(2, "cuda"), count_devices("auto", "cpu")) == (2, 2, 1)
    with pytest.raises(PipelineError, match=r"train\.devices is 4, but PyTorch sees 2 CUDA devices"):
        count_devices(4, "auto")


def test_alone_nothing_is_asked_of_others() -> None:
    values = torch.tensor([1.0, 2.0])
    ranks = Ranks()
    assert torch.equal(ranks.mean(values), values) and torch.equal(ranks.total(values), values)
    assert (ranks.largest(15), ranks.from_first("x"), ranks.local_rank) == (15, "x", None)


def test_a_killed_launcher_leaves_no_ranks(tmp_path: Path) -> None:
    process = launched(2, module="tests.training.waiting_rank")
    assert process.stdout is not None
    pids = [int(process.stdout.readline()) for _ in range(2)]
    process.kill()
    process.wait()
    end = time.monotonic() + 10
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < end, "a rank outlived its launcher"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split()[2] != "Z"


def test_a_signal_to_the_launcher_ends_the_ranks_and_is_its_status(tmp_path: Path) -> None:
    process = launched(2, module="tests.training.waiting_rank")
    assert process.stdout is not None
    for _ in range(2):
        process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 143
    assert output == ""
