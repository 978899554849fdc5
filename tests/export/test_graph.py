"""The graph that is exported computes what the network does, without its batch normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.export.graph import MIN_DEPTH_M, DepthGraph, fold_normalisation


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (2, 3, 33, 47), (1, 3, 100, 150)])
def test_folding_normalisation_into_convolutions_changes_nothing(
    network: nn.Module, shape: tuple[int, ...]
) -> None:
    folded = fold_normalisation(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules()), "the original stays as it is"
    rgb = torch.rand(shape)
    with torch.no_grad():
        expected_m = network(rgb)
        assert expected_m.std() > 0.05, "a flat map would show nothing"
        torch.testing.assert_close(folded(rgb), expected_m, rtol=0, atol=3e-5)


def test_every_convolution_that_normalisation_follows_takes_it_in() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 1, bias=False))
    layers += nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2)))
    with torch.no_grad():
        layers.train()(3 * torch.rand(8, 3, 9, 9) + 1)
    folded = fold_normalisation(layers)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == 1, "before it is none"
    rgb = torch.rand(2, 3, 9, 9)
    torch.testing.assert_close(folded(rgb), layers.eval()(rgb))


def test_depth_is_clipped_to_the_range_that_is_told() -> None:
    class Ramp(nn.Module):
        def forward(self, rgb: torch.Tensor) -> torch.Tensor:
            return 20 * rgb[:, :1] - 5

    rgb = torch.linspace(0, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    depth_m = DepthGraph(Ramp(), 8.0)(rgb)
    assert depth_m.min() == pytest.approx(MIN_DEPTH_M)
    assert depth_m.max() <= 8.0
