"""The cost of a prediction, against products counted by hand."""

from __future__ import annotations

import time

import torch
from torch import nn

from pipeline.evaluation.cost import latency_ms, multiply_adds, throughput_frames_per_s


def test_a_convolution_costs_its_weights_at_each_pixel_of_its_output() -> None:
    assert multiply_adds(nn.Conv2d(3, 8, 3, padding=1), (32, 40)) == 32 * 40 * 8 * 3 * 3 * 3


def test_strides_and_groups_cost_less_and_two_layers_cost_their_sum() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1, groups=2))
    assert multiply_adds(network, (32, 40)) == 16 * 20 * (6 * 3 * 9 + 4 * 3)


def test_counting_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    multiply_adds(network, (8, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_latency_is_the_median_of_the_runs_after_the_warm_up() -> None:
    calls = 0

    class Counting(nn.Conv2d):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return super().forward(image)

    assert 0 < latency_ms(Counting(3, 1, 1), (8, 8), runs=5) < 1000
    assert calls == 5 + 3


def test_the_throughput_counts_every_frame_of_a_batch() -> None:
    seen: list[int] = []

    class Slow(nn.Conv2d):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(len(image))
            time.sleep(0.05)
            return super().forward(image)

    frames_per_s = throughput_frames_per_s(Slow(3, 1, 1), (8, 8), batch=4, runs=2)
    assert seen == [4] * 5
    assert 0 < frames_per_s <= 4 / 0.05
