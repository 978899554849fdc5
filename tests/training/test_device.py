"""The choice of device and precision on whatever machine the tests run."""

from __future__ import annotations

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.training.device import choose_bf16, choose_device, memory_shortage_told


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
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
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
