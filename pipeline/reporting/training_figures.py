"""The course of training by epoch: the loss and its terms, validation, learning rate and speed."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.reporting.style import CHART_PX, FONT_PT, LIGHT, Theme, chart, from_zero, label_y, legend

TERMS = {
    "loss_silog": "Of logarithms (no unit)",
    "loss_mse": "MSE (m²)",
    "loss_ssim": "(1 – SSIM) / 2 (no unit)",
    "loss_gradient": "Gradient (m)",
}
"""Of the loss, by their columns."""
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def loss_total_figure(history: pd.DataFrame, theme: Theme = LIGHT) -> Figure:
    """The weighted training loss and, where there is a validation set, the same on validation frames."""
    figure, (axes,) = chart(theme)
    epoch_curves(axes, history, "loss_total", theme)
    legend(axes, theme)
    label_y(axes, "Total loss (weighted sum, no unit)", theme)
    label_epochs(axes, history)
    return figure


def loss_components_figure(history: pd.DataFrame, theme: Theme = LIGHT) -> Figure:
    """The terms that were computed, unweighted, one above the other since their units differ."""
    terms = {column: label for column, label in TERMS.items() if f"train_{column}" in history}
    figure, panels = chart(theme, rows=len(terms), height_px=CHART_PX[1] * max(len(terms), 2) // 2)
    for axes, (column, label) in zip(panels, terms.items(), strict=True):
        epoch_curves(axes, history, column, theme)
        label_y(axes, label, theme)
    legend(panels[0], theme)
    label_epochs(panels[-1], history)
    return figure


def validation_figure(history: pd.DataFrame, theme: Theme = LIGHT) -> Figure:
    """RMSE and the δ shares on validation frames, the best epoch marked."""
    figure, (rmse, delta) = chart(theme, rows=2)
    epochs = history["epoch"]
    rmse.plot(epochs, history["val_rmse"], color=theme.second, label="RMSE", **line_of(history))
    label_y(rmse, "Validation RMSE (m)", theme)
    best = best_epoch(history)
    if best is not None:
        at_best = history.loc[history["epoch"] == best, "val_rmse"].iloc[0]
        rmse.plot([best], [at_best], "o", ms=6, mfc=theme.surface, mec=theme.second, mew=1.6)
        rmse.annotate(
            f"best: epoch {best}",
            (best, at_best),
            xytext=(0, 7),
            textcoords="offset points",
            ha="right" if best > epochs.mean() else "left",
            size=FONT_PT,
            color=theme.ink,
        )
    for column, label, style in (
        ("val_delta1", "δ < 1.25", "-"),
        ("val_delta2", "δ < 1.25²", "--"),
        ("val_delta3", "δ < 1.25³", ":"),
    ):
        if column in history:
            line = {**line_of(history), "linestyle": style, "label": label}
            delta.plot(epochs, 100 * history[column], color=theme.second, **line)
    label_y(delta, "Share of pixels (%)", theme)
    legend(delta, theme, columns=3)
    label_epochs(delta, history)
    return figure


def pace_figure(history: pd.DataFrame, theme: Theme = LIGHT) -> Figure:
    """The learning rate, and how many frames a second training took in."""
    figure, (rate, speed) = chart(theme, rows=2)
    highest = float(history["learning_rate"].max())
    # The small surplus: 9.9e-5, where a warm-up did not quite reach 1e-4, still counts in units of 1e-4.
    power = math.floor(math.log10(highest) + 0.05) if highest > 0 else 0
    scaled = history["learning_rate"] / 10.0**power
    rate.step(history["epoch"], scaled, where="mid", color=theme.muted, linewidth=1.6, label="learning rate")
    from_zero(rate, scaled)
    label_y(rate, f"Learning rate (10{str(power).translate(_SUPERSCRIPT)}, no unit)", theme)
    speed.plot(history["epoch"], history["frames_per_s"], color=theme.muted, label="speed", **line_of(history))
    from_zero(speed, history["frames_per_s"])
    label_y(speed, "Training speed (frames/s)", theme)
    label_epochs(speed, history)
    return figure


def best_epoch(history: pd.DataFrame) -> int | None:
    """The epoch of lowest validation RMSE; None without validation."""
    if "val_rmse" not in history or history["val_rmse"].isna().all():
        return None
    return int(history["epoch"].iloc[int(history["val_rmse"].argmin())])


def label_epochs(axes: Axes, history: pd.DataFrame) -> None:
    first, last = int(history["epoch"].min()), int(history["epoch"].max())
    axes.set_xlim(first - 0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9, min_n_ticks=1))
    axes.set_xlabel("Epoch")


def epoch_curves(axes: Axes, history: pd.DataFrame, column: str, theme: Theme) -> None:
    """Training solid with a dot at its end, validation dashed with a square."""
    for split, name, colour, style, marker in (
        ("train", "training", theme.accent, "-", "o"),
        ("val", "validation", theme.second, "--", "s"),
    ):
        values = history.get(f"{split}_{column}")
        if values is not None and values.notna().any():
            line = {**line_of(history), "linestyle": style, "marker": marker, "label": name}
            axes.plot(history["epoch"], values, color=colour, **line)


def line_of(history: pd.DataFrame) -> dict[str, Any]:
    """Dots where a curve is short enough to show them, else one at its end: one epoch must not vanish."""
    few = len(history) <= 12
    return {
        "linewidth": 1.8,
        "marker": "o",
        "markersize": 3.5,
        "markevery": 1 if few else [len(history) - 1],
    }
