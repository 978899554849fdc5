"""The pictures of a report, all in one style, drawn on `Figure` objects without pyplot's global state.

A chart is a function from plain tables to a `Figure`, so that a test or a notebook can look at its axes;
`draw_figures` turns the lot into PNG files. Colours are those of Okabe and Ito, and no line is told from
another by colour alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Polygon
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from PIL import Image
from scipy.interpolate import RBFInterpolator
from scipy.spatial import ConvexHull

from pipeline.reporting import experiments
from pipeline.reporting.inputs import ReportInputs


@dataclass(frozen=True)
class Theme:
    """Colours shared by the page and the charts on it."""

    page: str
    surface: str
    ink: str
    muted: str
    line: str
    fill: str
    """of bars that stand behind a curve"""
    accent: str
    """training, and whatever belongs to this model"""
    second: str
    """validation"""


LIGHT = Theme(
    page="#f5f6f7",
    surface="#ffffff",
    ink="#16191d",
    muted="#59616c",
    line="#dfe3e8",
    fill="#dde1e6",
    accent="#0072b2",
    second="#d55e00",
)
# On a dark ground the palette's blue falls below a contrast of 4.5; its sky blue and orange do not.
DARK = Theme(
    page="#101317",
    surface="#181c21",
    ink="#e9ecef",
    muted="#a0a8b2",
    line="#2d333b",
    fill="#343b44",
    accent="#56b4e9",
    second="#e69f00",
)

CSS_PX_PER_INCH = 100
PIXEL_DENSITY = 2
"""Image pixels for each CSS pixel of a chart: sharp on the screens of phones and laptops."""
CHART_PX = (440, 280)
"""(width, height) of a chart in CSS pixels: narrow, so that its lettering stays legible at a phone's 340."""
_FONT_PT = 8.0  # 11 px at 100 px an inch

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

MISSING_COLOUR = "#8b8f94"
"""Grey occurs in neither map below, so a missing pixel is not taken for a depth."""


# Colour scales


@dataclass(frozen=True)
class ColourScale:
    """A range of metres and the colours that stand for it; values outside take the colour of the end."""

    low_m: float
    high_m: float
    colours: str
    """name of a matplotlib colour map"""
    clipped: bool = False
    """whether some of the data lie outside, which the colour bar then says"""

    @property
    def colour_map(self) -> Colormap:
        return matplotlib.colormaps[self.colours].with_extremes(bad=MISSING_COLOUR)

    def ticks_m(self) -> list[float]:
        """Both ends and round values between: a colour bar that leaves its ends to be guessed is no scale."""
        if self.low_m == -self.high_m:
            return [float(tick) for tick in np.linspace(self.low_m, self.high_m, 5)]
        span = self.high_m - self.low_m
        step = 0.5 if span <= 3 else 1.0 if span <= 6 else 2.0
        inside = np.arange(math.ceil(self.low_m / step), math.floor(self.high_m / step) + 1) * step
        clear = (inside - self.low_m >= 0.4 * step) & (self.high_m - inside >= 0.4 * step)
        return [self.low_m, *(float(tick) for tick in inside[clear]), self.high_m]

    def paint(self, values_m: np.ndarray) -> Image.Image:
        """(h, w) metres, NaN = missing -> palette image of 255 colours and the grey of missing pixels.

        One byte a pixel: a third of the same picture in RGB, and lossless to 1/255 of the scale.
        """
        share = np.clip((values_m - self.low_m) / (self.high_m - self.low_m), 0.0, 1.0)
        index = np.where(np.isnan(share), 0, 1 + np.rint(np.nan_to_num(share) * 254)).astype(np.uint8)
        image = Image.fromarray(index)
        image.putpalette(self._palette().tobytes())
        return image

    def css_gradient(self) -> str:
        """The scale as a CSS background, low to high from left to right."""
        stops = self._palette()[1 :: 254 // 16 - 1]
        return f"linear-gradient(to right, {', '.join('#' + bytes(stop).hex() for stop in stops)})"

    def _palette(self) -> np.ndarray:
        """(256, 3) uint8: the colour of missing pixels, then 255 steps of the scale."""
        colours = self.colour_map(np.linspace(0.0, 1.0, 255), bytes=True)[:, :3]
        return np.vstack([[tuple(bytes.fromhex(MISSING_COLOUR[1:]))], colours]).astype(np.uint8)


def depth_scale(*depths_m: np.ndarray) -> ColourScale:
    """One scale over all valid depths (above 0), its ends on whole half metres; near is bright."""
    valid = np.concatenate([depth[depth > 0].ravel() for depth in depths_m] or [np.empty(0)])
    if valid.size == 0:
        return ColourScale(0.0, 10.0, "magma_r")
    low = math.floor(float(valid.min()) * 2) / 2
    high = math.ceil(float(valid.max()) * 2) / 2
    return ColourScale(low, max(high, low + 0.5), "magma_r")


def error_scale(errors_m: np.ndarray) -> ColourScale:
    """Symmetric about 0 over 98 % of the errors: their few outliers would wash all other colours out.

    Blue is predicted too near, red too far.
    """
    size = np.abs(errors_m[np.isfinite(errors_m)])
    reach = math.ceil(float(np.quantile(size, 0.98)) * 2) / 2 if size.size else 0.5
    reach = max(reach, 0.5)
    return ColourScale(-reach, reach, "RdBu_r", clipped=bool(size.size and size.max() > reach))


def signed_error_m(prediction_m: np.ndarray, depth_m: np.ndarray) -> np.ndarray:
    """prediction - truth in metres, NaN where either is missing."""
    return np.where((depth_m > 0) & (prediction_m > 0), prediction_m - depth_m, np.nan)


def missing_as_nan(depth_m: np.ndarray) -> np.ndarray:
    return np.where(depth_m > 0, depth_m, np.nan)


# Charts


def loss_total_figure(history: pd.DataFrame, theme: Theme = LIGHT) -> Figure:
    """The weighted training loss and, where there is a validation set, the same on validation frames."""
    figure, (axes,) = _chart(theme)
    _epoch_curves(axes, history, "loss_total", theme)
    _legend(axes, theme)
    _label_y(axes, "Total loss (weighted sum, no unit)", theme)
    _label_epochs(axes, history)
    return figure


def loss_components_figure(history: pd.DataFrame, theme: Theme = LIGHT) -> Figure:
    """The two terms of the loss, unweighted, one above the other since their units differ."""
    figure, (mse, ssim) = _chart(theme, rows=2)
    for axes, column, label in (
        (mse, "loss_mse", "MSE (m²)"),
        (ssim, "loss_ssim", "(1 – SSIM) / 2 (no unit)"),
    ):
        _epoch_curves(axes, history, column, theme)
        _label_y(axes, label, theme)
    _legend(mse, theme)
    _label_epochs(ssim, history)
    return figure


def validation_figure(history: pd.DataFrame, theme: Theme = LIGHT) -> Figure:
    """RMSE and the δ shares on validation frames, the best epoch marked."""
    figure, (rmse, delta) = _chart(theme, rows=2)
    epochs = history["epoch"]
    rmse.plot(epochs, history["val_rmse"], color=theme.second, **_line_of(history))
    _label_y(rmse, "Validation RMSE (m)", theme)
    best = best_epoch(history)
    if best is not None:
        at_best = history.loc[history["epoch"] == best, "val_rmse"].iloc[0]
        rmse.plot([best], [at_best], "o", ms=6, mfc=theme.surface, mec=theme.second, mew=1.6, label="best epoch")
        _legend(rmse, theme)
    for column, label, style in (
        ("val_delta1", "δ < 1.25", "-"),
        ("val_delta2", "δ < 1.25²", "--"),
        ("val_delta3", "δ < 1.25³", ":"),
    ):
        if column in history:
            line = {**_line_of(history), "linestyle": style, "label": label}
            delta.plot(epochs, 100 * history[column], color=theme.second, **line)
    _label_y(delta, "Share of pixels (%)", theme)
    _legend(delta, theme, columns=3)
    _label_epochs(delta, history)
    return figure


def pace_figure(history: pd.DataFrame, theme: Theme = LIGHT) -> Figure:
    """The learning rate, and how many frames a second training took in."""
    figure, (rate, speed) = _chart(theme, rows=2)
    highest = float(history["learning_rate"].max())
    # The small surplus: 9.9e-5, where a warm-up did not quite reach 1e-4, still counts in units of 1e-4.
    power = math.floor(math.log10(highest) + 0.05) if highest > 0 else 0
    scaled = history["learning_rate"] / 10.0**power
    rate.step(history["epoch"], scaled, where="mid", color=theme.muted, linewidth=1.6)
    _from_zero(rate, scaled)
    _label_y(rate, f"Learning rate (10{str(power).translate(_SUPERSCRIPT)}, no unit)", theme)
    speed.plot(history["epoch"], history["frames_per_s"], color=theme.muted, **_line_of(history))
    _from_zero(speed, history["frames_per_s"])
    _label_y(speed, "Training speed (frames/s)", theme)
    _label_epochs(speed, history)
    return figure


def error_by_distance_figure(bands: Sequence[Mapping[str, Any]], theme: Theme = LIGHT) -> Figure:
    """RMSE in each band of true depth, the share of all test pixels that lie in the band behind it."""
    figure, (axes,) = _chart(theme)
    edges = [(float(band["from_m"]), float(band["to_m"])) for band in bands]
    centres = [(start + stop) / 2 for start, stop in edges]
    pixels = np.array([band["pixels"] for band in bands], dtype=np.float64)
    rmse = [math.nan if band["rmse"] is None else float(band["rmse"]) for band in bands]

    share = axes.twinx()
    share.bar(
        centres,
        100 * pixels / max(pixels.sum(), 1.0),
        width=[0.86 * (stop - start) for start, stop in edges],
        color=theme.fill,
        label="share of pixels",
    )
    _dress(share, theme, grid=False)
    share.set_ylim(0, max(100 * pixels.max() / max(pixels.sum(), 1.0) * 1.25, 1.0))
    _label_y(share, "Share of pixels (%)", theme, right=True)

    # twinx draws the newer axes on top; the curve has to stand in front of the bars.
    axes.set_zorder(share.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.plot(centres, rmse, "o-", color=theme.accent, linewidth=1.8, ms=5, label="RMSE")
    axes.set_ylim(0, float(np.nanmax([*rmse, 0.1])) * 1.2)
    axes.set_xticks(sorted({edge for band in edges for edge in band}))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("True depth (m)")
    _label_y(axes, "RMSE (m)", theme)
    axes.yaxis.label.set_color(theme.accent)
    return figure


def error_by_scene_type_figure(per_image: pd.DataFrame, theme: Theme = LIGHT) -> Figure:
    """Mean RMSE a frame in each scene type, hardest first, every frame as a dot on its bar."""
    types = rmse_by_scene_type(per_image)
    figure, (axes,) = _chart(theme, height_px=max(170, 60 + 22 * len(types)))
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
    _label_y(axes, "Scene type (number of frames)", theme)
    return figure


def rmse_by_scene_type(per_image: pd.DataFrame) -> pd.DataFrame:
    """Scene type -> `rmse` (mean over frames, m), `n`, `frames_rmse`; sorted from the worst to the best."""
    scored = per_image.dropna(subset=["full_rmse"])
    kinds = scored["scene_type"].fillna("not stated").astype(str)
    groups = scored["full_rmse"].groupby(kinds)
    table = pd.DataFrame({"rmse": groups.mean(), "n": groups.size(), "frames_rmse": groups.agg(list)})
    return table.sort_values("rmse", ascending=False)


def best_epoch(history: pd.DataFrame) -> int | None:
    """The epoch of lowest validation RMSE; None without validation."""
    if "val_rmse" not in history or history["val_rmse"].isna().all():
        return None
    return int(history["epoch"].iloc[int(history["val_rmse"].argmin())])


# Experiments


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
    figure, (rmse, delta) = _chart(theme, rows=2, height_px=EXPERIMENTS_PX)
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
    _legend(rmse, theme)
    _label_y(rmse, "RMSE (m)", theme)
    _label_y(delta, "δ < 1.25, test (%)", theme)
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
            size=_FONT_PT,
            color=theme.ink if mean == best else theme.muted,
            weight="bold" if mean == best else "normal",
            path_effects=_halo(theme),
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
    figure, (axes,) = _chart(theme, height_px=EXPERIMENTS_PX)
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
    style: dict[str, Any] = {"size": _FONT_PT, "color": theme.muted}
    axes.text(place, -0.03, written[low], ha="center", va="top", **style)
    axes.text(place, 1.03, written[high], ha="center", va="bottom", **style)
    for height in between if len(written) <= most else []:
        axes.text(
            place - 0.04, height, written[height], ha="right", va="center", path_effects=_halo(theme), **style
        )


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
    figure, (axes,) = _chart(theme)
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
    _label_y(axes, experiments.short(second), theme)
    bar = figure.colorbar(dots, ax=axes, fraction=0.04, pad=0.02, aspect=30)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=_FONT_PT, labelcolor=theme.muted, pad=3)
    # A label of its own kind would be given room for its length, beside the bar.
    name = bar.ax.text(1.0, 1.03, shown.name, ha="right", va="bottom", color=theme.muted, size=_FONT_PT)
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


# Predictions

PICTURE_COLUMNS = ("RGB", "True depth", "Predicted depth", "Error")


def predictions_figure(
    rgb_u8: np.ndarray,
    depth_m: np.ndarray,
    prediction_m: np.ndarray,
    titles: Sequence[str],
    theme: Theme = LIGHT,
) -> Figure:
    """One row a frame: RGB, truth, prediction and signed error, on one depth and one error scale for all.

    `rgb_u8` is (k, 3, h, w) uint8, the depths (k, 1, h, w) metres with 0 = missing, `titles` k lines.
    """
    frames, _, height, width = rgb_u8.shape
    errors_m = signed_error_m(prediction_m, depth_m)
    depths = depth_scale(depth_m, prediction_m)
    errors = error_scale(errors_m)

    # Laid out in CSS pixels from the top, so that every tile has exactly the frame's aspect ratio.
    gap, title, head, foot, edge = 6, 28, 20, 62, 12
    tile_width = 240
    tile_height = round(tile_width * height / width)
    full_width = 2 * edge + 4 * tile_width + 3 * gap
    full_height = edge + head + frames * (title + tile_height) + foot
    figure = Figure(figsize=(full_width / CSS_PX_PER_INCH, full_height / CSS_PX_PER_INCH), facecolor=theme.surface)

    def axes_at(left: float, top: float, across: float, down: float) -> Axes:
        return figure.add_axes(
            (left / full_width, 1 - (top + down) / full_height, across / full_width, down / full_height)
        )

    def text_at(left: float, top: float, text: str, **style: Any) -> None:
        figure.text(left / full_width, 1 - top / full_height, text, va="top", **{"size": _FONT_PT + 1, **style})

    lefts = [edge + column * (tile_width + gap) for column in range(4)]
    for left, name in zip(lefts, PICTURE_COLUMNS, strict=True):
        text_at(left, edge, name, color=theme.ink, weight="bold")
    for row in range(frames):
        top = edge + head + row * (title + tile_height)
        text_at(edge, top + 11, titles[row], color=theme.muted, parse_math=False)
        maps: tuple[tuple[np.ndarray, ColourScale | None], ...] = (
            (rgb_u8[row].transpose(1, 2, 0), None),
            (missing_as_nan(depth_m[row, 0]), depths),
            (missing_as_nan(prediction_m[row, 0]), depths),
            (errors_m[row, 0], errors),
        )
        for left, (values, scale) in zip(lefts, maps, strict=True):
            axes = axes_at(left, top + title, tile_width, tile_height)
            axes.set_axis_off()
            if scale is None:
                axes.imshow(values, aspect="auto")
            else:
                axes.imshow(values, aspect="auto", cmap=scale.colour_map, vmin=scale.low_m, vmax=scale.high_m)
    top = full_height - foot + 16
    for left, across, scale, label, every in (
        (lefts[1], 2 * tile_width + gap, depths, "Depth (m); grey: no measurement", 1),
        (lefts[3], tile_width, errors, "Predicted – true depth (m)", 2),
    ):
        axes = axes_at(left, top, across, 10)
        axes.imshow(
            np.linspace(0, 1, 256)[None],
            aspect="auto",
            cmap=scale.colour_map,
            extent=(scale.low_m, scale.high_m, 0, 1),
        )
        axes.set_yticks([])
        axes.set_xticks(scale.ticks_m()[::every], tick_labels(scale)[::every])
        # The outer labels would run into the neighbouring bar or off the picture.
        labels = axes.get_xticklabels()
        labels[0].set_horizontalalignment("left")
        labels[-1].set_horizontalalignment("right")
        axes.set_xlabel(label, color=theme.muted, size=_FONT_PT, labelpad=2)
        axes.tick_params(length=0, labelsize=_FONT_PT, labelcolor=theme.muted, pad=2)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def tick_labels(scale: ColourScale) -> list[str]:
    """Signed for errors; an end beyond which some data lie says so."""
    ticks = scale.ticks_m()
    labels = [f"{tick:+g}".replace("-", "−") if scale.low_m < 0 < abs(tick) else f"{tick:g}" for tick in ticks]
    if scale.clipped and ticks[0] == scale.low_m and ticks[-1] == scale.high_m:
        labels[0], labels[-1] = f"≤ {labels[0]}", f"≥ {labels[-1]}"
    return labels


def predictions_picture(
    rgb_u8: np.ndarray, depth_m: np.ndarray, prediction_m: np.ndarray, titles: Sequence[str]
) -> bytes:
    """`predictions_figure` as PNG, for a README, the report's folder or a tracker."""
    # 360 pixels a tile; at a chart's density nine frames would make 5 MB.
    return png(predictions_figure(rgb_u8, depth_m, prediction_m, titles), density=1.5)


# All of them


def draw_charts(inputs: ReportInputs, theme: Theme = LIGHT) -> dict[str, bytes]:
    """Name -> PNG of every chart that the inputs have the numbers for."""
    figures: dict[str, Figure] = {}
    history = inputs.history
    if len(history):
        figures["loss_total"] = loss_total_figure(history, theme)
        figures["loss_components"] = loss_components_figure(history, theme)
        if best_epoch(history) is not None:
            figures["validation"] = validation_figure(history, theme)
        figures["pace"] = pace_figure(history, theme)
    if inputs.metrics.get("by_distance"):
        figures["error_by_distance"] = error_by_distance_figure(inputs.metrics["by_distance"], theme)
    if inputs.per_image["full_rmse"].notna().any():
        figures["error_by_scene_type"] = error_by_scene_type_figure(inputs.per_image, theme)
    if inputs.experiments is not None:
        runs = inputs.experiments.runs
        for name, drawn in (
            ("experiments_line", parameter_line_figure(runs, theme)),
            ("experiments_parallel", parallel_coordinates_figure(runs, theme)),
            ("experiments_map_rmse", parameter_map_figure(runs, "test_rmse", theme)),
            ("experiments_map_delta1", parameter_map_figure(runs, "test_delta1", theme)),
        ):
            if drawn is not None:
                figures[name] = drawn
    return {name: png(figure) for name, figure in figures.items()}


def draw_figures(inputs: ReportInputs) -> dict[str, bytes]:
    """Name -> PNG of the charts and of the picture of predictions, to be saved beside the report."""
    figures = draw_charts(inputs)
    predictions = inputs.predictions
    if len(predictions.frames):
        titles = [prediction_title(frame) for frame in predictions.frames]
        figures["predictions"] = predictions_picture(
            predictions.rgb_u8, predictions.depth_m, predictions.prediction_m, titles
        )
    return figures


def prediction_title(frame: Mapping[str, Any]) -> str:
    return f"{frame['rank']}: frame {frame['frame']}, {frame['scene']}, RMSE {frame['rmse']:.2f} m"


def png(figure: Figure, density: float = PIXEL_DENSITY) -> bytes:
    """The figure at `density` pixels a CSS pixel; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    # matplotlib's name and version in the file would change its hash with every upgrade.
    figure.savefig(buffer, format="png", dpi=density * CSS_PX_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


# The shared style


def _chart(theme: Theme, rows: int = 1, height_px: int = CHART_PX[1]) -> tuple[Figure, np.ndarray]:
    figure = Figure(
        figsize=(CHART_PX[0] / CSS_PX_PER_INCH, height_px / CSS_PX_PER_INCH),
        facecolor=theme.surface,
        layout=ConstrainedLayoutEngine(h_pad=0.05, w_pad=0.05, hspace=0.12 if rows > 1 else 0.0),
    )
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for one in axes:
        _dress(one, theme)
    return figure, axes


def _dress(axes: Axes, theme: Theme, *, grid: bool = True) -> None:
    axes.set_facecolor(theme.surface)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.muted)
        spine.set_linewidth(0.8)
    axes.tick_params(length=0, labelsize=_FONT_PT, labelcolor=theme.muted, pad=4)
    axes.xaxis.label.set(color=theme.muted, size=_FONT_PT)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(visible=True, axis="y", color=theme.line, linewidth=0.8)


def _label_y(axes: Axes, label: str, theme: Theme, *, right: bool = False) -> None:
    """The name and unit of the axis, lying above it: read without turning one's head."""
    axes.set_ylabel(
        label, rotation=0, ha="right" if right else "left", va="bottom", color=theme.muted, size=_FONT_PT
    )
    axes.yaxis.set_label_coords(1.0 if right else 0.0, 1.03)


def _label_epochs(axes: Axes, history: pd.DataFrame) -> None:
    first, last = int(history["epoch"].min()), int(history["epoch"].max())
    axes.set_xlim(first - 0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9, min_n_ticks=1))
    axes.set_xlabel("Epoch")


def _from_zero(axes: Axes, values: pd.Series) -> None:
    highest = float(values.max())
    axes.set_ylim(0, 1.15 * highest if highest > 0 else 1.0)


def _epoch_curves(axes: Axes, history: pd.DataFrame, column: str, theme: Theme) -> None:
    """Training solid with a dot at its end, validation dashed with a square."""
    for split, name, colour, style, marker in (
        ("train", "training", theme.accent, "-", "o"),
        ("val", "validation", theme.second, "--", "s"),
    ):
        values = history.get(f"{split}_{column}")
        if values is not None and values.notna().any():
            line = {**_line_of(history), "linestyle": style, "marker": marker, "label": name}
            axes.plot(history["epoch"], values, color=colour, **line)


def _line_of(history: pd.DataFrame) -> dict[str, Any]:
    """Dots where a curve is short enough to show them, else one at its end: one epoch must not vanish."""
    few = len(history) <= 12
    return {
        "linewidth": 1.8,
        "marker": "o",
        "markersize": 3.5,
        "markevery": 1 if few else [len(history) - 1],
    }


def _halo(theme: Theme) -> list[AbstractPathEffect]:
    """Keeps lettering legible where a line passes behind it."""
    return [withStroke(linewidth=2.5, foreground=theme.surface)]


def _legend(axes: Axes, theme: Theme, columns: int = 2) -> None:
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 0.98),
        ncols=columns,
        frameon=False,
        fontsize=_FONT_PT,
        labelcolor=theme.ink,
        handlelength=2.2,
        columnspacing=1.2,
        borderaxespad=0.1,
        borderpad=0.1,
    )
