from __future__ import annotations

import io
import sys
from collections.abc import Callable

import matplotlib
import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from pipeline.reporting import figures
from pipeline.reporting.inputs import Predictions, ReportInputs

BANDS = [
    {"from_m": 0, "to_m": 1, "pixels": 100, "rmse": 0.2, "abs_rel": 0.3, "delta1": 0.6},
    {"from_m": 1, "to_m": 2, "pixels": 300, "rmse": 0.3, "abs_rel": 0.2, "delta1": 0.7},
    {"from_m": 4, "to_m": 5, "pixels": 600, "rmse": 0.9, "abs_rel": 0.2, "delta1": 0.5},
]


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


def per_image() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "frame": ["a", "b", "c", "d"],
            "scene": ["kitchen_1", "kitchen_1", "office_1", "bedroom_1"],
            "scene_type": ["kitchen", "kitchen", "home_office", None],
            "full_rmse": [0.4, 0.6, 0.9, np.nan],
        }
    )


def all_charts() -> dict[str, Callable[[], Figure]]:
    return {
        "loss_total": lambda: figures.loss_total_figure(history(5)),
        "loss_components": lambda: figures.loss_components_figure(history(5)),
        "validation": lambda: figures.validation_figure(history(5)),
        "pace": lambda: figures.pace_figure(history(5)),
        "error_by_distance": lambda: figures.error_by_distance_figure(BANDS),
        "error_by_scene_type": lambda: figures.error_by_scene_type_figure(per_image()),
    }


@pytest.mark.parametrize("draw", all_charts().values(), ids=all_charts())
def test_every_axis_of_every_chart_names_its_quantity_and_unit(draw: Callable[[], Figure]) -> None:
    figure = draw()
    for axes in figure.axes:
        assert any(mark in axes.get_ylabel() for mark in ("(m)", "(m²)", "(%)", "no unit", "/s", "number of"))
    assert figure.axes[-1].get_xlabel() in ("Epoch", "RMSE (m)") or "(m)" in figure.axes[0].get_xlabel()


def test_training_and_validation_differ_in_line_and_marker_not_in_colour_alone() -> None:
    training, validation = figures.loss_total_figure(history(5)).axes[0].lines
    assert training.get_linestyle() != validation.get_linestyle()
    assert training.get_marker() != validation.get_marker()


def test_loss_curves_without_validation_show_training_alone() -> None:
    (line,) = figures.loss_total_figure(history(5, validation=False)).axes[0].lines
    assert line.get_label() == "training"
    np.testing.assert_allclose(line.get_ydata(), 1 / np.arange(1, 6))


def test_a_single_epoch_is_visible_as_a_point() -> None:
    axes = figures.loss_total_figure(history(1)).axes[0]
    assert all(line.get_marker() not in (None, "None", "") for line in axes.lines)
    low, high = axes.get_xlim()
    assert low < 1 < high


def test_the_marked_epoch_is_the_one_of_lowest_validation_rmse() -> None:
    assert figures.best_epoch(history(9)) == 5
    _, mark = figures.validation_figure(history(9)).axes[0].lines
    assert (list(mark.get_xdata()), list(mark.get_ydata())) == ([5], [pytest.approx(0.5)])


def test_there_is_no_best_epoch_without_validation() -> None:
    assert figures.best_epoch(history(3, validation=False)) is None
    assert figures.best_epoch(history(3).assign(val_rmse=np.nan)) is None


def test_bands_of_distance_stand_at_their_depth_with_their_share_of_all_pixels() -> None:
    rmse, share = figures.error_by_distance_figure(BANDS).axes
    np.testing.assert_allclose(rmse.lines[0].get_xydata(), [[0.5, 0.2], [1.5, 0.3], [4.5, 0.9]])
    assert [bar.get_height() for bar in share.patches] == pytest.approx([10, 30, 60])
    assert rmse.get_zorder() > share.get_zorder()


def test_scene_types_are_sorted_from_the_worst_and_say_how_many_frames_they_have() -> None:
    table = figures.rmse_by_scene_type(per_image())
    assert list(table.index) == ["home_office", "kitchen"]
    assert list(table["n"]) == [1, 2]
    assert list(table["rmse"]) == pytest.approx([0.9, 0.5])
    axes = figures.error_by_scene_type_figure(per_image()).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["home office  (1)", "kitchen  (2)"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row on top


def test_frames_without_a_scene_type_are_grouped_as_not_stated() -> None:
    table = figures.rmse_by_scene_type(per_image().assign(full_rmse=[0.1, 0.1, 0.1, 0.7]))
    assert table.index[0] == "not stated"


@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=30))
@settings(deadline=None)
def test_the_depth_scale_covers_all_valid_depths_and_no_missing_one(depths: list[float]) -> None:
    truth_m = np.array([0.0, *depths], dtype=np.float32)
    scale = figures.depth_scale(truth_m, truth_m[::-1])
    assert scale.low_m <= truth_m[1:].min()
    assert scale.high_m >= truth_m.max()
    assert scale.ticks_m()[0] == scale.low_m
    assert scale.ticks_m()[-1] == scale.high_m
    assert scale.high_m - scale.low_m <= max(truth_m.max() - truth_m[1:].min() + 1, 0.5)


def test_the_depth_scale_of_nothing_is_that_of_the_sensor() -> None:
    scale = figures.depth_scale(np.zeros((2, 2), dtype=np.float32))
    assert (scale.low_m, scale.high_m) == (0.0, 10.0)


def test_the_error_scale_is_symmetric_and_says_where_it_clips() -> None:
    errors_m = np.concatenate([np.linspace(-0.9, 0.9, 999), [7.0, np.nan]])
    scale = figures.error_scale(errors_m)
    assert (scale.low_m, scale.high_m) == (-1.0, 1.0)
    assert figures.tick_labels(scale) == ["≤ −1", "−0.5", "0", "+0.5", "≥ +1"]
    covered = figures.error_scale(errors_m[:999])
    assert figures.tick_labels(covered)[0] == "−1"


def test_errors_are_signed_and_absent_where_either_depth_is() -> None:
    error_m = figures.signed_error_m(np.array([3.0, 1.0, 0.0, 2.0]), np.array([2.0, 2.0, 2.0, 0.0]))
    np.testing.assert_array_equal(error_m, [1.0, -1.0, np.nan, np.nan])


def test_painted_depth_is_the_colour_map_and_missing_pixels_are_grey() -> None:
    scale = figures.ColourScale(1.0, 5.0, "magma_r")
    painted = np.asarray(scale.paint(np.array([[1.0, 3.0, 5.0, np.nan, 9.0]])).convert("RGB"))[0]
    expected = matplotlib.colormaps["magma_r"]([0.0, 0.5, 1.0], bytes=True)[:, :3]
    assert np.abs(painted[:3].astype(int) - expected).max() <= 2  # 255 steps instead of a continuum
    assert tuple(painted[3]) == tuple(bytes.fromhex(figures.MISSING_COLOUR[1:]))
    np.testing.assert_array_equal(painted[4], painted[2])


@pytest.mark.parametrize("theme", [figures.LIGHT, figures.DARK], ids=["light", "dark"])
def test_lettering_and_lines_stand_out_from_their_ground(theme: figures.Theme) -> None:
    """WCAG 2.1 asks for a contrast of 4.5 for text and 3 for graphics."""

    def luminance(colour: str) -> float:
        channels = np.array(matplotlib.colors.to_rgb(colour))
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    def contrast(one: str, other: str) -> float:
        dark, light = sorted((luminance(one), luminance(other)))
        return (light + 0.05) / (dark + 0.05)

    for ground in (theme.page, theme.surface):
        assert (
            min(contrast(theme.ink, ground), contrast(theme.muted, ground), contrast(theme.accent, ground)) >= 4.5
        )
        assert contrast(theme.second, ground) >= 3


def pictures(frames: int, size: tuple[int, int] = (48, 64)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    rgb_u8 = random.integers(0, 256, (frames, 3, *size), dtype=np.uint8)
    depth_m = random.uniform(1.2, 4.2, (frames, 1, *size)).astype(np.float32)
    depth_m[..., :4, :] = 0
    return rgb_u8, depth_m, depth_m * 1.1 + 0.05


def test_all_predictions_share_one_depth_scale_and_one_error_scale() -> None:
    rgb_u8, depth_m, prediction_m = pictures(2)
    depth_m[1] += 2  # the second frame lies farther away
    figure = figures.predictions_figure(rgb_u8, depth_m, prediction_m, ["one", "two"])
    tiles, bars = figure.axes[:8], figure.axes[8:]
    depth_limits = {tiles[row * 4 + column].images[0].get_clim() for row in (0, 1) for column in (1, 2)}
    error_limits = {tiles[row * 4 + 3].images[0].get_clim() for row in (0, 1)}
    ((low, high),) = depth_limits
    assert low <= depth_m[depth_m > 0].min()
    assert high >= max(depth_m.max(), prediction_m.max())
    ((nearest, farthest),) = error_limits
    assert nearest == -farthest
    assert [bar.get_xlim() for bar in bars] == [(low, high), (nearest, farthest)]
    assert all("(m)" in bar.get_xlabel() for bar in bars)


def test_tiles_keep_the_aspect_ratio_of_the_frames() -> None:
    figure = figures.predictions_figure(*pictures(1, (30, 80)), ["one"])
    box = figure.axes[0].get_position()
    width, height = figure.get_size_inches()
    assert box.width * width / (box.height * height) == pytest.approx(80 / 30, rel=0.01)


def test_titles_are_shown_as_they_are_even_with_dollar_signs() -> None:
    png = figures.predictions_picture(*pictures(1), ["scene $x_{1$ & <b>"])
    assert Image.open(io.BytesIO(png)).format == "PNG"


def report_inputs(epochs: int, frames: int, *, validation: bool = True) -> ReportInputs:
    rgb_u8, depth_m, prediction_m = pictures(frames)
    entries = [{"frame": f"{k}", "scene": "kitchen_1", "rank": "best", "rmse": 0.2} for k in range(frames)]
    millimetres = [np.rint(depth * 1000).astype(np.int16) for depth in (depth_m, prediction_m)]
    return ReportInputs(
        title="Depth",
        metrics={"by_distance": BANDS},
        per_image=per_image(),
        history=history(epochs, validation=validation),
        predictions=Predictions(rgb_u8, *millimetres, entries),
        params={},
        environment={},
        data_fingerprint="",
        run_id=None,
    )


def test_draw_figures_gives_a_png_of_each_figure() -> None:
    drawn = figures.draw_figures(report_inputs(epochs=3, frames=1))
    assert set(drawn) == {*all_charts(), "predictions"}
    for png in drawn.values():
        image = Image.open(io.BytesIO(png))
        image.load()
        assert image.format == "PNG"
    width = Image.open(io.BytesIO(drawn["loss_total"])).width
    assert width == figures.PIXEL_DENSITY * figures.CHART_PX[0]


def test_figures_without_numbers_are_left_out() -> None:
    drawn = figures.draw_figures(report_inputs(epochs=1, frames=0, validation=False))
    assert "predictions" not in drawn
    assert "validation" not in drawn
    assert "loss_total" in drawn


def test_the_same_inputs_give_the_same_bytes() -> None:
    first, second = (figures.png(figures.loss_total_figure(history(4))) for _ in range(2))
    assert first == second


def test_drawing_neither_uses_pyplot_nor_changes_its_settings() -> None:
    before = dict(matplotlib.rcParams)
    figures.draw_figures(report_inputs(epochs=2, frames=1))
    assert dict(matplotlib.rcParams) == before
    module = sys.modules.get("matplotlib.pyplot")
    assert module is None or module.get_fignums() == []
