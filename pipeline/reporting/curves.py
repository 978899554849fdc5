"""Charts for the page: a matplotlib figure as inline SVG in the page's own colours, with its curves as numbers.

The picture is complete without a script. With it (`assets/script.js`) one reads values off the curves and hides
some: both need no more than where each point of the picture stands and which elements belong to a curve, which
matplotlib knows. A plotting library in the page (uPlot, the smallest, has 50 kB) would draw the same lines a second
time, in a style of its own, and leave nothing to see and to print where scripts do not run.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.reporting.style import CSS_PX_PER_INCH, LIGHT, Theme

POINTS_PER_INCH = 72
"""Unit of matplotlib's SVG, of its size as well as of its coordinates."""
DASHES = {"-": "none", "--": "7 4", ":": "2 3", "-.": "8 3 2 3"}
"""matplotlib's line styles -> SVG's stroke-dasharray."""
MARKERS = {
    "o": "M11.5 6a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z",
    "s": "M12 3h6v6h-6z",
    "^": "M15 2l4 7.5h-8z",
    "v": "M15 10l4 -7.5h-8z",
    "D": "M15 1.5l4.5 4.5l-4.5 4.5l-4.5 -4.5z",
    "x": "M11.5 2.5l7 7m0 -7l-7 7",
}
"""matplotlib's markers -> paths about the middle of a key of 30 by 12."""


@dataclass(frozen=True)
class Swatch:
    """A curve in the legend."""

    label: str
    colour: str
    """CSS"""
    dashes: str
    """stroke-dasharray"""
    curve: int
    """its number in `Plot.curves`"""
    marker: str = ""
    """path; empty for a line without any"""


@dataclass(frozen=True)
class Plot:
    """A chart of the page."""

    svg: str
    width: int
    """of the picture, in CSS pixels"""
    height: int
    curves: Mapping[str, Any]
    """for the script: `x` (axis and unit) and `panels`, each a `box` (left, top, right, bottom) and `series`"""
    legend: tuple[Swatch, ...]


def plot(figure: Figure, name: str) -> Plot:
    """The figure, drawn in the light theme, as SVG whose colours are the page's variables.

    name: unlike that of any other chart of the page; identifiers inside of the picture begin with it. Curves that
    are to be read off carry a label.
    """
    labelled = [(number, line) for number, axes in enumerate(figure.axes) for line in _labelled(axes)]
    labels = list(dict.fromkeys(str(line.get_label()) for _, line in labelled))
    for number, line in labelled:
        line.set_gid(f"{name}-{number}-{labels.index(str(line.get_label()))}")
    for axes in figure.axes:
        if (legend := axes.get_legend()) is not None:
            legend.set_visible(False)  # the page has one of its own, whose entries are buttons
    svg = _draw(figure, name)
    height = figure.get_figheight() * POINTS_PER_INCH
    scale = POINTS_PER_INCH / figure.dpi
    places = {label: {id(line.axes) for _, line in labelled if line.get_label() == label} for label in labels}

    def panel(axes: Axes) -> dict[str, Any]:
        box = axes.get_window_extent()
        corners = (box.x0 * scale, height - box.y1 * scale, box.x1 * scale, height - box.y0 * scale)
        return {
            "box": [round(float(corner), 1) for corner in corners],
            "series": [
                _series(line, labels, scale, height)
                | {"name": _name(line) if len(places[str(line.get_label())]) > 1 else str(line.get_label())}
                for _, line in labelled
                if line.axes is axes
            ],
        }

    panels = [found for axes in figure.axes if (found := panel(axes))["series"]]
    x = next((axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()), "")
    # A curve that is alone in its panel is named by the panel's axis.
    swatches = {
        str(line.get_label()): Swatch(
            str(line.get_label()),
            _variable(line.get_color()),
            DASHES.get(str(line.get_linestyle()), "none"),
            labels.index(str(line.get_label())),
            MARKERS.get(str(line.get_marker()), ""),
        )
        for _, line in labelled
        if isinstance(line.axes, Axes) and len(_labelled(line.axes)) > 1
    }
    width_px, height_px = (round(float(inches) * CSS_PX_PER_INCH) for inches in figure.get_size_inches())
    return Plot(svg, width_px, height_px, {"x": x, "panels": panels}, tuple(swatches.values()))


def _labelled(axes: Axes) -> list[Line2D]:
    return [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]


def _series(line: Line2D, labels: list[str], scale: float, height: float) -> dict[str, Any]:
    """Places in the picture and values of a curve's points, without those that are not drawn."""
    values = np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])
    values = values[np.isfinite(values).all(axis=1)]
    assert line.axes is not None
    places = line.axes.transData.transform(values) * scale if len(values) else values
    return {
        "id": line.get_gid(),
        "curve": labels.index(str(line.get_label())),
        "colour": _variable(line.get_color()),
        "unit": _unit(line.axes.get_ylabel()),
        "at": [[round(float(x), 1), round(float(height - y), 1)] for x, y in places],
        "values": [[_short(x), _short(y)] for x, y in values],
    }


def _name(line: Line2D) -> str:
    """Of a curve that several panels have: with the quantity of its own."""
    assert line.axes is not None
    quantity = re.sub(r"\s*\([^()]*\)\s*$", "", line.axes.get_ylabel())
    return f"{quantity}, {line.get_label()}"


def _short(value: float) -> float:
    """Four significant digits: what a reader is shown."""
    return float(f"{value:.4g}") if math.isfinite(value) else value


def _unit(label: str) -> str:
    """The unit that an axis names in brackets; empty if it has none."""
    found = re.search(r"\(([^()]*)\)\s*$", label)
    return "" if found is None or "no unit" in found[1] else found[1]


def _draw(figure: Figure, name: str) -> str:
    buffer = io.BytesIO()
    # hashsalt: the same figure gives the same identifiers, and no two charts of a page share one.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue().decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.S)  # it would apply to the whole page
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    text = re.sub(r' (id)="((?:figure|axes|patch|text|line2d|matplotlib\.axis|xtick|ytick)_?\d*)"', "", text)
    view = re.search(r'viewBox="([^"]*)"', text)
    assert view is not None
    text = re.sub(r"<svg[^>]*>", f'<svg viewBox="{view[1]}" aria-hidden="true" focusable="false">', text, count=1)
    text = re.sub(r"font-family: [^;\"]*; ", "", text)  # the page's own letters
    text = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", text)
    text = re.sub(r"<g/>\s*|<defs>\s*</defs>\s*", "", text)
    text = re.sub(r"(?<=[ML\d] )(-?\d+\.\d)\d+", r"\1", text)
    for colour, variable in _VARIABLES.items():
        text = re.sub(re.escape(colour), variable, text, flags=re.I)
    return re.sub(r"\n\s*", "\n", text).strip()


def _variables(theme: Theme) -> dict[str, str]:
    return {getattr(theme, field.name): f"var(--{field.name})" for field in fields(theme)}


_VARIABLES = _variables(LIGHT)


def _variable(colour: Any) -> str:
    return _VARIABLES.get(str(colour).lower(), str(colour))
