"""The runs of a sweep or a search: scores over their parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.ticker import LogLocator, NullLocator
from scipy.interpolate import RBFInterpolator
from scipy.spatial import ConvexHull

from pipeline.reporting import experiments
from pipeline.reporting.style import FONT_PT, LIGHT, Theme, chart, halo, label_y, legend


@dataclass(frozen=True)
class Score:
    """How a score of the table of runs is shown."""

    name: str
    unit: int = 1
    """what it is multiplied by"""
    digits: int = 3
    more_is_better: bool = False

    def text(self, value: float) -> str:
        return f"{self.unit * value:.{self.digits}f}"


SCORES = {
    "val_rmse": Score("Validation RMSE (m)"),
    "test_rmse": Score("Test RMSE (m)"),
    "test_delta1": Score("Test δ < 1.25 (%)", unit=100, digits=1, more_is_better=True),
}
EXPERIMENTS_PX = 340
"""Height of the two charts that stand side by side for one parameter: lettering stands inside of them."""
MOST_WRITTEN = 7
"""Values along an axis that are all written beside it; of more, the ends."""
SURFACE_CELLS = 80
SURFACE_SMOOTHING = 0.02
"""Of the surface that is laid through the dots, for each of them: other parameters vary too, and so does chance."""


def parameter_line_figure(runs: pd.DataFrame, theme: Theme = LIGHT) -> Figure | None:
    """RMSE and δ1 over the one parameter that varies, all others as in this run; None if none varies so.

    Where seeds differ: a dot each, the curve through their means, bars of one standard deviation. A few test scores
    are written out, the best of them bold.
    """
    found = experiments.line_through_this(runs)
    if found is None:
        return None
    name, members = found
    figure, (rmse, delta) = chart(theme, rows=2, height_px=EXPERIMENTS_PX)
    for axes, score, label, colour, style, marker in (
        (rmse, "val_rmse", "validation", theme.second, "--", "s"),
        (rmse, "test_rmse", "test", theme.accent, "-", "o"),
        (delta, "test_delta1", "test", theme.accent, "-", "o"),
    ):
        unit = SCORES[score].unit
        points = experiments.by_value(members, score)
        if points.empty:
            continue
        if (points["n"] > 1).any():
            axes.plot(members["value"], unit * members[score], marker, color=colour, ms=3, alpha=0.45, mew=0)
        axes.errorbar(
            points["value"],
            unit * points["mean"],
            yerr=unit * points["spread"].fillna(0.0) if (points["n"] > 1).any() else None,
            color=colour,
            linestyle=style,
            marker=marker,
            ms=4,
            linewidth=1.8,
            elinewidth=1.2,
            capsize=3,
            label=label,
        )
        this = members[members["is_this"]]
        axes.plot(this["value"], unit * this[score], "o", ms=10, mfc="none", mec=theme.ink, mew=1.4, clip_on=False)
        if label == "test" and len(points) <= MOST_WRITTEN:
            below = axes is rmse and members["val_rmse"].mean() > members["test_rmse"].mean()
            _write_points(axes, points, SCORES[score], theme, below=below)
    legend(rmse, theme)
    label_y(rmse, "RMSE (m)", theme)
    label_y(delta, "δ < 1.25, test (%)", theme)
    for axes in (rmse, delta):
        low, high = axes.dataLim.intervaly
        room = (high - low) or 0.1
        axes.set_ylim(low - 0.15 * room, high + 0.35 * room)
    if experiments.is_wide(members["value"]):
        delta.set_xscale("log")
    _mark_values(delta.xaxis, members["value"])
    delta.set_xlabel(experiments.short(name))
    return figure


def _write_points(axes: Axes, points: pd.DataFrame, score: Score, theme: Theme, *, below: bool) -> None:
    """The means beside their bars, on the side where no other curve is to be expected."""
    best = points["mean"].max() if score.more_is_better else points["mean"].min()
    for value, mean, spread in zip(points["value"], points["mean"], points["spread"].fillna(0.0), strict=True):
        axes.annotate(
            score.text(mean),
            (value, score.unit * (mean - spread if below else mean + spread)),
            xytext=(0, -6 if below else 6),
            textcoords="offset points",
            ha="center",
            va="top" if below else "bottom",
            size=FONT_PT,
            color=theme.ink if mean == best else theme.muted,
            weight="bold" if mean == best else "normal",
            path_effects=halo(theme),
        )


def parallel_coordinates_figure(runs: pd.DataFrame, theme: Theme = LIGHT) -> Figure | None:
    """A line a run through its parameters to its test scores, both with the better end on top.

    None unless a numeric parameter varies and three runs have both scores.
    """
    values = experiments.axes_of_search(runs)
    known = runs[["test_rmse", "test_delta1"]].notna().all(axis=1)
    if values.empty or known.sum() < 3:
        return None
    runs, values = runs[known], values[known]
    figure, (axes,) = chart(theme, height_px=EXPERIMENTS_PX)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    scores = {name: SCORES[name] for name in ("test_rmse", "test_delta1")}
    heights = np.column_stack(
        [_share_of_axis(values[name]) for name in values] + [_goodness(runs[name], scores[name]) for name in scores]
    )
    colours = _search_colour_map(theme)(_share_of_axis(runs["test_rmse"]))
    for row in np.argsort(-runs["test_rmse"].to_numpy()):  # the best on top
        axes.plot(heights[row], color=colours[row], linewidth=1.6, alpha=0.85)
    if runs["is_this"].any():
        axes.plot(heights[runs["is_this"].to_numpy()][0], "o-", color=theme.ink, linewidth=2.2, ms=5)
    for place, name in enumerate([*values, *scores]):
        axes.axvline(place, color=theme.muted, linewidth=0.8, zorder=0)
        if name in scores:
            _write_along(axes, place, heights[:, place], runs[name].map(scores[name].text), theme, most=2)
        else:
            _write_along(axes, place, heights[:, place], values[name].map("{:g}".format), theme, most=MOST_WRITTEN)
    # A section above its key: side by side, five full names would run into each other.
    names = [experiments.short(str(name)).replace(".", "\n").replace("_", " ") for name in values]
    axes.set_xticks(
        range(heights.shape[1]), [*names, *(score.name.replace(" ", "\n", 1) for score in scores.values())]
    )
    axes.tick_params(axis="x", pad=12)
    axes.set_yticks([])
    axes.set_xlim(-0.25, heights.shape[1] - 0.75)
    axes.set_ylim(-0.02, 1.02)
    return figure


def _write_along(axes: Axes, place: int, heights: np.ndarray, texts: pd.Series, theme: Theme, *, most: int) -> None:
    """The values at both ends of one of parallel axes, and all between them if there are no more than `most`."""
    written = dict(sorted(zip(heights, texts, strict=True)))
    low, *between, high = written if len(written) > 1 else 2 * list(written)
    style: dict[str, Any] = {"size": FONT_PT, "color": theme.muted}
    axes.text(place, -0.03, written[low], ha="center", va="top", **style)
    axes.text(place, 1.03, written[high], ha="center", va="bottom", **style)
    for height in between if len(written) <= most else []:
        axes.text(place - 0.04, height, written[height], ha="right", va="center", path_effects=halo(theme), **style)


def parameter_map_figure(runs: pd.DataFrame, score: str, theme: Theme = LIGHT) -> Figure | None:
    """A score over the two parameters that matter most, a dot a run; contours where the runs cover an area.

    score: a key of `SCORES`. None for fewer than four runs, or fewer than two numeric parameters that vary.
    """
    values = experiments.axes_of_search(runs)
    known = runs[score].notna()
    if values.shape[1] < 2 or known.sum() < experiments.FEWEST_FOR_MAP:
        return None
    shown = SCORES[score]
    first, second = values.columns[:2]
    x, y, z = values.loc[known, first], values.loc[known, second], shown.unit * runs.loc[known, score]
    figure, (axes,) = chart(theme)
    axes.grid(visible=False)
    colours = _search_colour_map(theme)
    colours = colours.reversed() if shown.more_is_better else colours
    low, high = float(z.min()), float(z.max())
    shares = np.column_stack([_share_of_axis(x), _share_of_axis(y)])
    if high > low and experiments.fills_a_plane(*shares.T):
        surface = axes.contourf(
            _values_along(x),
            _values_along(y),
            _surface(shares, z.to_numpy()).clip(low, high),
            levels=np.linspace(low, high, 9),
            cmap=colours,
            alpha=0.45,
        )
        outline = np.column_stack([x, y])[ConvexHull(shares).vertices]
        surface.set_clip_path(Polygon(outline, transform=axes.transData))  # outside of the dots it is a guess
    dots = axes.scatter(
        x, y, c=z, cmap=colours, vmin=low, vmax=high, s=42, edgecolors=theme.surface, linewidths=0.8
    )
    this = runs.loc[known, "is_this"]
    axes.plot(x[this], y[this], "o", ms=12, mfc="none", mec=theme.ink, mew=1.6, linestyle="")
    for values_of, axis, set_scale, set_limits in (
        (x, axes.xaxis, axes.set_xscale, axes.set_xlim),
        (y, axes.yaxis, axes.set_yscale, axes.set_ylim),
    ):
        ends = float(values_of.min()), float(values_of.max())
        if experiments.is_wide(values_of):
            set_scale("log")
            room = (ends[1] / ends[0]) ** 0.07
            set_limits(ends[0] / room, ends[1] * room)
        else:
            room = 0.07 * (ends[1] - ends[0])
            set_limits(ends[0] - room, ends[1] + room)
        _mark_values(axis, values_of)
    axes.set_xlabel(experiments.short(first))
    label_y(axes, experiments.short(second), theme)
    bar = figure.colorbar(dots, ax=axes, fraction=0.04, pad=0.02, aspect=30)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=FONT_PT, labelcolor=theme.muted, pad=3)
    # A label of its own kind would be given room for its length, beside the bar.
    name = bar.ax.text(1.0, 1.03, shown.name, ha="right", va="bottom", color=theme.muted, size=FONT_PT)
    name.set(transform=bar.ax.transAxes, in_layout=False)
    return figure


def _mark_values(axis: Axis, values: pd.Series) -> None:
    """Ticks at the values themselves where they are few, else at round ones."""
    low, high = float(values.min()), float(values.max())
    if values.nunique() <= MOST_WRITTEN:
        axis.set_ticks(np.unique(values))
    elif experiments.is_wide(values):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def _share_of_axis(values: pd.Series) -> np.ndarray:
    """Values as 0 at the lowest to 1 at the highest, over powers of ten where they span some."""
    numbers = np.log10(values) if experiments.is_wide(values) else values
    low, high = float(numbers.min()), float(numbers.max())
    return ((numbers - low) / (high - low) if high > low else numbers * 0 + 0.5).to_numpy()


def _goodness(values: pd.Series, score: Score) -> np.ndarray:
    """0 for the worst to 1 for the best."""
    share = _share_of_axis(values)
    return share if score.more_is_better else 1 - share


def _values_along(values: pd.Series) -> np.ndarray:
    """From the lowest to the highest in the steps of the surface, as the axis is divided."""
    space = np.geomspace if experiments.is_wide(values) else np.linspace
    return space(float(values.min()), float(values.max()), SURFACE_CELLS)


def _surface(shares: np.ndarray, rmse: np.ndarray) -> np.ndarray:
    """A smooth surface over the unit square, through (n, 2) points of it."""
    cells = np.linspace(0.0, 1.0, SURFACE_CELLS)
    grid = np.stack(np.meshgrid(cells, cells), axis=-1).reshape(-1, 2)
    smoothing = SURFACE_SMOOTHING * len(shares)
    fitted: np.ndarray = RBFInterpolator(shares, rmse, smoothing=smoothing)(grid)
    return fitted.reshape(SURFACE_CELLS, SURFACE_CELLS)


def _search_colour_map(theme: Theme) -> Colormap:
    """The best runs stand out from the ground, dark on light and bright on dark; the worst still show."""
    whole = matplotlib.colormaps["viridis" if theme == LIGHT else "viridis_r"]
    return ListedColormap(whole(np.linspace(0.0, 0.88, 256)))
