"""The one style of all charts: colours of the page, axes, lettering, and how a figure becomes a PNG.

Charts are drawn on `Figure` objects without pyplot's global state. Colours are those of Okabe and Ito, and no line
is told from another by colour alone.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import AbstractPathEffect, withStroke


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
    """validation, and what this model is held against; of lines only"""
    bad: str
    """words that tell of a loss: the second colour would be too faint for letters on light ground"""


LIGHT = Theme(
    page="#f5f6f7",
    surface="#ffffff",
    ink="#16191d",
    muted="#59616c",
    line="#dfe3e8",
    fill="#dde1e6",
    accent="#0072b2",
    second="#d55e00",
    bad="#a94a00",
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
    bad="#e69f00",
)

CSS_PX_PER_INCH = 100
PIXEL_DENSITY = 2
"""Image pixels for each CSS pixel of a chart: sharp on the screens of phones and laptops."""
CHART_PX = (440, 280)
"""(width, height) of a chart in CSS pixels: narrow, so that its lettering stays legible at a phone's 340."""
FONT_PT = 8.0  # 11 px at 100 px an inch


def png(figure: Figure, density: float = PIXEL_DENSITY) -> bytes:
    """The figure at `density` pixels a CSS pixel; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    # matplotlib's name and version in the file would change its hash with every upgrade.
    figure.savefig(buffer, format="png", dpi=density * CSS_PX_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def chart(theme: Theme, rows: int = 1, height_px: int = CHART_PX[1]) -> tuple[Figure, np.ndarray]:
    figure = Figure(
        figsize=(CHART_PX[0] / CSS_PX_PER_INCH, height_px / CSS_PX_PER_INCH),
        facecolor=theme.surface,
        layout=ConstrainedLayoutEngine(h_pad=0.05, w_pad=0.05, hspace=0.12 if rows > 1 else 0.0),
    )
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for one in axes:
        dress(one, theme)
    return figure, axes


def dress(axes: Axes, theme: Theme, *, grid: bool = True) -> None:
    axes.set_facecolor(theme.surface)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.muted)
        spine.set_linewidth(0.8)
    axes.tick_params(length=0, labelsize=FONT_PT, labelcolor=theme.muted, pad=4)
    axes.xaxis.label.set(color=theme.muted, size=FONT_PT)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(visible=True, axis="y", color=theme.line, linewidth=0.8)


def label_y(axes: Axes, label: str, theme: Theme, *, right: bool = False) -> None:
    """The name and unit of the axis, lying above it: read without turning one's head."""
    axes.set_ylabel(
        label, rotation=0, ha="right" if right else "left", va="bottom", color=theme.muted, size=FONT_PT
    )
    axes.yaxis.set_label_coords(1.0 if right else 0.0, 1.03)


def from_zero(axes: Axes, values: pd.Series) -> None:
    highest = float(values.max())
    axes.set_ylim(0, 1.15 * highest if highest > 0 else 1.0)


def halo(theme: Theme) -> list[AbstractPathEffect]:
    """Keeps lettering legible where a line passes behind it."""
    return [withStroke(linewidth=2.5, foreground=theme.surface)]


def legend(axes: Axes, theme: Theme, columns: int = 2) -> None:
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 0.98),
        ncols=columns,
        frameon=False,
        fontsize=FONT_PT,
        labelcolor=theme.ink,
        handlelength=2.2,
        columnspacing=1.2,
        borderaxespad=0.1,
        borderpad=0.1,
    )
