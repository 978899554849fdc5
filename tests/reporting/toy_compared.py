"""Evaluated experiments for tests of comparisons, made here from plain numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pipeline.reporting.compared import Evaluated
from pipeline.reporting.inputs import Predictions
from tests.reporting.toy import history, rich_metrics

FRAMES = 40


def per_image(rmse: np.ndarray, names: list[str] | None = None) -> pd.DataFrame:
    """A table whose RMSE are these; AbsRel is half of it, δ1 what is left of 1."""
    columns: dict[str, Any] = {
        "frame": names or [f"{number:04d}" for number in range(len(rmse))],
        "scene": [f"office_{number}" for number in range(len(rmse))],
        "scene_type": ["office" if number % 2 else "home_office" for number in range(len(rmse))],
    }
    for protocol in ("full", "eigen"):
        columns |= {f"{protocol}_rmse": rmse, f"{protocol}_abs_rel": rmse / 2, f"{protocol}_delta1": 1 - rmse}
    return pd.DataFrame(columns | {"full_aligned_delta1": 1 - rmse / 2})


def hard_and_easy() -> np.ndarray:
    """RMSE of the reference: frames differ much more than experiments do."""
    return np.linspace(0.2, 0.9, FRAMES)


def evaluated(name: str, rmse: np.ndarray, *, params: dict[str, Any] | None = None, **metrics: Any) -> Evaluated:
    table = per_image(rmse)
    means = {
        protocol: {
            "rmse": rmse.mean(),
            "abs_rel": rmse.mean() / 2,
            "delta1": 1 - rmse.mean(),
            "rmse_pooled": 0.5,
            "abs_rel_pooled": 0.25,
            "delta1_pooled": 0.75,
        }
        for protocol in ("full", "eigen", "densedepth")
    }
    return Evaluated(
        name,
        "DVC experiment, commit 3f2a9c8",
        name,
        True,
        rich_metrics(frames=len(rmse), **means, **metrics),
        {"seed": 0, "loss": {"ssim_weight": 0.5}, "train": {"epochs": 20}} | (params or {}),
        table,
        history(5),
        None,
    )


def seen(ranks: dict[int, str], off_mm: int, size: tuple[int, int] = (48, 64)) -> Predictions:
    """Predictions of the frames of these numbers, all so far off. The number alone gives a frame its content."""
    rgb, depth = [], []
    for number in ranks:
        random = np.random.default_rng(number)
        rgb.append(random.integers(0, 256, (3, *size), dtype=np.uint8))
        depth.append((1500 + 20 * np.mgrid[: size[0], : size[1]][:1] + number).astype(np.int16))
    depth_mm = np.stack(depth)
    return Predictions(
        np.stack(rgb),
        depth_mm,
        (depth_mm + off_mm).astype(np.int16),
        [
            {"frame": f"{number:04d}", "scene": f"office_{number}", "rank": rank, "rmse": off_mm / 1000}
            for number, rank in ranks.items()
        ],
    )
