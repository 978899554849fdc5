"""The report: one HTML file with its pictures and its style inside, drawn from numbers that stages wrote."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from pipeline.evaluation.protocols import PROTOCOLS
from pipeline.evaluation.published import PUBLISHED, PublishedFigures
from pipeline.params import flatten
from pipeline.reporting import experiments, figures
from pipeline.reporting.benchmarks import tabulate
from pipeline.reporting.figures import DARK, LIGHT, ColourScale
from pipeline.reporting.inputs import Experiments, Predictions, ReportInputs

EN_DASH = "–"
NBSP = "\N{NO-BREAK SPACE}"
"""Between a number and its unit, which no line break may part."""

HEADLINE_PROTOCOL = "full"

TABLE_GROUPS = (
    ("full", "per image"),
    ("eigen", "per image"),
    ("densedepth", "pooled"),
    ("densedepth", "per image"),
    ("full", "pooled"),
)
"""Protocol and averaging within which rows compare, this project's headline first."""

MEASURES = (
    ("rmse", "RMSE (m)"),
    ("rmse_log", "RMSE of ln depth"),
    ("abs_rel", "AbsRel"),
    ("sq_rel", "SqRel (m)"),
    ("log10", "log10"),
    ("silog", "SILog (×100)"),
    ("delta1", "δ < 1.25"),
    ("delta2", "δ < 1.25²"),
    ("delta3", "δ < 1.25³"),
)

NYU_SOURCES = ("nyu_v2", "file")
SOURCE_NAMES = {
    "rooms": "rendered rooms",
    "nyu_v2": "NYU Depth v2",
    "file": "a labelled file in NYU Depth v2's layout",
    "folder": "a folder of one's own images",
    "nyu_raw": "raw sequences of NYU Depth v2",
}

TILE_WIDTH_PX = 320
"""Frames shrink to this in the page: nine real frames make a page of 3.2 MB, at 640 pixels of 7.6 MB."""

MOST_COMPARED = 30
"""Rows of the table of experiments."""
LONGEST_VALUE = 28

RANKS = (
    ("best", "Best", "lowest RMSE of all test frames"),
    ("median", "Median", "as many frames better as worse"),
    ("worst", "Worst", "highest RMSE of all test frames"),
)


def render_report(inputs: ReportInputs) -> str:
    """The whole report as one HTML document that loads nothing from anywhere."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number, percent=percent, count=count, value=shown_value, source_name=source_name
    )
    charts = {theme: figures.draw_charts(inputs, theme) for theme in (LIGHT, DARK)}
    return environment.get_template("report.html.jinja").render(
        light=LIGHT,
        dark=DARK,
        missing_colour=figures.MISSING_COLOUR,
        title=inputs.title,
        verdict=verdict(inputs.metrics),
        metrics=inputs.metrics,
        headline=inputs.metrics[HEADLINE_PROTOCOL],
        headline_protocol=HEADLINE_PROTOCOL,
        headline_meaning=protocol_meaning(HEADLINE_PROTOCOL),
        trained_on_test=trained_on_test(inputs.metrics),
        is_nyu=inputs.metrics["source"] in NYU_SOURCES,
        groups=list(result_groups(inputs.metrics)),
        gallery=gallery(inputs.predictions),
        charts={
            name: Chart(*_png_size(light), _data_uri(light), _data_uri(charts[DARK][name]))
            for name, light in charts[LIGHT].items()
        },
        training=training_summary(inputs),
        comparison=None if inputs.experiments is None else comparison(inputs.experiments),
        measures=MEASURES,
        protocols=list(PROTOCOLS),
        benchmarks=tabulate(inputs.benchmarks) if inputs.benchmarks else None,
        commands=commands(inputs.environment),
        params=[(section, flatten(content).items()) for section, content in _sections(inputs.params)],
        environment=flatten(inputs.environment).items(),
        data_fingerprint=inputs.data_fingerprint,
        run_id=inputs.run_id,
    )


# The verdict


def verdict(metrics: Mapping[str, Any]) -> str:
    """What came out, in one sentence of plain words, from the `full` protocol averaged per image."""
    scores = metrics[HEADLINE_PROTOCOL]
    frames = f"{metrics['frames']} {{}}test frame{'' if metrics['frames'] == 1 else 's'}"
    frames = (
        f"{frames.format('')} that were also trained on" if trained_on_test(metrics) else frames.format("unseen ")
    )
    return (
        f"RMSE {number(scores['rmse'], 2)}{NBSP}m on {frames}{_against_baseline(metrics)}; "
        f"{percent(scores['delta1'])} of pixels within 25{NBSP}% of the true depth"
    )


def _against_baseline(metrics: Mapping[str, Any]) -> str:
    baseline = metrics.get("baseline_mean_map", {}).get(HEADLINE_PROTOCOL, {}).get("rmse")
    rmse = metrics[HEADLINE_PROTOCOL]["rmse"]
    if not (_is_number(rmse) and _is_number(baseline) and baseline > 0):
        return ""
    change = round(100 * (rmse / baseline - 1))
    if change == 0:
        return ", level with the mean-depth map"
    return f", {abs(change)}{NBSP}% {'below' if change < 0 else 'above'} the mean-depth map"


def trained_on_test(metrics: Mapping[str, Any]) -> bool:
    """Whether `preprocess.split: all` put the test frames into training, as `trained_on` then says."""
    return str(metrics["trained_on"]).startswith("all frames")


# The result table


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    kind: str
    """`model`, `baseline` or `published`"""
    model: str
    protocol: str | None
    averaged: str | None
    parameters: str | None
    pretrained: str | None
    trained_on: str | None
    rmse: float | None
    abs_rel: float | None
    delta1: float | None


@dataclass(frozen=True)
class ResultGroup:
    """Rows that may be compared with each other."""

    name: str
    meaning: str
    rows: Sequence[ResultRow]


def result_groups(metrics: Mapping[str, Any]) -> Iterator[ResultGroup]:
    """This model, the mean-depth map and what was published, by protocol and averaging; odd ones out last."""
    for protocol, averaged in TABLE_GROUPS:
        rows = [
            _measured_row("model", "This model", metrics, metrics[protocol], protocol, averaged),
        ]
        baseline = metrics.get("baseline_mean_map", {}).get(protocol)
        if baseline:
            rows.append(
                _measured_row("baseline", "Mean-depth map, same frames", metrics, baseline, protocol, averaged)
            )
        published = [row for row in PUBLISHED if (row.protocol, row.averaged) == (protocol, averaged)]
        rows += [_published_row(row) for row in sorted(published, key=lambda row: row.rmse)]
        yield ResultGroup(f"{protocol}, {averaged}", protocol_meaning(protocol), rows)
    others = [row for row in PUBLISHED if (row.protocol, row.averaged) not in TABLE_GROUPS]
    yield ResultGroup(
        "Other protocols",
        "these rows compare with nothing above, nor with each other",
        [_published_row(row) for row in sorted(others, key=lambda row: row.rmse)],
    )


def protocol_meaning(name: str) -> str:
    """Which pixels a protocol scores, and whether it averages the prediction with its mirror image."""
    protocol = PROTOCOLS[name]
    (top, bottom), (left, right) = protocol.rows, protocol.columns
    whole = (top, bottom, left, right) == (0, 480, 0, 640)
    crop = "whole frame" if whole else f"rows {top} to {bottom}, columns {left} to {right}"
    flip = ", averaged with the mirrored prediction" if protocol.flip_averaging else ""
    return f"{protocol.depth} depth, {crop}{flip}"


def _measured_row(
    kind: str,
    model: str,
    metrics: Mapping[str, Any],
    scores: Mapping[str, Any],
    protocol: str,
    averaged: str,
) -> ResultRow:
    suffix = "_pooled" if averaged == "pooled" else ""
    return ResultRow(
        kind=kind,
        model=model,
        protocol=protocol,
        averaged=averaged,
        parameters=count(metrics["parameters"]) if kind == "model" else "0",
        pretrained="no" if kind == "model" else None,
        trained_on=metrics["trained_on"],
        rmse=scores.get(f"rmse{suffix}"),
        abs_rel=scores.get(f"abs_rel{suffix}"),
        delta1=scores.get(f"delta1{suffix}"),
    )


def _published_row(row: PublishedFigures) -> ResultRow:
    return ResultRow(
        kind="published",
        model=row.model,
        protocol=row.protocol,
        averaged=row.averaged,
        parameters=row.parameters and row.parameters.replace(" M", f"{NBSP}M"),
        pretrained=row.pretrained,
        trained_on=row.trained_on,
        rmse=row.rmse,
        abs_rel=row.abs_rel,
        delta1=row.delta1,
    )


# The gallery of predictions


@dataclass(frozen=True)
class Tile:
    caption: str
    alt: str
    uri: str


@dataclass(frozen=True)
class GalleryFrame:
    title: str
    rmse: float | None
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class GalleryGroup:
    name: str
    meaning: str
    frames: Sequence[GalleryFrame]


@dataclass(frozen=True)
class ColourBar:
    label: str
    gradient: str
    ticks: Sequence[tuple[float, str]]
    """(percent of the bar's length, label)"""


@dataclass(frozen=True)
class Gallery:
    """Frames by rank, ranks without frames left out; one depth and one error scale for all of them."""

    groups: Sequence[GalleryGroup]
    bars: Sequence[ColourBar]
    tile_width: int
    tile_height: int


def gallery(predictions: Predictions) -> Gallery:
    depth_m, prediction_m = predictions.depth_m, predictions.prediction_m
    errors_m = figures.signed_error_m(prediction_m, depth_m)
    depths, errors = figures.depth_scale(depth_m, prediction_m), figures.error_scale(errors_m)

    def tiles(index: int) -> list[Tile]:
        frame = predictions.frames[index]["frame"]
        images = (
            Image.fromarray(predictions.rgb_u8[index].transpose(1, 2, 0)),
            depths.paint(figures.missing_as_nan(depth_m[index, 0])),
            depths.paint(figures.missing_as_nan(prediction_m[index, 0])),
            errors.paint(errors_m[index, 0]),
        )
        return [
            Tile(caption, f"{caption} of test frame {frame}", _data_uri(_tile_png(image)))
            for caption, image in zip(figures.PICTURE_COLUMNS, images, strict=True)
        ]

    groups = []
    for rank, name, meaning in RANKS:
        members = [index for index, frame in enumerate(predictions.frames) if frame["rank"] == rank]
        if members:
            shown = [
                GalleryFrame(
                    title=f"Frame {predictions.frames[index]['frame']}, {predictions.frames[index]['scene']}",
                    rmse=predictions.frames[index]["rmse"],
                    tiles=tiles(index),
                )
                for index in members
            ]
            groups.append(GalleryGroup(name, meaning, shown))
    height, width = predictions.rgb_u8.shape[-2:]
    return Gallery(
        groups,
        (_colour_bar("Depth (m)", depths), _colour_bar("Predicted – true depth (m)", errors)),
        *_tile_size(width, height),
    )


def _colour_bar(label: str, scale: ColourScale) -> ColourBar:
    places = [100 * (tick - scale.low_m) / (scale.high_m - scale.low_m) for tick in scale.ticks_m()]
    return ColourBar(label, scale.css_gradient(), list(zip(places, figures.tick_labels(scale), strict=True)))


def _tile_size(width: int, height: int) -> tuple[int, int]:
    shown = min(width, TILE_WIDTH_PX)
    return shown, round(height * shown / width)


def _tile_png(image: Image.Image) -> bytes:
    """Photographs by area; maps by nearest pixel, so that missing pixels and depths never mix."""
    by = Image.Resampling.NEAREST if image.mode == "P" else Image.Resampling.BOX
    buffer = io.BytesIO()
    image.resize(_tile_size(*image.size), by).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


# Charts and the course of training


@dataclass(frozen=True)
class Chart:
    width: int
    height: int
    light_uri: str
    dark_uri: str


@dataclass(frozen=True)
class TrainingSummary:
    epochs: int
    seconds: float
    frames_per_s: float | None
    best_epoch: int | None
    best_rmse: float | None


def training_summary(inputs: ReportInputs) -> TrainingSummary | None:
    history = inputs.history
    if history.empty:
        return None
    best = figures.best_epoch(history)
    return TrainingSummary(
        epochs=len(history),
        seconds=float(history["seconds"].sum()),
        frames_per_s=float(history["frames_per_s"].median()),
        best_epoch=best,
        best_rmse=None if best is None else float(history["val_rmse"].min()),
    )


# The other experiments of the store


@dataclass(frozen=True)
class ComparedRun:
    name: str
    is_this: bool
    params: Sequence[str]
    val_rmse: float
    test_rmse: float
    test_delta1: float


@dataclass(frozen=True)
class Comparison:
    """This run among others; what it says holds on the day on which the store was read, and no longer."""

    group: str | None
    as_of: str
    in_store: int
    params: Sequence[str]
    """in which the runs differ"""
    runs: Sequence[ComparedRun]
    """by validation RMSE, the lowest first; a long list is cut, but for this run"""
    count: int
    """runs before that cut, this one included"""
    ranked_by: str
    seeds: SeedSummary | None


@dataclass(frozen=True)
class SeedSummary:
    """Mean and standard deviation over the runs that differ from this one in the seed alone."""

    runs: int
    rmse: float
    rmse_spread: float
    delta1: float
    delta1_spread: float


def comparison(given: Experiments) -> Comparison:
    names = experiments.differing(given.runs)
    score = experiments.score_of_search(given.runs)
    ordered = given.runs.sort_values(score, kind="stable", na_position="last").reset_index(drop=True)
    shown = ordered[(ordered.index < MOST_COMPARED) | ordered["is_this"]]
    rows = [
        ComparedRun(
            row["name"],
            bool(row["is_this"]),
            [_short_value(row[name]) for name in names],
            row["val_rmse"],
            row["test_rmse"],
            row["test_delta1"],
        )
        for _, row in shown.iterrows()
    ]
    return Comparison(
        group=given.group,
        as_of=given.as_of,
        in_store=given.in_store,
        params=[experiments.short(name) for name in names],
        runs=rows,
        count=len(ordered),
        ranked_by="validation RMSE" if score == "val_rmse" else "test RMSE",
        seeds=_seed_summary(given),
    )


def _seed_summary(given: Experiments) -> SeedSummary | None:
    seeds = experiments.seeds_of_this(given.runs).dropna(subset=["test_rmse", "test_delta1"])
    if len(seeds) < 2:
        return None
    rmse, delta1 = seeds["test_rmse"], seeds["test_delta1"]
    return SeedSummary(len(seeds), rmse.mean(), rmse.std(ddof=1), delta1.mean(), delta1.std(ddof=1))


def _short_value(value: Any) -> str:
    """A parameter as MLflow keeps it, cut to what a column can hold; an en dash where a run has none."""
    text = "" if value in (None, "None") or value != value else str(value)
    return shown_value(text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…")


# What is needed to repeat it


def commands(environment: Mapping[str, Any]) -> list[str]:
    """Shell lines that make this report again; the checkout only where the commit is known."""
    commit = re.match(r"[0-9a-f]{7,64}\b", str(environment.get("git_commit") or ""))
    return [*([f"git checkout {commit[0]}"] if commit else []), "make repro"]


def _sections(params: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The sections of the parameters; single values such as `seed` come first, together."""
    single = {key: content for key, content in params.items() if not isinstance(content, Mapping)}
    if single:
        yield "general", single
    yield from ((key, content) for key, content in params.items() if isinstance(content, Mapping))


# Numbers and pictures as text


def number(value: Any, digits: int = 3) -> str:
    """Fixed decimals, with a true minus sign; an en dash for what was not measured."""
    return f"{value:.{digits}f}".replace("-", "−") if _is_number(value) else EN_DASH


def percent(value: Any) -> str:
    return f"{100 * value:.0f}{NBSP}%" if _is_number(value) else EN_DASH


def count(value: Any) -> str:
    """A large count in thousands, millions or billions, three digits of it."""
    if not _is_number(value):
        return EN_DASH
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 499 600 is 0.5 M beside the millions of other networks, rather than 500 k.
        if value >= size / 10:
            return f"{value / size:.3g}{NBSP}{letter}"
    return f"{value:g}"


def shown_value(value: Any) -> str:
    """A parameter or a version as text."""
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return EN_DASH
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(shown_value(item) for item in value) or EN_DASH
    return str(value)


def source_name(source: str) -> str:
    return SOURCE_NAMES.get(source, source)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _png_size(png: bytes) -> tuple[int, int]:
    """Width and height in CSS pixels."""
    with Image.open(io.BytesIO(png)) as image:
        return image.width // figures.PIXEL_DENSITY, image.height // figures.PIXEL_DENSITY
