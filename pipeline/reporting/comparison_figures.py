"""Curves of several experiments in one chart: training, validation, error by distance and scene type."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.reporting.compared import Evaluated
from pipeline.reporting.curves import DASHES, MARKERS, Plot, Swatch, plot
from pipeline.reporting.error_figures import TWO_PANELS_PX, rmse_by_scene_type
from pipeline.reporting.style import LIGHT, chart, label_y, legend
from pipeline.reporting.training_figures import label_epochs, line_of

# Green, purple and brown have a contrast of 3.8 or more on both grounds; the others follow the theme.
LINES: tuple[tuple[str, str, str], ...] = (
    (LIGHT.accent, "-", "o"),
    (LIGHT.second, "--", "s"),
    ("#008f68", "-.", "^"),
    ("#b5569b", ":", "D"),
    ("#8c7a1a", "-", "v"),
    (LIGHT.muted, "--", "x"),
)
"""Colour, dashes and marker of each experiment, the reference first."""


def draw_comparison(runs: Sequence[Evaluated]) -> dict[str, Plot]:
    """Name -> chart of what at least one experiment has the numbers for."""
    drawn: dict[str, Plot] = {}
    for name, panels in (
        (
            "compared_loss",
            (("train_loss_total", "Training loss (no unit)"), ("val_loss_total", "Validation loss (no unit)")),
        ),
        ("compared_validation", (("val_rmse", "Validation RMSE (m)"), ("val_delta1", "Validation δ1 (%)"))),
    ):
        if (figure := epochs_figure(runs, panels)) is not None:
            drawn[name] = plot(figure, name)
    if (figure := by_distance_figure(runs)) is not None:
        drawn["compared_distance"] = plot(figure, "compared_distance")
    if (figure := by_scene_type_figure(runs)) is not None:
        found = plot(figure, "compared_scene_types")
        drawn["compared_scene_types"] = replace(found, legend=swatches(runs))
    return drawn


def epochs_figure(runs: Sequence[Evaluated], panels: Sequence[tuple[str, str]]) -> Figure | None:
    """Columns of the history by epoch, a panel each; None if no experiment has any of them."""
    columns = [(column, label) for column, label in panels if any(_has(run.history, column) for run in runs)]
    if not columns:
        return None
    figure, axes = chart(LIGHT, rows=len(columns), height_px=TWO_PANELS_PX if len(columns) > 1 else 280)
    for one, (column, label) in zip(axes, columns, strict=True):
        for run, style in zip(runs, LINES, strict=False):
            if run.history is not None and _has(run.history, column):
                values = run.history[column] * (100 if label.endswith("(%)") else 1)
                draw_line(one, run.history["epoch"], values, run.name, style, **line_of(run.history))
        label_y(one, label, LIGHT)
    legend(axes[0], LIGHT)
    label_epochs(axes[-1], pd.concat([run.history for run in runs if run.history is not None]))
    return figure


def _has(history: pd.DataFrame | None, column: str) -> bool:
    return history is not None and column in history and bool(history[column].notna().any())


def draw_line(axes: Axes, x: Any, y: Any, name: str, style: tuple[str, str, str], **changed: Any) -> None:
    colour, dashes, marker = style
    options = {"linewidth": 1.8, "markersize": 4, **changed, "linestyle": dashes, "marker": marker}
    axes.plot(x, y, color=colour, label=_label(name), **options)


def _label(name: str) -> str:
    """matplotlib takes a name that begins with _ for none."""
    return f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name


def by_distance_figure(runs: Sequence[Evaluated]) -> Figure | None:
    """RMSE and δ1 in each band of true depth; None if no experiment has them."""
    scored = [(run, style) for run, style in zip(runs, LINES, strict=False) if run.metrics.get("by_distance")]
    if not scored:
        return None
    figure, (rmse, delta1) = chart(LIGHT, rows=2, height_px=TWO_PANELS_PX)
    edges: set[float] = set()
    for run, style in scored:
        bands: Sequence[Mapping[str, Any]] = run.metrics["by_distance"]
        edges |= {float(band[end]) for band in bands for end in ("from_m", "to_m")}
        centres = [(float(band["from_m"]) + float(band["to_m"])) / 2 for band in bands]
        for axes, key, scale in ((rmse, "rmse", 1), (delta1, "delta1", 100)):
            values = [math.nan if band.get(key) is None else scale * float(band[key]) for band in bands]
            draw_line(axes, centres, values, run.name, style)
    for axes, label in ((rmse, "RMSE (m)"), (delta1, "δ1, share of pixels (%)")):
        axes.set_ylim(bottom=0)
        label_y(axes, label, LIGHT)
    legend(rmse, LIGHT)
    delta1.set_xticks(sorted(edges))
    delta1.xaxis.set_major_formatter("{x:g}")
    delta1.set_xlabel("True depth (m)")
    return figure


def by_scene_type_figure(runs: Sequence[Evaluated]) -> Figure | None:
    """Mean RMSE of the frames of each scene type, the hardest for the reference first; None without types."""
    tables = {
        place: rmse_by_scene_type(run.per_image)
        for place, run in enumerate(runs)
        if run.per_image is not None and {"scene_type", "full_rmse"} <= set(run.per_image)
    }
    types = list(dict.fromkeys(name for table in tables.values() for name in table.index))
    if not types:
        return None
    figure, (axes,) = chart(LIGHT, height_px=max(190, 70 + 22 * len(types)))
    for place, table in tables.items():
        colour, _, marker = LINES[place]
        rows = [types.index(name) for name in table.index]
        axes.plot(table["rmse"], rows, marker, ms=6, mew=1.4, color=colour, mfc="none")
    frames = {name: int(table.loc[name, "n"]) for table in reversed(tables.values()) for name in table.index}
    axes.set_yticks(np.arange(len(types)), [f"{name.replace('_', ' ')}  ({frames[name]})" for name in types])
    axes.set_ylim(len(types) - 0.4, -0.6)
    axes.margins(x=0.08)
    axes.grid(visible=True, axis="x", color=LIGHT.line, linewidth=0.8)
    axes.set_xlabel("RMSE (m)")
    label_y(axes, "Scene type (number of frames)", LIGHT)
    return figure


def swatches(runs: Sequence[Evaluated]) -> tuple[Swatch, ...]:
    """The key of the experiments' colours."""
    return tuple(
        Swatch(run.name, _variable(colour), DASHES[dashes], place, MARKERS[marker])
        for place, (run, (colour, dashes, marker)) in enumerate(zip(runs, LINES, strict=False))
    )


def _variable(colour: str) -> str:
    names = {LIGHT.accent: "accent", LIGHT.second: "second", LIGHT.muted: "muted"}
    return f"var(--{names[colour]})" if colour in names else colour
