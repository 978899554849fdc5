"""Errors by distance, against the published formulas in float64 numpy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from pipeline.evaluation.distance import BANDS_M, DistanceBands


def random_pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    target_m = random.uniform(0.5, 9.9, (2, 1, 12, 10)).astype(np.float32)
    target_m[random.random(target_m.shape) < 0.2] = 0
    return random.uniform(0.5, 9.9, target_m.shape).astype(np.float32), target_m


def test_each_band_pools_its_pixels_over_all_batches() -> None:
    bands = DistanceBands()
    pairs = [random_pair(seed) for seed in (0, 1)]
    for prediction_m, target_m in pairs:
        bands.add(torch.from_numpy(prediction_m), torch.from_numpy(target_m))
    p, g = (np.concatenate([pair[side].ravel() for pair in pairs]).astype(np.float64) for side in (0, 1))

    rows = bands.rows()
    assert [(row["from_m"], row["to_m"]) for row in rows] == [(near, near + 1) for near in range(10)]
    assert sum(row["pixels"] for row in rows) == (g > 0).sum()
    for row in rows:
        inside = (g > row["from_m"]) & (g <= row["to_m"])
        error = p[inside] - g[inside]
        ratio = np.maximum(p[inside] / g[inside], g[inside] / p[inside])
        assert row["pixels"] == inside.sum()
        assert row["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-6)
        assert row["abs_rel"] == pytest.approx((np.abs(error) / g[inside]).mean(), rel=1e-6)
        assert row["delta1"] == pytest.approx((ratio < 1.25).mean())


def test_a_band_contains_its_far_end_and_not_its_near_one() -> None:
    bands = DistanceBands()
    target_m = torch.tensor([2.0, 3.0, 3.0, 0.0]).view(1, 1, 2, 2)
    bands.add(torch.ones(1, 1, 2, 2), target_m)
    assert [(row["from_m"], row["pixels"]) for row in bands.rows()] == [(1.0, 1), (2.0, 2)]


def test_nothing_measured_gives_no_rows() -> None:
    bands = DistanceBands()
    assert bands.rows() == []
    bands.add(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
    assert bands.rows() == []


def test_the_bands_cover_the_ten_metres_of_the_sensor() -> None:
    assert BANDS_M[0][0] == 0
    assert BANDS_M[-1][1] == 10
    assert all(left[1] == right[0] for left, right in pairwise(BANDS_M))
