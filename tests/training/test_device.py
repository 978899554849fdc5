"""The choice of device and precision on whatever machine the tests run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.training.device import choose_bf16, choose_device, claim_device, claim_first, memory_shortage_told


def test_auto_takes_cuda_exactly_where_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_cpu_is_the_cpu_also_where_there_is_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto") == torch.device("cuda")


def test_cuda_that_is_not_there_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PipelineError, match=r"device is cuda.*set train\.device or evaluate\.device to auto"):
        choose_device("cuda")


@pytest.mark.parametrize(("precision", "bf16"), [("auto", False), ("fp32", False), ("bf16", True)])
def test_the_cpu_computes_in_bf16_only_when_asked(precision: str, bf16: bool) -> None:
    assert choose_bf16(precision, torch.device("cpu")) is bf16


@pytest.mark.parametrize(("supported", "bf16"), [(True, True), (False, False)])
def test_auto_is_bf16_on_cuda_that_has_it(monkeypatch: pytest.MonkeyPatch, supported: bool, bf16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert choose_bf16("auto", torch.device("cuda")) is bf16


def test_memory_that_runs_out_is_told_with_what_to_lower() -> None:
    with (
        pytest.raises(PipelineError, match=r"out of memory; lower train\.batch_size"),
        memory_shortage_told("train.batch_size"),
    ):
        torch.empty(2**55)


def test_another_error_passes_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="shape"), memory_shortage_told("train.batch_size"):
        torch.zeros(2).view(3)


# Several trainings on one machine ------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from pipeline.training.device import claim_first
print(claim_first(sys.argv[2:], Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


class Holder:
    """A process that claims one of the cards and holds it until its end."""

    def __init__(self, locks: Path, *cards: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(locks), *cards],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.card = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_trainings_take_the_first_free_card_and_share_when_none_is(tmp_path: Path) -> None:
    holders = [Holder(tmp_path, "first", "second") for _ in range(3)]
    try:
        assert [holder.card for holder in holders] == [0, 1, 0]
        holders[1].kill()  # not even kill -9 leaves a card taken
        assert claim_first(["first", "second"], tmp_path) == 1
    finally:
        for holder in holders:
            if holder.process.poll() is None:
                holder.kill()


def test_cards_are_told_apart_by_name_not_by_place(tmp_path: Path) -> None:
    holder = Holder(tmp_path, "second")
    assert claim_first(["first", "second"], tmp_path) == 0
    assert claim_first(["second", "third"], tmp_path) == 1
    holder.kill()


def test_the_cpu_is_shared_without_locks(tmp_path: Path) -> None:
    assert claim_device("cpu", tmp_path) == torch.device("cpu")
    assert not list(tmp_path.iterdir())
