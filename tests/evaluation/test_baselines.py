from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.evaluation.baselines import mean_depths


def random_depths_mm(n: int = 9, height: int = 6, width: int = 7, missing: float = 0.4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    depth_mm = torch.randint(500, 10001, (n, 1, height, width), generator=generator)
    depth_mm[torch.rand(depth_mm.shape, generator=generator) < missing] = 0
    depth_mm[0] = depth_mm[0].clamp(min=500)  # so that every pixel is measured once
    return depth_mm.to(torch.int16)


def test_each_pixel_is_the_mean_over_the_frames_that_measured_it() -> None:
    depth_mm = random_depths_mm()
    measured = np.ma.masked_equal(depth_mm.numpy().astype(np.float64), 0)
    mean_m = mean_depths([depth_mm]).map_m
    assert (mean_m.shape, mean_m.dtype) == ((1, 1, 6, 7), torch.float32)
    np.testing.assert_allclose(mean_m[0].numpy(), measured.mean(axis=0).data / 1000, rtol=1e-7)


def test_the_way_frames_are_batched_does_not_matter() -> None:
    depth_mm = random_depths_mm()
    torch.testing.assert_close(
        mean_depths(iter(depth_mm.split([1, 5, 3]))).map_m, mean_depths([depth_mm]).map_m, rtol=0, atol=0
    )


def test_many_frames_do_not_overflow_sixteen_bits() -> None:
    assert mean_depths([torch.full((300, 1, 2, 2), 10000, dtype=torch.int16)] * 2).map_m.unique().tolist() == [10.0]


def test_pixels_that_no_frame_measured_take_the_nearest_that_some_did() -> None:
    depth_mm = torch.zeros(1, 1, 3, 7, dtype=torch.int16)
    depth_mm[0, 0, 1, 2], depth_mm[0, 0, 1, 5] = 1000, 3000
    assert mean_depths([depth_mm]).map_m[0, 0].tolist() == [[1, 1, 1, 1, 3, 3, 3]] * 3


def test_without_any_measured_depth_there_is_no_mean_map() -> None:
    for batches in ([], [torch.zeros(2, 1, 4, 4, dtype=torch.int16)]):
        with pytest.raises(PipelineError, match="needs training frames with measured depth"):
            mean_depths(batches)


def test_the_mean_everywhere_is_that_of_all_measured_pixels() -> None:
    depth_mm = torch.tensor([[1000, 2000, 0], [3000, 0, 0]], dtype=torch.int16).view(2, 1, 1, 3)
    assert mean_depths([depth_mm]).everywhere_m.tolist() == [[[[2.0]]]]
