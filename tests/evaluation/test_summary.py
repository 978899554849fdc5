"""What metrics.json and the tables of DVC say, against figures worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from pipeline.data.frames import Frames
from pipeline.evaluation.baselines import MeanDepths
from pipeline.evaluation.evaluator import evaluate_on_source, per_image_table
from pipeline.evaluation.protocols import PROTOCOLS
from pipeline.evaluation.summary import by_scene_type, distance_table, for_tables, histogram_table, summary

ERRORS_M = (1.0, 2.0, 3.0)


class FlatFrames:
    """Three frames at 4 m; their red tells how far the prediction is off."""

    size = (48, 64)
    slab_frames = 2
    names = ("a", "b", "c")
    scenes = ("office_0001", "bedroom_0001", "office_0002")
    scene_types = ("office", "bedroom", "office")

    def __len__(self) -> int:
        return 3

    def read(self, start: int, stop: int) -> Frames:
        rgb_u8 = np.zeros((3, *self.size, 3), np.uint8)
        rgb_u8[..., 0] = np.array(ERRORS_M, np.uint8)[:, None, None]
        depth_m = np.full((3, *self.size), 4.0, np.float32)
        return Frames(rgb_u8[start:stop], depth_m[start:stop], depth_m[start:stop])


def off_by_red(rgb: Tensor) -> Tensor:
    return 4 + 255 * rgb[:, :1]


@pytest.fixture(scope="module")
def per_image() -> pd.DataFrame:
    return per_image_table(EVALUATION, FlatFrames())


@pytest.fixture(scope="module")
def metrics(per_image: pd.DataFrame) -> dict[str, Any]:
    return summary(EVALUATION, per_image) | {"parameters": 498_123, "latency_ms": 4.56789}


MEANS = MeanDepths(torch.full((1, 1, 6, 8), 4.5), torch.full((1, 1, 1, 1), 6.5))
EVALUATION = evaluate_on_source(off_by_red, MEANS, FlatFrames(), [0, 1, 2], batch_size=2)


def test_all_of_it_is_json_without_gaps(metrics: dict[str, Any]) -> None:
    assert json.loads(json.dumps(metrics, allow_nan=False))["bootstrap"] == {
        "resamples": 10_000,
        "level": 0.95,
        "seed": 0,
        "unit": "image",
        "paired_unit": "image",
    }
    for name in ("baseline_mean_map", "baseline_constant", "single", "flip_averaged", "aligned", "intervals"):
        assert set(metrics[name]) == set(PROTOCOLS)


def test_network_and_baselines_have_their_figures(metrics: dict[str, Any]) -> None:
    for protocol in PROTOCOLS:
        assert metrics[protocol]["rmse"] == pytest.approx(2)
        assert metrics[protocol]["rmse_pooled"] == pytest.approx(np.sqrt(14 / 3))
        assert metrics["baseline_mean_map"][protocol]["rmse"] == pytest.approx(0.5)
        assert metrics["baseline_constant"][protocol]["rmse"] == pytest.approx(2.5)


def test_a_prediction_of_the_right_shape_is_right_once_it_is_aligned(metrics: dict[str, Any]) -> None:
    aligned = metrics["aligned"]["full"]
    ratios = [4 / (4 + error) for error in ERRORS_M]
    assert (aligned["delta1"], metrics["full"]["delta1"]) == (1, 0)
    assert aligned["rmse"] == pytest.approx(0, abs=1e-6)
    assert aligned["median_ratio"] == pytest.approx(np.mean(ratios))
    assert aligned["median_ratio_spread"] == pytest.approx(np.std(ratios))


def test_intervals_span_what_three_images_can_give(metrics: dict[str, Any]) -> None:
    """All draws of one image have a chance of 1/27 each, above 2.5 %."""
    assert metrics["intervals"]["full"]["rmse"] == pytest.approx((1, 3))
    assert metrics["intervals_against_mean_map"]["full"]["rmse"] == pytest.approx((0.5, 2.5))
    assert "rmse_pooled" in metrics["intervals"]["densedepth"]


def test_scene_types_have_means_over_their_images_most_frames_first(
    metrics: dict[str, Any], per_image: pd.DataFrame
) -> None:
    rows = metrics["by_scene_type"]
    assert [(row["scene_type"], row["frames"], row["rmse"]) for row in rows] == [
        ("office", 2, pytest.approx(2)),
        ("bedroom", 1, pytest.approx(2)),
    ]
    assert rows[0]["abs_rel"] == pytest.approx((0.25 + 0.75) / 2)
    unscored = per_image.assign(full_rmse=[np.nan, 2.0, 3.0])
    assert [(row["scene_type"], row["frames"]) for row in by_scene_type(unscored)] == [
        ("bedroom", 1),
        ("office", 1),
    ]


def test_the_tables_of_dvc_show_rounded_figures_the_important_first(metrics: dict[str, Any]) -> None:
    shown = for_tables(metrics)
    assert list(shown) == ["full", "eigen", "densedepth", "mean_map", "parameters", "latency_ms"]
    assert list(shown["full"]) == ["rmse", "rmse_low", "rmse_high", "abs_rel", "delta1", "aligned_delta1"]
    assert shown["full"]["rmse_low"] == pytest.approx(1)
    assert shown["densedepth"]["rmse_pooled"] == 2.16
    assert (shown["parameters"], shown["latency_ms"]) == (498_123, 4.568)


def test_the_tables_of_dvcs_plots_have_a_row_a_band_and_a_row_a_step(metrics: dict[str, Any]) -> None:
    (band,) = distance_table(metrics).to_dict("records")
    assert (band["distance_m"], band["pixels"], band["rmse"]) == (3.5, 3 * 48 * 64, 2.16)
    steps = histogram_table(metrics)
    assert list(steps.columns) == ["error_m", "share", "mean_map_share"]
    assert steps["error_m"].iloc[[0, -1]].tolist() == [0.55, 3.05]
    assert steps["share"].sum() == pytest.approx(100, abs=0.01)
    assert steps["mean_map_share"].iloc[0] == 100
