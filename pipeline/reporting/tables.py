"""The tables of results: this model, baselines and what was published, by protocol; and what one model scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.protocols import PROTOCOLS
from pipeline.evaluation.published import PUBLISHED, PublishedFigures
from pipeline.reporting.text import NBSP, count, interval, is_number

TABLE_GROUPS = (
    ("full", "per image"),
    ("eigen", "per image"),
    ("densedepth", "pooled"),
    ("densedepth", "per image"),
    ("full", "pooled"),
)
"""Protocol and averaging within which rows compare, this project's headline first."""
SHORT_GROUPS = TABLE_GROUPS[:3]
"""Those of the first screen: each protocol averaged as it is published."""

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
BASELINES = (
    ("baseline_mean_map", "Mean-depth map, same frames"),
    ("baseline_constant", "Constant depth, same frames"),
)
"""Key in the metrics -> how it is called."""
OTHER_WAY = {
    False: ("flip_averaged", "mirrored too and averaged"),
    True: ("single", "one prediction, not averaged"),
}
"""Whether a protocol averages with the mirrored prediction -> key and name of the scores the other way."""


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    kind: str
    """`model`, `variant` (the same weights used in another way), `baseline` or `published`"""
    model: str
    protocol: str | None
    averaged: str | None
    parameters: str | None
    pretrained: str | None
    trained_on: str | None
    rmse: float | None
    abs_rel: float | None
    delta1: float | None
    intervals: Mapping[str, str]
    """95 % interval by metric, as text"""
    data: str | None = None
    """of a published row: the frames that were scored"""
    flips: str = ""
    """of a published row: whether the prediction was averaged with the mirrored one, where that is known"""
    note: str | None = None


@dataclass(frozen=True)
class ResultGroup:
    """Rows that may be compared with each other."""

    name: str
    meaning: str
    rows: Sequence[ResultRow]


def result_groups(metrics: Mapping[str, Any], model: str = "This model") -> Iterator[ResultGroup]:
    """This model, the baselines and what was published, by protocol and averaging; odd ones out last."""
    for protocol, averaged in TABLE_GROUPS:
        rows = [measured_row("model", model, metrics, metrics[protocol], protocol, averaged)]
        key, how = OTHER_WAY[PROTOCOLS[protocol].flip_averaging]
        if scores := metrics.get(key, {}).get(protocol):
            rows.append(measured_row("variant", f"{model}, {how}", metrics, scores, protocol, averaged))
        rows += [
            measured_row("baseline", name, metrics, scores, protocol, averaged)
            for key, name in BASELINES
            if (scores := metrics.get(key, {}).get(protocol))
        ]
        published = [row for row in PUBLISHED if (row.protocol, row.averaged) == (protocol, averaged)]
        rows += [_published_row(row) for row in sorted(published, key=lambda row: row.rmse)]
        yield ResultGroup(f"{protocol}, {averaged}", protocol_meaning(protocol), rows)
    others = [row for row in PUBLISHED if (row.protocol, row.averaged) not in TABLE_GROUPS]
    yield ResultGroup(
        "Other protocols",
        "these rows compare with nothing above, nor with each other",
        [_published_row(row) for row in sorted(others, key=lambda row: row.rmse)],
    )


def short_groups(metrics: Mapping[str, Any]) -> list[ResultGroup]:
    """For the first screen: of each protocol as published this model, its baselines and other people's networks.

    Baselines stand under the headline protocol alone: they change little with the crop.
    """
    wanted = [f"{protocol}, {averaged}" for protocol, averaged in SHORT_GROUPS]
    shown = []
    for group in result_groups(metrics):
        if group.name not in wanted:
            continue
        headline = group.name == wanted[0]
        rows = [
            row
            for row in group.rows
            if row.kind == "model"
            or (row.kind == "baseline" and headline)
            or (row.kind == "published" and row.parameters != "0")
        ]
        model = rows[0].rmse
        others = [row for row in rows if row.kind == "published"]
        if not headline:
            # One network under each other protocol: the one whose RMSE is nearest to this model's.
            own = float(model) if model is not None and is_number(model) else math.inf
            others = sorted(others, key=lambda row: abs((row.rmse or 0.0) - own))[:1]
        shown.append(
            ResultGroup(group.name, group.meaning, [row for row in rows if row.kind != "published"] + others)
        )
    return shown


def protocol_meaning(name: str) -> str:
    """Which pixels a protocol scores, and whether it averages the prediction with its mirror image."""
    protocol = PROTOCOLS[name]
    (top, bottom), (left, right) = protocol.rows, protocol.columns
    whole = (top, bottom, left, right) == (0, 480, 0, 640)
    crop = "whole frame" if whole else f"rows {top} to {bottom}, columns {left} to {right}"
    flip = ", averaged with the mirrored prediction" if protocol.flip_averaging else ""
    return f"{protocol.depth} depth, {crop}{flip}"


def measured_row(
    kind: str,
    model: str,
    metrics: Mapping[str, Any],
    scores: Mapping[str, Any],
    protocol: str,
    averaged: str,
) -> ResultRow:
    suffix = "_pooled" if averaged == "pooled" else ""
    bounds = metrics.get("intervals", {}).get(protocol, {}) if kind == "model" else {}
    return ResultRow(
        kind=kind,
        model=model,
        protocol=protocol,
        averaged=averaged,
        parameters="0" if kind == "baseline" else count(metrics["parameters"]),
        pretrained=None if kind == "baseline" else "no",
        trained_on=metrics["trained_on"],
        rmse=scores.get(f"rmse{suffix}"),
        abs_rel=scores.get(f"abs_rel{suffix}"),
        delta1=scores.get(f"delta1{suffix}"),
        intervals={name: interval(bounds.get(f"{name}{suffix}")) for name in ("rmse", "abs_rel", "delta1")},
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
        intervals={},
        data=row.data,
        flips={True: "flips averaged", False: "no flips", None: ""}[row.flips_averaged],
        note=row.note,
    )


def footnotes(groups: Sequence[ResultGroup]) -> list[str]:
    """The notes of the rows, in their order; a row's marker is its place among them, from 1."""
    return list(dict.fromkeys(row.note for group in groups for row in group.rows if row.note))


@dataclass(frozen=True)
class ShapeRow:
    """How much of the error is the scale of the whole depth map, and how much its shape."""

    protocol: str
    rmse: float | None
    aligned_rmse: float | None
    delta1: float | None
    aligned_delta1: float | None
    ratio: float | None
    ratio_spread: float | None


def shape_rows(metrics: Mapping[str, Any]) -> list[ShapeRow]:
    """By protocol, per image; none where no aligned scores were computed."""
    return [
        ShapeRow(
            name,
            metrics[name].get("rmse"),
            aligned.get("rmse"),
            metrics[name].get("delta1"),
            aligned.get("delta1"),
            aligned.get("median_ratio"),
            aligned.get("median_ratio_spread"),
        )
        for name, aligned in (metrics.get("aligned") or {}).items()
        if name in metrics
    ]


@dataclass(frozen=True)
class RegionCell:
    value: float | None
    strength: int
    """0 for the lowest to 100 for the highest of the grid"""


def region_cells(region: Mapping[str, Any] | None, metric: str = "rmse") -> list[list[RegionCell]]:
    """The grid over the image, row by row; empty if there is none."""
    if not region:
        return []
    known = [value for row in region[metric] for value in row if is_number(value)]
    if not known:
        return []
    low, span = min(known), (max(known) - min(known)) or 1.0
    return [
        [RegionCell(value, round(100 * (value - low) / span) if is_number(value) else 0) for value in row]
        for row in region[metric]
    ]
