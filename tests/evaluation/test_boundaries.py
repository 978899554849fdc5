"""Depth edges against scipy's Sobel filter and edges that were put where they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import sobel

from pipeline.evaluation.boundaries import THRESHOLDS_M, Boundaries, least_of_neighbours, sobel_squared


def step(column: int, height_m: float) -> torch.Tensor:
    """A wall at 2 m, from `column` on further away by that much."""
    depth_m = torch.full((1, 1, 10, 20), 2.0)
    depth_m[..., column:] += height_m
    return depth_m


def rows_of(prediction_m: torch.Tensor, target_m: torch.Tensor) -> dict[float, dict[str, float]]:
    boundaries = Boundaries()
    boundaries.add(prediction_m, target_m)
    return {row["threshold_m"]: row for row in boundaries.rows()}


def test_the_magnitude_is_that_of_the_sobel_filter_without_normalisation() -> None:
    depth_m = np.random.default_rng(0).uniform(1, 9, (2, 14, 17)).astype(np.float32)
    expected = [sobel(image, axis=0) ** 2 + sobel(image, axis=1) ** 2 for image in depth_m.astype(np.float64)]
    found = sobel_squared(torch.from_numpy(depth_m))
    np.testing.assert_allclose(found.numpy(), np.array(expected)[:, 1:-1, 1:-1], rtol=1e-4, atol=1e-4)


def test_equal_maps_share_every_edge() -> None:
    rows = rows_of(step(7, 1.0), step(7, 1.0))
    assert set(rows) == set(THRESHOLDS_M)
    assert all((row["precision"], row["recall"], row["f1"]) == (1, 1, 1) for row in rows.values())


def test_a_step_counts_by_four_times_its_height() -> None:
    """The filter's weights on one side of a step add up to 4: 0.1 m is 0.4, above 0.25 only."""
    assert set(rows_of(step(7, 0.1), step(7, 0.1))) == {0.25}
    assert set(rows_of(step(7, 0.2), step(7, 0.2))) == {0.25, 0.5}


def test_an_edge_beside_the_true_one_shares_half_of_its_two_columns() -> None:
    """A step is seen in the columns on both sides of it: 6 and 7, against 7 and 8."""
    row = rows_of(step(8, 1.0), step(7, 1.0))[0.5]
    assert (row["precision"], row["recall"], row["f1"]) == (0.5, 0.5, 0.5)


def test_too_many_edges_cost_precision_and_too_few_recall() -> None:
    two = step(5, 1.0) + step(14, 1.0)
    more = rows_of(two, step(5, 1.0))[0.5]
    assert (more["precision"], more["recall"], more["f1"]) == (0.5, 1, pytest.approx(2 / 3))
    fewer = rows_of(step(5, 1.0), two)[0.5]
    assert (fewer["precision"], fewer["recall"]) == (1, 0.5)
    none = rows_of(step(5, 0.0), two)[0.5]
    assert (none["precision"], none["recall"], none["f1"]) == (0, 0, 0)


def test_only_neighbourhoods_with_a_truth_throughout_count() -> None:
    """Where depth is missing a map falls to 0, which is no edge of the room."""
    target_m, prediction_m = step(7, 1.0), step(7, 1.0)
    target_m[..., 12:] = 0
    prediction_m[..., 15:] += 3.0
    row = rows_of(prediction_m, target_m)[1.0]
    assert (row["precision"], row["recall"]) == (1, 1)
    assert least_of_neighbours(target_m[:, 0])[0, 0].tolist() == [2.0] * 7 + [3.0] * 3 + [0.0] * 8


def test_figures_are_means_over_the_images_that_have_an_edge_in_either_map() -> None:
    boundaries = Boundaries()
    boundaries.add(torch.cat([step(7, 1.0), step(8, 1.0)]), torch.cat([step(7, 1.0), step(7, 1.0)]))
    boundaries.add(step(7, 0.0), step(7, 0.0))
    (row,) = (row for row in boundaries.rows() if row["threshold_m"] == 0.5)
    assert (row["precision"], row["recall"], row["f1"]) == (0.75, 0.75, 0.75)


def test_no_edges_give_no_rows() -> None:
    assert rows_of(step(7, 0.0), step(7, 0.0)) == {}
