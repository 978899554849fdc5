"""What an evaluation comes to: the content of metrics.json, and the few figures of it that tables show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.bootstrap import (
    LEVEL,
    RESAMPLES,
    SEED,
    drawn_whole,
    intervals,
    intervals_of_difference,
    resampled_errors,
)
from pipeline.evaluation.evaluator import Evaluation
from pipeline.evaluation.protocols import Scores

BY_SCENE_TYPE = ("rmse", "abs_rel", "delta1")


def summary(evaluation: Evaluation, per_image: pd.DataFrame) -> dict[str, Any]:
    """All that the frames tell, unrounded: scores by protocol with their intervals, baselines, and where it fails.

    per_image: the table of `per_image_table`.
    """
    scenes = per_image["scene"].astype(str).to_numpy()
    by_scene, of_baseline = (
        {name: resampled_errors(scores.sums, groups=scenes) for name, scores in of_protocols.items()}
        for of_protocols in (evaluation.network, evaluation.baseline)
    )
    return {
        **_summaries(evaluation.network),
        "intervals": {
            name: intervals(resampled_errors(scores.sums)) for name, scores in evaluation.network.items()
        },
        "baseline_mean_map": _summaries(evaluation.baseline),
        "intervals_against_mean_map": {
            name: intervals_of_difference(errors, of_baseline[name]) for name, errors in by_scene.items()
        },
        "bootstrap": {"resamples": RESAMPLES, "level": LEVEL, "seed": SEED, "unit": "image"}
        | {"paired_unit": "image" if drawn_whole(scenes) is None else "scene"},
        "baseline_constant": _summaries(evaluation.constant),
        "single": _summaries(evaluation.single),
        "flip_averaged": _summaries(evaluation.flip_averaged),
        "aligned": {
            name: scores.summary() | _ratios(evaluation.median_ratios[name])
            for name, scores in evaluation.aligned.items()
        },
        "by_distance": evaluation.breakdown.by_distance(),
        "by_scene_type": by_scene_type(per_image),
        "by_region": evaluation.breakdown.by_region(),
        "boundaries": evaluation.boundaries.rows(),
        "error_histogram": {
            "edges_m": evaluation.histogram.edges_m(),
            "counts": evaluation.histogram.counts(),
            "mean_map_counts": evaluation.baseline_histogram.counts(),
        },
    }


def by_scene_type(per_image: pd.DataFrame) -> list[dict[str, Any]]:
    """Means over the images of each type under `full`, most frames first."""
    scored = per_image.dropna(subset=["full_rmse"])
    rows = [
        {"scene_type": str(kind), "frames": len(images)}
        | {metric: float(images[f"full_{metric}"].mean()) for metric in BY_SCENE_TYPE}
        for kind, images in scored.groupby("scene_type", sort=True)
    ]
    return sorted(rows, key=lambda row: -row["frames"])


def for_tables(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The figures by which experiments are compared, most important first, to four significant digits."""
    full, eigen, densedepth = (metrics[name] for name in ("full", "eigen", "densedepth"))
    low, high = metrics["intervals"]["full"]["rmse"]
    chosen = {
        "full": {"rmse": full["rmse"], "rmse_low": low, "rmse_high": high}
        | {"abs_rel": full["abs_rel"], "delta1": full["delta1"]}
        | {"aligned_delta1": metrics["aligned"]["full"]["delta1"]},
        "eigen": {name: eigen[name] for name in ("rmse", "abs_rel", "delta1")},
        "densedepth": {name: densedepth[name] for name in ("rmse_pooled", "abs_rel_pooled", "delta1_pooled")},
        "mean_map": {"rmse": metrics["baseline_mean_map"]["full"]["rmse"]},
        "parameters": metrics["parameters"],
        "latency_ms": metrics["latency_ms"],
    }
    return {
        name: {key: _rounded(figure) for key, figure in value.items()} if isinstance(value, dict) else value
        for name, value in (chosen | {"latency_ms": _rounded(chosen["latency_ms"])}).items()
    }


def distance_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """One row a band for DVC's plot: `distance_m` (its middle) and the errors, to four significant digits."""
    return pd.DataFrame(
        {"distance_m": (row["from_m"] + row["to_m"]) / 2, "pixels": row["pixels"]}
        | {name: _rounded(row[name]) for name in ("rmse", "abs_rel", "delta1")}
        for row in metrics["by_distance"]
    )


def histogram_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """One row a step of signed error for DVC's plot: `error_m` (its middle) and the shares of pixels in per cent.

    Steps beyond the last that either model or mean map reaches are left out.
    """
    histogram = metrics["error_histogram"]
    edges_m = np.array(histogram["edges_m"])
    counts, of_mean_map = (np.array(histogram[name]) for name in ("counts", "mean_map_counts"))
    used = np.flatnonzero(counts + of_mean_map)
    kept = slice(used.min(), used.max() + 1) if len(used) else slice(0)
    return pd.DataFrame(
        {
            "error_m": ((edges_m[:-1] + edges_m[1:]) / 2)[kept].round(3),
            "share": (100 * counts / max(1, counts.sum()))[kept].round(4),
            "mean_map_share": (100 * of_mean_map / max(1, of_mean_map.sum()))[kept].round(4),
        }
    )


def _summaries(scores: Mapping[str, Scores]) -> dict[str, dict[str, float]]:
    return {name: of_protocol.summary() for name, of_protocol in scores.items()}


def _ratios(ratios: np.ndarray) -> dict[str, float]:
    """Mean and standard deviation over the images that have a valid pixel."""
    return {"median_ratio": float(np.nanmean(ratios)), "median_ratio_spread": float(np.nanstd(ratios))}


def _rounded(figure: float) -> float:
    return float(f"{figure:.4g}")
