"""The plot of a study: RMSE and δ1 over what its variants vary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from pipeline.reporting.style import LIGHT, Theme, chart, label_y, legend
from pipeline.studies.declaration import FRAMES, PARAMETERS
from pipeline.studies.summary import Summary, place_on_axis, short_conditions

HEIGHT_PX = 340
LABELS = {FRAMES: "training frames", PARAMETERS: "parameters (millions)"}
MILLION = 1e6


def study_figure(summary: Summary, theme: Theme = LIGHT) -> Figure | None:
    """RMSE above δ1, on validation and test frames: a dot a seed and a line through the means.

    None unless the study declares a plot and two of its places were measured.
    """
    plot = summary.study.plot
    points = measured_points(summary) if plot else pd.DataFrame()
    if plot is None or points.empty or points["place"].nunique() < 2:
        return None
    if plot.x == PARAMETERS:
        points["x"] /= MILLION
        points["place"] /= MILLION
    figure, (rmse, delta1) = chart(theme, rows=2, height_px=HEIGHT_PX)
    for axes, measure, unit in ((rmse, "rmse", 1), (delta1, "delta1", 100)):
        for split, colour, style, marker in (("val", theme.second, "--", "s"), ("test", theme.accent, "-", "o")):
            _draw(axes, points, f"{split}_{measure}", unit, colour, style, marker)
    legend(rmse, theme)
    label_y(rmse, "RMSE (m)", theme)
    label_y(delta1, "δ < 1.25 (%)", theme)
    if plot.log or plot.x in LABELS:
        delta1.set_xscale("log")
    places = np.unique(points["place"])
    delta1.set_xticks(places, [_marked(place, 2 if plot.x == PARAMETERS else 3) for place in places])
    delta1.xaxis.set_minor_locator(NullLocator())
    delta1.set_xlabel(f"{LABELS.get(plot.x, plot.x)}\n{short_conditions(summary)}")
    return figure


def measured_points(summary: Summary) -> pd.DataFrame:
    """A row a result: `x`, `place` (the mean `x` of its variant) and its scores, NaN where there is none."""
    rows: list[Mapping[str, Any]] = []
    for row in summary.rows:
        found = [(place_on_axis(summary.study, row, result), result) for result in row.results]
        known = [(x, result) for x, result in found if x is not None]
        for x, result in known:
            place = sum(other for other, _ in known) / len(known)
            rows.append(
                {
                    "x": x,
                    "place": place,
                    "val_rmse": result.val_rmse,
                    "val_delta1": result.val_delta1,
                    "test_rmse": result.tested("rmse"),
                    "test_delta1": result.tested("delta1"),
                }
            )
    return pd.DataFrame(rows).astype(float)


def _draw(axes: Axes, points: pd.DataFrame, score: str, unit: int, colour: str, style: str, marker: str) -> None:
    known = points.dropna(subset=[score])
    if known.empty:
        return
    means = known.groupby("place")[score].mean()
    label = "validation" if score.startswith("val") else "test"
    axes.plot(means.index, unit * means, linestyle=style, color=colour, linewidth=1.8, label=label)
    axes.plot(known["x"], unit * known[score], marker, color=colour, ms=4, alpha=0.6, mew=0)


def _marked(place: float, digits: int) -> str:
    return f"{place:.{digits}g}" if place < 1000 else f"{place:.0f}"
