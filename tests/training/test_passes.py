"""The passes that a GPU makes, made here by the processor, with all that may come late coming as late as it can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.model.network import build_network
from pipeline.training import passes
from pipeline.training.device import predict
from pipeline.training.passes import GpuPasses, WeightGradientsBeside


class ComesLate(WeightGradientsBeside):
    """What is made beside is made only when the streams meet; until then NaN stands there."""

    def __init__(self, _: object, leaves: Any) -> None:
        super().__init__(None, leaves)  # type: ignore[arg-type]
        self._due: list[Callable[[], None]] = []

    def beside(self, func: Any, *args: Any) -> Any:
        now = func(*args)
        kept = [None if each is None else each.clone() for each in now]
        for each in now:
            if each is not None:
                each.fill_(torch.nan)

        def make() -> None:
            for place, value in zip(now, kept, strict=True):
                if place is not None:
                    place.copy_(value)

        self._due.append(make)
        return now

    def meet(self) -> None:
        Moved.count = len(self._due)
        for make in self._due:
            make()


class Moved:
    count = 0


@pytest.fixture(autouse=True)
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(passes, "WeightGradientsBeside", ComesLate)


def gradients(network: torch.nn.Module) -> list[Tensor]:
    return [each.grad.clone() for each in network.parameters() if each.grad is not None]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("width", [8, 10])
def test_the_gradients_are_those_of_autograd(bf16: bool, width: int) -> None:
    torch.manual_seed(0)
    network = build_network("unet", width=width, max_depth_m=10.0)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rgb = torch.rand(2, 3, 64, 64)
    expected_m = predict(network, rgb, bf16)
    expected_m.square().mean().backward()
    expected = gradients(network)
    network.zero_grad()
    through = GpuPasses(network, bf16)
    for _ in range(2):  # the second time there are gradients already
        prediction_m = through.predict(rgb)
        through.backward(prediction_m.square().mean())
        found = gradients(network)
        assert len(found) == len(expected) == len(list(network.parameters()))
        torch.testing.assert_close(
            prediction_m, expected_m, rtol=0.02 if bf16 else 1e-5, atol=0.02 if bf16 else 1e-5
        )
        for mine, theirs in zip(found, expected, strict=True):
            assert float((mine - theirs).norm()) <= (0.15 if bf16 else 1e-5) * float(theirs.norm()) + 1e-8
    assert Moved.count > 20, "most convolutions are worked on beside"


def test_gradients_lie_in_memory_as_their_weights_do() -> None:
    network = build_network("unet", width=8, max_depth_m=10.0)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    through = GpuPasses(network, bf16=True)
    through.backward(through.predict(torch.rand(1, 3, 64, 64)).mean())
    for weight in network.parameters():
        assert weight.grad is not None
        assert weight.grad.stride() == weight.stride() and weight.grad.dtype == weight.dtype


def test_a_weight_that_was_computed_gets_its_gradient_at_once() -> None:
    """Its gradient is an operand of what lies further back, before the streams meet."""
    stored = torch.randn(4, 3, 3, 3, requires_grad=True)
    image = torch.rand(1, 3, 8, 8)

    def loss() -> Tensor:
        return torch.nn.functional.conv2d(image, 2 * stored).square().mean()

    (expected,) = torch.autograd.grad(loss(), stored)
    with ComesLate(None, [stored]):
        (found,) = torch.autograd.grad(loss(), stored)
    torch.testing.assert_close(found, expected)
