"""Every picture of a report, from inputs that hold much or little."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pipeline.reporting import error_figures, figures, style, training_figures
from pipeline.reporting.inputs import Predictions, ReportInputs
from tests.reporting.test_error_figures import BANDS, per_image
from tests.reporting.toy import data_facts, history

HISTOGRAM = {"edges_m": [-1.0, 0.0, 1.0], "counts": [30, 10]}
FACTS = data_facts()


def all_charts() -> dict[str, Callable[[], Figure]]:
    return {
        "loss_total": lambda: training_figures.loss_total_figure(history(5)),
        "loss_components": lambda: training_figures.loss_components_figure(history(5)),
        "validation": lambda: training_figures.validation_figure(history(5)),
        "pace": lambda: training_figures.pace_figure(history(5)),
        "error_by_distance": lambda: error_figures.error_by_distance_figure(BANDS),
        "error_by_scene_type": lambda: error_figures.error_by_scene_type_figure(per_image()),
        "error_histogram": lambda: error_figures.error_histogram_figure(HISTOGRAM),
        "depth_histogram": lambda: error_figures.depth_histogram_figure(FACTS.edges_m, FACTS.counts),
    }


@pytest.mark.parametrize("draw", all_charts().values(), ids=all_charts())
def test_every_axis_of_every_chart_names_its_quantity_and_unit(draw: Callable[[], Figure]) -> None:
    figure = draw()
    for axes in figure.axes:
        assert any(mark in axes.get_ylabel() for mark in ("(m)", "(m²)", "(%)", "no unit", "/s", "number of"))
    (along,) = {axes.get_xlabel() for axes in figure.axes} - {""}
    assert along == "Epoch" or along.endswith("(m)")


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
        metrics={"by_distance": BANDS, "error_histogram": HISTOGRAM},
        per_image=per_image(),
        history=history(epochs, validation=validation),
        predictions=Predictions(rgb_u8, *millimetres, entries),
        params={},
        environment={},
        data_fingerprint="",
        run_id=None,
        data=FACTS,
    )


def test_draw_figures_gives_a_png_of_each_figure() -> None:
    drawn = figures.draw_figures(report_inputs(epochs=3, frames=1))
    assert set(drawn) == {*all_charts(), "predictions"}
    for png in drawn.values():
        image = Image.open(io.BytesIO(png))
        image.load()
        assert image.format == "PNG"
    width = Image.open(io.BytesIO(drawn["loss_total"])).width
    assert width == style.PIXEL_DENSITY * style.CHART_PX[0]


def test_figures_without_numbers_are_left_out() -> None:
    drawn = figures.draw_figures(report_inputs(epochs=1, frames=0, validation=False))
    assert "predictions" not in drawn
    assert "validation" not in drawn
    assert "loss_total" in drawn


def test_the_same_inputs_give_the_same_bytes() -> None:
    first, second = (style.png(training_figures.loss_total_figure(history(4))) for _ in range(2))
    assert first == second


def test_drawing_neither_uses_pyplot_nor_changes_its_settings() -> None:
    before = dict(matplotlib.rcParams)
    figures.draw_figures(report_inputs(epochs=2, frames=1))
    assert dict(matplotlib.rcParams) == before
    module = sys.modules.get("matplotlib.pyplot")
    assert module is None or module.get_fignums() == []
