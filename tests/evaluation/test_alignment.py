"""Scaling to the median of the truth, against numpy's median."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.evaluation.alignment import median_ratios, scaled
from pipeline.evaluation.metrics import Region

CROP = Region(slice(2, 9), slice(1, 10), (1e-3, 9.0), (1e-3, 10.0))


def test_the_ratio_is_that_of_the_medians_over_the_valid_pixels_of_the_region() -> None:
    random = np.random.default_rng(0)
    target_m = random.uniform(0.5, 9.9, (3, 1, 11, 12)).astype(np.float32)
    target_m[1, 0, :, :5] = 0
    prediction_m = random.uniform(0.5, 12, target_m.shape).astype(np.float32)
    ratios = median_ratios(torch.from_numpy(prediction_m), torch.from_numpy(target_m), CROP)
    for image, ratio in enumerate(ratios.tolist()):
        g, p = target_m[image, 0, 2:9, 1:10], prediction_m[image, 0, 2:9, 1:10]
        valid = (g > 1e-3) & (g < 9)
        lower = [np.quantile(values[valid], 0.5, method="lower") for values in (g, p)]
        assert ratio == pytest.approx(lower[0] / lower[1], rel=1e-6)


def test_a_prediction_of_the_right_shape_in_another_unit_becomes_the_truth() -> None:
    target_m = 1 + 8 * torch.rand((2, 1, 11, 12), generator=torch.Generator().manual_seed(0))
    prediction = target_m * torch.tensor([100.0, 0.2]).view(2, 1, 1, 1)
    ratios = median_ratios(prediction, target_m, Region())
    assert ratios.tolist() == pytest.approx([0.01, 5.0])
    torch.testing.assert_close(scaled(prediction, ratios), target_m)


def test_a_frame_without_a_valid_pixel_has_no_ratio_and_stays_as_it_is() -> None:
    ratios = median_ratios(
        torch.ones(2, 1, 11, 12), torch.tensor([0.0, 3.0]).view(2, 1, 1, 1).expand(2, 1, 11, 12), CROP
    )
    assert ratios[0].isnan()
    assert scaled(torch.ones(2, 1, 1, 1), ratios).flatten().tolist() == [1.0, 3.0]


def test_a_prediction_at_or_below_zero_is_scaled_from_the_lowest_depth_that_is_scored() -> None:
    ratios = median_ratios(torch.full((1, 1, 11, 12), -1.0), torch.full((1, 1, 11, 12), 2.0), CROP)
    assert ratios.item() == pytest.approx(2 / 1e-3)
