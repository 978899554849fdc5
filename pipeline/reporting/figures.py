"""The pictures of a report: every chart that its inputs have the numbers for, and that of the predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.reporting import error_figures, search_figures, study_figures, training_figures
from pipeline.reporting.colours import (
    ColourScale,
    depth_scale,
    error_scale,
    missing_as_nan,
    signed_error_m,
    tick_labels,
)
from pipeline.reporting.curves import Plot, plot
from pipeline.reporting.gallery import BY_LOT, PICTURE_COLUMNS
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.style import CSS_PX_PER_INCH, FONT_PT, LIGHT, Theme, png


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
        figure.text(left / full_width, 1 - top / full_height, text, va="top", **{"size": FONT_PT + 1, **style})

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
        axes.set_xlabel(label, color=theme.muted, size=FONT_PT, labelpad=2)
        axes.tick_params(length=0, labelsize=FONT_PT, labelcolor=theme.muted, pad=2)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def predictions_picture(
    rgb_u8: np.ndarray, depth_m: np.ndarray, prediction_m: np.ndarray, titles: Sequence[str]
) -> bytes:
    """`predictions_figure` as PNG, for a README, the report's folder or a tracker."""
    # 360 pixels a tile; at a chart's density nine frames would make 5 MB.
    return png(predictions_figure(rgb_u8, depth_m, prediction_m, titles), density=1.5)


# All of them


def draw_plots(inputs: ReportInputs) -> dict[str, Plot]:
    """Name -> inline SVG of every chart that the inputs have the numbers for, those of experiments left out."""
    return {name: plot(figure, name) for name, figure in _charts(inputs, LIGHT)}


def draw_search(inputs: ReportInputs, theme: Theme = LIGHT) -> dict[str, bytes]:
    """Name -> PNG of the charts of other experiments, whose colour maps differ between the themes."""
    if inputs.experiments is None:
        return {}
    runs = inputs.experiments.runs
    drawn = {
        "experiments_line": search_figures.parameter_line_figure(runs, theme),
        "experiments_parallel": search_figures.parallel_coordinates_figure(runs, theme),
        "experiments_map_rmse": search_figures.parameter_map_figure(runs, "test_rmse", theme),
        "experiments_map_delta1": search_figures.parameter_map_figure(runs, "test_delta1", theme),
    }
    return {name: png(figure) for name, figure in drawn.items() if figure is not None}


def draw_studies(inputs: ReportInputs, theme: Theme = LIGHT) -> dict[str, bytes]:
    """`study_NAME` -> PNG of the studies that have a plot: the same as on the page of experiments."""
    drawn = {
        f"study_{summary.study.name}": study_figures.study_figure(summary, theme) for summary in inputs.studies
    }
    return {name: png(figure) for name, figure in drawn.items() if figure is not None}


def _charts(inputs: ReportInputs, theme: Theme) -> Iterator[tuple[str, Figure]]:
    history, metrics = inputs.history, inputs.metrics
    if len(history):
        yield "loss_total", training_figures.loss_total_figure(history, theme)
        yield "loss_components", training_figures.loss_components_figure(history, theme)
        if training_figures.best_epoch(history) is not None:
            yield "validation", training_figures.validation_figure(history, theme)
        yield "pace", training_figures.pace_figure(history, theme)
    if metrics.get("by_distance"):
        yield "error_by_distance", error_figures.error_by_distance_figure(metrics["by_distance"], theme)
    if metrics.get("error_histogram"):
        yield "error_histogram", error_figures.error_histogram_figure(metrics["error_histogram"], theme)
    if inputs.per_image["full_rmse"].notna().any():
        yield "error_by_scene_type", error_figures.error_by_scene_type_figure(inputs.per_image, theme)
    if inputs.data is not None:
        yield (
            "depth_histogram",
            error_figures.depth_histogram_figure(inputs.data.edges_m, inputs.data.counts, theme),
        )


def draw_figures(inputs: ReportInputs) -> dict[str, bytes]:
    """Name -> PNG of the charts and of the picture of predictions, to be saved beside the report."""
    drawn = {name: png(figure) for name, figure in _charts(inputs, LIGHT)}
    drawn |= draw_search(inputs) | draw_studies(inputs)
    predictions = inputs.predictions
    by_error = [index for index, frame in enumerate(predictions.frames) if frame["rank"] != BY_LOT[0]]
    if by_error:
        drawn["predictions"] = predictions_picture(
            predictions.rgb_u8[by_error],
            predictions.depth_m[by_error],
            predictions.prediction_m[by_error],
            [prediction_title(predictions.frames[index]) for index in by_error],
        )
    return drawn


def prediction_title(frame: Mapping[str, Any]) -> str:
    return f"{frame['rank']}: frame {frame['frame']}, {frame['scene']}, RMSE {frame['rmse']:.2f} m"
