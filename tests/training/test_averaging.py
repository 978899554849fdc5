from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from pipeline.training.averaging import STATISTICS_STEPS, Average

DECAY = 0.9
Batch = tuple[Tensor, Tensor]


class Network(nn.Module):
    """With two layers whose momenta differ, and a buffer that is no layer's statistic."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4, momentum=0.1),
            nn.ReLU(),
            nn.Conv2d(4, 2, 1),
            nn.BatchNorm2d(2, momentum=0.3),
        )
        self.register_buffer("scale", torch.ones(2))

    def forward(self, rgb: Tensor) -> Tensor:
        output: Tensor = self.layers(rgb).mean(dim=1, keepdim=True)
        return output


def average_of(network: nn.Module) -> Average:
    return Average(network, DECAY, bf16=False, graphed=False)


def moved(network: nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))


def weights(network: nn.Module) -> list[np.ndarray]:
    return [parameter.detach().double().numpy().copy() for parameter in network.parameters()]


def batches(count: int, *, size: int = 4) -> list[Batch]:
    """Their means and deviations differ, so that it shows which are counted."""
    generator = torch.Generator().manual_seed(count)
    return [
        ((1 + number) * torch.rand(size, 3, 8, 9, generator=generator), torch.zeros(size, 1, 8, 9))
        for number in range(count)
    ]


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


def test_the_first_step_is_the_average_and_each_later_one_moves_it(network: Network) -> None:
    average = average_of(network)
    expected: list[np.ndarray] = []
    for _ in range(7):
        moved(network)
        present = weights(network)
        if not expected:
            expected = present
        else:
            expected = [DECAY * a + (1 - DECAY) * b for a, b in zip(expected, present, strict=True)]
        average.update()
        for found, expect in zip(weights(average.network), expected, strict=True):
            np.testing.assert_allclose(found, expect, rtol=1e-5, atol=1e-6)
        for found, same in zip(weights(network), present, strict=True):
            np.testing.assert_array_equal(found, same)


@pytest.mark.parametrize("count", [1, 3, STATISTICS_STEPS, STATISTICS_STEPS + 5])
def test_statistics_are_those_of_pytorch_over_the_first_batches(network: Network, count: int) -> None:
    average = average_of(network)
    for _ in range(3):
        moved(network)
        average.update()
    expected = copy.deepcopy(average.network)
    update_bn([(rgb, depth_m) for rgb, depth_m in batches(count)[:STATISTICS_STEPS]], expected)
    for _ in range(2):  # the second time from statistics that are there
        average.estimate_statistics(batches(count))
        for found, layer in zip(average.network.layers, expected.layers, strict=True):  # type: ignore[arg-type]
            if isinstance(layer, nn.BatchNorm2d):
                torch.testing.assert_close(found.running_mean, layer.running_mean, rtol=1e-5, atol=1e-6)
                torch.testing.assert_close(found.running_var, layer.running_var, rtol=1e-5, atol=1e-6)


def test_no_more_batches_are_read_than_count(network: Network) -> None:
    read = 0

    def counted() -> Iterator[Batch]:
        nonlocal read
        for batch in batches(STATISTICS_STEPS + 5):
            read += 1
            yield batch

    average_of(network).estimate_statistics(counted())
    assert read == STATISTICS_STEPS


def test_statistics_leave_all_else_as_it_was(network: Network) -> None:
    average = average_of(network)
    moved(network)
    average.update()
    averaged, source = weights(average.network), copy.deepcopy(network.state_dict())
    average.estimate_statistics(batches(3))
    assert [layer.momentum for layer in average.network.modules() if isinstance(layer, nn.BatchNorm2d)] == [
        0.1,
        0.3,
    ]
    assert all(layer.training for layer in average.network.modules())
    assert all(layer.training for layer in network.modules())
    torch.testing.assert_close(dict(network.state_dict()), dict(source), rtol=0, atol=0)
    for found, same in zip(weights(average.network), averaged, strict=True):
        np.testing.assert_array_equal(found, same)
    assert all(parameter.grad is None for parameter in average.network.parameters())


def test_statistics_are_estimated_after_a_validation_too(network: Network) -> None:
    average, other = average_of(network), average_of(network)
    average.network.eval()
    for each in (average, other):
        each.estimate_statistics(batches(3))
    torch.testing.assert_close(average.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_other_buffers_are_those_of_the_network(network: Network) -> None:
    average = average_of(network)
    average.update()
    network.scale.fill_(7)
    average.estimate_statistics(batches(2))
    assert average.network.scale.tolist() == [7, 7]  # type: ignore[operator]
    network.scale.fill_(8)
    assert average.network.scale.tolist() == [7, 7]  # type: ignore[operator]


def test_a_network_without_normalisation_needs_no_batches() -> None:
    network = nn.Conv2d(3, 1, 1)
    network.register_buffer("scale", torch.zeros(2))
    average = average_of(network)
    average.update()
    network.scale.fill_(3)
    before = weights(average.network)

    def none_is_read() -> Iterator[Batch]:
        raise AssertionError("a batch was read")
        yield

    average.estimate_statistics(none_is_read())
    assert average.network.scale.tolist() == [3, 3]  # type: ignore[operator]
    for found, same in zip(weights(average.network), before, strict=True):
        np.testing.assert_array_equal(found, same)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_an_average_goes_on_from_its_state(network: Network, steps: int) -> None:
    average = average_of(network)
    for _ in range(steps):
        moved(network)
        average.update()
    if steps:
        average.estimate_statistics(batches(2))
    state = copy.deepcopy(average.state_dict())
    again = Network()
    again.load_state_dict(network.state_dict())
    other = average_of(again)
    other.load_state_dict(state)
    torch.testing.assert_close(other.state_dict(), state, rtol=0, atol=0)
    for each in (network, again):
        torch.manual_seed(1)
        moved(each)
    for each in (average, other):
        each.update()
        each.estimate_statistics(batches(3))
    torch.testing.assert_close(other.state_dict(), average.state_dict(), rtol=0, atol=0)
