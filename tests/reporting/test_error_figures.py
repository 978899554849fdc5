"""Where a network errs, as charts: each number at its place, with its share of pixels or frames."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipeline.reporting import error_figures

BANDS = [
    {"from_m": 0, "to_m": 1, "pixels": 100, "rmse": 0.2, "abs_rel": 0.3, "delta1": 0.6},
    {"from_m": 1, "to_m": 2, "pixels": 300, "rmse": 0.3, "abs_rel": 0.2, "delta1": 0.7},
    {"from_m": 4, "to_m": 5, "pixels": 600, "rmse": 0.9, "abs_rel": 0.2, "delta1": 0.5},
]


def per_image() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "frame": ["a", "b", "c", "d"],
            "scene": ["kitchen_1", "kitchen_1", "office_1", "bedroom_1"],
            "scene_type": ["kitchen", "kitchen", "home_office", None],
            "full_rmse": [0.4, 0.6, 0.9, np.nan],
        }
    )


def test_bands_of_distance_stand_at_their_depth_with_their_share_of_all_pixels() -> None:
    rmse, relative, share = error_figures.error_by_distance_figure(BANDS).axes
    np.testing.assert_allclose(rmse.lines[0].get_xydata(), [[0.5, 0.2], [1.5, 0.3], [4.5, 0.9]])
    assert [bar.get_height() for bar in share.patches] == pytest.approx([10, 30, 60])
    assert rmse.get_zorder() > share.get_zorder()
    delta1, abs_rel = relative.lines
    np.testing.assert_allclose(delta1.get_ydata(), [60, 70, 50])
    np.testing.assert_allclose(abs_rel.get_ydata(), [30, 20, 20])


def test_scene_types_are_sorted_from_the_worst_and_say_how_many_frames_they_have() -> None:
    table = error_figures.rmse_by_scene_type(per_image())
    assert list(table.index) == ["home_office", "kitchen"]
    assert list(table["n"]) == [1, 2]
    assert list(table["rmse"]) == pytest.approx([0.9, 0.5])
    axes = error_figures.error_by_scene_type_figure(per_image()).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["home office  (1)", "kitchen  (2)"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row on top


def test_frames_without_a_scene_type_are_grouped_as_not_stated() -> None:
    table = error_figures.rmse_by_scene_type(per_image().assign(full_rmse=[0.1, 0.1, 0.1, 0.7]))
    assert table.index[0] == "not stated"


def test_the_histogram_shows_shares_of_both_predictors_at_the_middles_of_their_bins() -> None:
    histogram = {"edges_m": [-1.0, 0.0, 1.0], "counts": [30, 10], "mean_map_counts": [1, 3]}
    model, mean_map, zero = error_figures.error_histogram_figure(histogram).axes[0].lines
    np.testing.assert_allclose(model.get_xydata(), [[-0.5, 75], [0.5, 25]])
    np.testing.assert_allclose(mean_map.get_ydata(), [25, 75])
    assert list(zero.get_xdata()) == [0, 0]
    alone = error_figures.error_histogram_figure({**histogram, "mean_map_counts": None}).axes[0].lines
    assert [line.get_label() for line in alone[:-1]] == ["this model"]


def test_the_histogram_leaves_its_long_tails_out_but_counts_them() -> None:
    edges = np.linspace(-10, 10, 201)
    counts = np.zeros(200)
    counts[95:105], counts[0] = 1000.0, 1.0
    (line, _) = error_figures.error_histogram_figure({"edges_m": edges, "counts": counts}).axes[0].lines
    np.testing.assert_allclose(line.get_xdata(), np.linspace(-0.45, 0.45, 10))
    np.testing.assert_allclose(line.get_ydata(), 100 * 1000 / 10001)


def test_the_histogram_of_depths_leaves_empty_splits_out() -> None:
    counts = {"train": np.array([1, 3]), "val": np.zeros(2), "test": np.array([2, 2])}
    lines = error_figures.depth_histogram_figure(np.array([0.0, 1.0, 2.0]), counts).axes[0].lines
    assert [line.get_label() for line in lines] == ["train", "test"]
    np.testing.assert_allclose([line.get_ydata() for line in lines], [[25, 75], [50, 50]])
    assert lines[0].get_linestyle() != lines[1].get_linestyle()
