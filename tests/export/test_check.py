"""A file that differs from the network is not kept, and why is said in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import PipelineError
from pipeline.export.check import largest_difference


def run_of(network: nn.Module, off_m: float = 0.0) -> object:
    def run(rgb: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(rgb)).numpy() + np.float32(off_m)

    return run


def test_the_largest_difference_is_told(network: nn.Module) -> None:
    assert largest_difference(run_of(network, 5e-5), network, 8.0) == pytest.approx(5e-5, rel=0.05)


@pytest.mark.parametrize("off_m", [2e-4, float("nan")])
def test_more_than_a_tenth_of_a_millimetre_is_refused(network: nn.Module, off_m: float) -> None:
    with pytest.raises(PipelineError, match=r"m from the network for 1 of 32 x 32, so it is not kept") as caught:
        largest_difference(run_of(network, off_m), network, 8.0)
    assert "\n" not in str(caught.value)


def test_a_graph_of_one_size_is_refused(network: nn.Module) -> None:
    def run(rgb: np.ndarray) -> np.ndarray:
        if rgb.shape[-1] != 32:
            raise RuntimeError("expected 32\ncolumns")
        return run_of(network)(rgb)  # type: ignore[operator]

    with pytest.raises(PipelineError, match="fails for 2 of 33 x 47, so it is not kept: expected 32 columns"):
        largest_difference(run, network, 8.0)
