"""The course of training as charts: whatever the number of epochs, with and without validation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipeline.reporting import training_figures


def history(epochs: int, *, validation: bool = True) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    table = {"epoch": epoch, "seconds": 10.0, "learning_rate": 1e-4, "frames_per_s": 220.0}
    for split in ("train", "val") if validation else ("train",):
        for term in ("total", "mse", "ssim"):
            table[f"{split}_loss_{term}"] = 1.0 / epoch
    if validation:
        # Lowest in the middle, so that the best epoch is neither the first nor the last.
        table |= {"val_rmse": 0.5 + 0.01 * np.abs(epoch - (epochs + 1) // 2)}
        table |= {f"val_delta{k}": 0.6 + 0.1 * k + 0 * epoch for k in (1, 2, 3)}
    return pd.DataFrame(table)


def test_training_and_validation_differ_in_line_and_marker_not_in_colour_alone() -> None:
    training, validation = training_figures.loss_total_figure(history(5)).axes[0].lines
    assert training.get_linestyle() != validation.get_linestyle()
    assert training.get_marker() != validation.get_marker()


def test_loss_curves_without_validation_show_training_alone() -> None:
    (line,) = training_figures.loss_total_figure(history(5, validation=False)).axes[0].lines
    assert line.get_label() == "training"
    np.testing.assert_allclose(line.get_ydata(), 1 / np.arange(1, 6))


def test_a_single_epoch_is_visible_as_a_point() -> None:
    axes = training_figures.loss_total_figure(history(1)).axes[0]
    assert all(line.get_marker() not in (None, "None", "") for line in axes.lines)
    low, high = axes.get_xlim()
    assert low < 1 < high


def test_the_marked_epoch_is_the_one_of_lowest_validation_rmse() -> None:
    assert training_figures.best_epoch(history(9)) == 5
    _, mark = training_figures.validation_figure(history(9)).axes[0].lines
    assert (list(mark.get_xdata()), list(mark.get_ydata())) == ([5], [pytest.approx(0.5)])


def test_there_is_no_best_epoch_without_validation() -> None:
    assert training_figures.best_epoch(history(3, validation=False)) is None
    assert training_figures.best_epoch(history(3).assign(val_rmse=np.nan)) is None


def test_every_term_that_was_computed_has_a_panel_and_no_other() -> None:
    table = history(5)
    assert len(training_figures.loss_components_figure(table).axes) == 2
    figure = training_figures.loss_components_figure(table.assign(train_loss_silog=0.2, val_loss_silog=0.3))
    assert figure.axes[0].get_ylabel() == "Of logarithms (no unit)"
    assert len(figure.axes) == 3
