"""Errors by distance and part of the image, and their histogram, against float64 numpy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from pipeline.evaluation.breakdown import BANDS_M, GRID, Breakdown, ErrorHistogram


def random_pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    target_m = random.uniform(0.5, 9.9, (2, 1, 12, 10)).astype(np.float32)
    target_m[random.random(target_m.shape) < 0.2] = 0
    return random.uniform(0.5, 9.9, target_m.shape).astype(np.float32), target_m


def test_each_band_pools_its_pixels_over_all_batches() -> None:
    bands = Breakdown()
    pairs = [random_pair(seed) for seed in (0, 1)]
    for prediction_m, target_m in pairs:
        bands.add(torch.from_numpy(prediction_m), torch.from_numpy(target_m))
    p, g = (np.concatenate([pair[side].ravel() for pair in pairs]).astype(np.float64) for side in (0, 1))

    rows = bands.by_distance()
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
    bands = Breakdown()
    target_m = torch.tensor([2.0, 3.0, 3.0, 0.0]).view(1, 1, 2, 2)
    bands.add(torch.ones(1, 1, 2, 2), target_m)
    assert [(row["from_m"], row["pixels"]) for row in bands.by_distance()] == [(1.0, 1), (2.0, 2)]


def test_nothing_measured_gives_no_rows() -> None:
    bands = Breakdown()
    assert bands.by_distance() == []
    bands.add(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
    assert bands.by_distance() == []


def test_the_bands_cover_the_ten_metres_of_the_sensor() -> None:
    assert BANDS_M[0][0] == 0
    assert BANDS_M[-1][1] == 10
    assert all(left[1] == right[0] for left, right in pairwise(BANDS_M))


def test_depth_beyond_the_bands_is_in_none_of_them() -> None:
    bands = Breakdown()
    bands.add(torch.ones(1, 1, 1, 3), torch.tensor([9.5, 10.5, 300.0]).view(1, 1, 1, 3))
    assert [(row["from_m"], row["pixels"]) for row in bands.by_distance()] == [(9.0, 1)]


def test_each_part_of_the_image_pools_its_pixels_over_all_batches() -> None:
    parts = Breakdown()
    pairs = [random_pair(seed) for seed in (0, 1)]
    for prediction_m, target_m in pairs:
        parts.add(torch.from_numpy(prediction_m), torch.from_numpy(target_m))
    p, g = (np.concatenate([pair[side] for pair in pairs])[:, 0].astype(np.float64) for side in (0, 1))
    found = parts.by_region()
    assert (found["rows"], found["columns"]) == GRID == (3, 4)
    columns = [0, 2, 5, 8, 10]  # of ten, a quarter each, rounded
    for i in range(3):
        for j in range(4):
            part = np.s_[:, 4 * i : 4 * i + 4, columns[j] : columns[j + 1]]
            inside = g[part] > 0
            error, truth = (p - g)[part][inside], g[part][inside]
            ratio = np.maximum(p[part][inside] / truth, truth / p[part][inside])
            assert found["pixels"][i][j] == inside.sum()
            assert found["rmse"][i][j] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-6)
            assert found["abs_rel"][i][j] == pytest.approx((np.abs(error) / truth).mean(), rel=1e-6)
            assert found["delta1"][i][j] == pytest.approx((ratio < 1.25).mean())


def test_a_part_without_depth_has_no_figures() -> None:
    target_m = torch.full((1, 1, 6, 8), 2.0)
    target_m[..., :2, 6:] = 0
    parts = Breakdown()
    parts.add(torch.full_like(target_m, 2.5), target_m)
    found = parts.by_region()
    assert (found["pixels"][0][3], found["rmse"][0][3]) == (0, None)
    assert (found["pixels"][0][0], found["rmse"][0][0], found["delta1"][0][0]) == (4, 0.5, 0)


def test_the_histogram_tells_too_far_from_too_near_and_leaves_out_what_is_missing() -> None:
    histogram = ErrorHistogram()
    target_m = torch.tensor([4.0, 4.0, 4.0, 4.0, 0.0]).view(1, 1, 1, 5)
    histogram.add(target_m + torch.tensor([0.25, 0.25, -1.05, 50.0, 3.0]).view(1, 1, 1, 5), target_m)
    edges_m, counts = histogram.edges_m(), histogram.counts()
    assert (edges_m[0], edges_m[100], edges_m[-1], len(counts)) == (-10.0, 0.0, 10.0, 200)
    assert {edges_m[step]: count for step, count in enumerate(counts) if count} == {0.2: 2, -1.1: 1, 9.9: 1}


def test_the_histogram_is_that_of_numpy() -> None:
    histogram = ErrorHistogram()
    pairs = [random_pair(seed) for seed in (0, 1)]
    for prediction_m, target_m in pairs:
        histogram.add(torch.from_numpy(prediction_m), torch.from_numpy(target_m))
    error = np.concatenate([(p.astype(float) - g)[g > 0] for p, g in pairs])
    expected, _ = np.histogram(error, histogram.edges_m())
    assert histogram.counts() == expected.tolist()
