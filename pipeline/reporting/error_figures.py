"""Where and how a network errs: by distance, scene type and size of the error; and the depths it learnt from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.reporting.style import CHART_PX, LIGHT, Theme, chart, dress, label_y, legend

SHOWN_SHARE = 0.997
"""Of the pixels in a histogram of errors: its tails are as long as the room and as flat as its floor."""
TWO_PANELS_PX = 360
"""Height of a chart of two panels that both have lettering of their own."""


def error_by_distance_figure(bands: Sequence[Mapping[str, Any]], theme: Theme = LIGHT) -> Figure:
    """RMSE in each band of true depth before the share of all pixels that lie in it; below, AbsRel and δ1."""
    figure, (axes, shares) = chart(theme, rows=2, height_px=TWO_PANELS_PX)
    edges = [(float(band["from_m"]), float(band["to_m"])) for band in bands]
    centres = [(start + stop) / 2 for start, stop in edges]
    pixels = np.array([band["pixels"] for band in bands], dtype=np.float64)
    rmse = _column(bands, "rmse")

    share = axes.twinx()
    of_all = 100 * pixels / max(pixels.sum(), 1.0)
    share.bar(centres, of_all, width=[0.86 * (stop - start) for start, stop in edges], color=theme.fill)
    share.plot(centres, of_all, linestyle="", color=theme.muted, label="pixels")  # for whoever reads values off
    dress(share, theme, grid=False)
    share.set_ylim(0, max(of_all.max() * 1.25, 1.0))
    label_y(share, "Bars: share of pixels (%)", theme, right=True)

    # twinx draws the newer axes on top; the curve has to stand in front of the bars.
    axes.set_zorder(share.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.plot(centres, rmse, "o-", color=theme.accent, linewidth=1.8, ms=4, label="RMSE")
    axes.set_ylim(0, float(np.nanmax([*rmse, 0.1])) * 1.2)
    label_y(axes, "Line: RMSE (m)", theme)
    axes.yaxis.label.set_color(theme.accent)

    for name, label, colour, style, marker in (
        ("delta1", "δ < 1.25", theme.accent, "-", "o"),
        ("abs_rel", "AbsRel", theme.second, "--", "s"),
    ):
        values = 100 * _column(bands, name)
        shares.plot(centres, values, color=colour, linestyle=style, marker=marker, ms=4, linewidth=1.8, label=label)
    shares.set_ylim(bottom=0)
    label_y(shares, "Share of pixels, relative error (%)", theme)
    legend(shares, theme)
    shares.set_xticks(sorted({edge for band in edges for edge in band}))
    shares.xaxis.set_major_formatter("{x:g}")
    shares.set_xlabel("True depth (m)")
    return figure


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """NaN where a row has no number."""
    return np.array([math.nan if (value := row.get(name)) is None else float(value) for row in rows])


def error_by_scene_type_figure(per_image: pd.DataFrame, theme: Theme = LIGHT) -> Figure:
    """Mean RMSE a frame in each scene type, hardest first, every frame as a dot on its bar."""
    types = rmse_by_scene_type(per_image)
    figure, (axes,) = chart(theme, height_px=max(170, 60 + 22 * len(types)))
    rows = np.arange(len(types))
    axes.barh(rows, types["rmse"], height=0.62, color=theme.fill)
    for row, frames_rmse in zip(rows, types["frames_rmse"], strict=True):
        axes.plot(frames_rmse, np.full(len(frames_rmse), row), "o", ms=3, color=theme.accent, alpha=0.6, mew=0)
    axes.plot(types["rmse"], rows, "|", ms=11, mew=2, color=theme.ink)
    axes.set_yticks(
        rows,
        [f"{name.replace('_', ' ')}  ({frames})" for name, frames in zip(types.index, types["n"], strict=True)],
    )
    axes.set_ylim(len(types) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x", color=theme.line, linewidth=0.8)
    axes.set_xlabel("RMSE (m)")
    label_y(axes, "Scene type (number of frames)", theme)
    return figure


def rmse_by_scene_type(per_image: pd.DataFrame) -> pd.DataFrame:
    """Scene type -> `rmse` (mean over frames, m), `n`, `frames_rmse`; sorted from the worst to the best."""
    scored = per_image.dropna(subset=["full_rmse"])
    kinds = scored["scene_type"].fillna("not stated").astype(str)
    groups = scored["full_rmse"].groupby(kinds)
    table = pd.DataFrame({"rmse": groups.mean(), "n": groups.size(), "frames_rmse": groups.agg(list)})
    return table.sort_values("rmse", ascending=False)


def error_histogram_figure(histogram: Mapping[str, Any], theme: Theme = LIGHT) -> Figure:
    """How often an error of each size and sign occurs, beside the mean-depth map's where it is known."""
    figure, (axes,) = chart(theme)
    edges = np.asarray(histogram["edges_m"], float)
    both = np.array([counts for key in ("counts", "mean_map_counts") if (counts := histogram.get(key)) is not None])
    shown = _without_tails(edges, both.sum(axis=0))
    _steps(axes, edges, both[0], "this model", theme.accent, "-", shown, filled=theme.fill)
    if len(both) > 1:
        _steps(axes, edges, both[1], "mean-depth map", theme.second, "--", shown)
    axes.axvline(0, color=theme.muted, linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Predicted – true depth (m)")
    label_y(axes, "Share of pixels (%)", theme)
    legend(axes, theme)
    return figure


def _without_tails(edges: np.ndarray, counts: np.ndarray) -> slice:
    """The bins up to the distance from 0 within which nearly all pixels lie."""
    reach = np.maximum(np.abs(edges[:-1]), np.abs(edges[1:]))
    order = np.argsort(reach, kind="stable")
    covered = np.cumsum(counts[order]) / max(float(counts.sum()), 1.0)
    widest = reach[order][min(int(np.searchsorted(covered, SHOWN_SHARE)), len(order) - 1)]
    inside = np.flatnonzero(reach <= widest)
    return slice(int(inside[0]), int(inside[-1]) + 1)


def depth_histogram_figure(edges_m: np.ndarray, counts: Mapping[str, np.ndarray], theme: Theme = LIGHT) -> Figure:
    """Which depths occur, in each split that has frames."""
    figure, (axes,) = chart(theme, height_px=CHART_PX[1] - 60)
    styles = (("train", theme.accent, "-"), ("val", theme.muted, ":"), ("test", theme.second, "--"))
    for split, colour, style in styles:
        if split in counts and np.sum(counts[split]):
            _steps(axes, edges_m, counts[split], split, colour, style)
    axes.set_ylim(bottom=0)
    axes.set_xlim(float(edges_m[0]), float(edges_m[-1]))
    axes.set_xlabel("Depth (m)")
    label_y(axes, "Share of pixels (%)", theme)
    legend(axes, theme, columns=3)
    return figure


def _steps(
    axes: Axes,
    edges: np.ndarray,
    counts: Sequence[float] | np.ndarray,
    label: str,
    colour: str,
    style: str,
    shown: slice = slice(None),
    filled: str | None = None,
) -> None:
    share = (100 * np.asarray(counts, float) / max(float(np.sum(counts)), 1.0))[shown]
    centres = ((edges[:-1] + edges[1:]) / 2)[shown]
    if filled is not None:
        axes.fill_between(centres, share, step="mid", color=filled, linewidth=0)
    axes.plot(centres, share, color=colour, linestyle=style, linewidth=1.6, drawstyle="steps-mid", label=label)
