"""Evaluated experiments beside a reference: what each scores, by how much it differs, and how sure that is."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.bootstrap import LEVEL, Difference, paired_difference_of_tables
from pipeline.params import flatten
from pipeline.reporting.experiments import differing, short
from pipeline.reporting.inputs import Predictions
from pipeline.reporting.text import NBSP, is_number, number, short_value, shown_value, signed
from pipeline.reporting.verdict import HEADLINE_PROTOCOL, trained_on_test

MOST = 6
"""Experiments on a page: as many line styles are told apart."""


@dataclass(frozen=True, eq=False)  # tables have no equality of one answer
class Evaluated:
    """What the files of an evaluated experiment say; what it has not is None."""

    name: str
    origin: str
    """where its files come from, in words"""
    asked: str
    """what the command was given for it"""
    in_dvc: bool
    """whether DVC knows it by that"""
    metrics: Mapping[str, Any]
    """`metrics.json`"""
    params: Mapping[str, Any]
    """the nested content of params.yaml"""
    per_image: pd.DataFrame | None = None
    history: pd.DataFrame | None = None
    predictions: Predictions | None = None


@dataclass(frozen=True)
class Measure:
    """A row of the table of metrics."""

    protocol: str
    """key in metrics.json; empty: of the whole"""
    key: str
    name: str
    less_is_better: bool
    pooled: bool = False

    def of(self, metrics: Mapping[str, Any]) -> float | None:
        if self.key == "aligned_delta1":
            found = metrics.get("aligned", {}).get(self.protocol, {}).get("delta1")
        else:
            found = metrics.get(self.protocol, {}).get(self.key + "_pooled" * self.pooled)
        return float(found) if is_number(found) else None

    @property
    def column(self) -> str | None:
        """Of per_image.csv; a pooled figure has none."""
        return None if self.pooled else f"{self.protocol}_{self.key}"


def _measures(protocol: str, *, pooled: bool = False) -> list[Measure]:
    return [
        Measure(protocol, "rmse", "RMSE (m)", True, pooled),
        Measure(protocol, "abs_rel", "AbsRel", True, pooled),
        Measure(protocol, "delta1", "δ1", False, pooled),
    ]


MEASURES: tuple[tuple[str, list[Measure]], ...] = (
    (
        "full, per image",
        [*_measures("full"), Measure("full", "aligned_delta1", "δ1, medians aligned", False)],
    ),
    ("eigen, per image", _measures("eigen")),
    ("densedepth, pooled", _measures("densedepth", pooled=True)),
)
RMSE, _, DELTA1, _ = MEASURES[0][1]


@dataclass(frozen=True)
class Cell:
    """A figure of an experiment beside the reference's."""

    value: float | None
    difference: float | None = None
    """to the reference; None for itself, or where either has no figure"""
    low: float | None = None
    high: float | None = None
    """ends of the interval of the difference, paired over the frames; None where there is none"""
    is_clear: bool | None = None
    """whether the interval leaves out 0; None where there is none"""
    word: str = ""
    """`better` or `worse` where that is clear, `not clear`, `the same`; empty where there is no interval"""

    @property
    def interval(self) -> str:
        return "" if self.low is None else f"{signed(self.low)} to {signed(self.high)}"


def cell(measure: Measure, reference: Evaluated, other: Evaluated) -> Cell:
    """The figure of `other`, and how it differs from the reference's on the same frames."""
    value, before = measure.of(other.metrics), measure.of(reference.metrics)
    if other is reference or value is None or before is None:
        return Cell(value)
    difference = value - before
    if incomparable(reference, other):
        return Cell(value, difference)
    paired = paired_difference(measure.column, reference, other)
    if paired is None:
        return Cell(value, difference, word="" if difference else "the same")
    word = "better" if (difference < 0) == measure.less_is_better else "worse"
    if not paired.is_clear:
        word = "the same" if paired.low == paired.high == 0 else "not clear"
    return Cell(value, difference, paired.low, paired.high, paired.is_clear, word)


@functools.lru_cache(maxsize=256)  # verdict, first screen and table ask for the same; of 654 frames it takes 0.1 s
def paired_difference(column: str | None, reference: Evaluated, other: Evaluated) -> Difference | None:
    """Of a column of per_image.csv, over the frames that both scored; None where either has no such figures."""
    ours, theirs = other.per_image, reference.per_image
    if column is None or ours is None or theirs is None or column not in ours or column not in theirs:
        return None
    try:
        return paired_difference_of_tables(ours, theirs, column)
    except ValueError:  # no frame has a figure in both
        return None


def frames_better(reference: Evaluated, other: Evaluated) -> tuple[int, int] | None:
    """On how many frames `other` has the lower RMSE, and of how many."""
    if paired_difference(RMSE.column, reference, other) is None:
        return None
    assert other.per_image is not None and reference.per_image is not None
    ours, theirs = (table.set_index("frame")[RMSE.column] for table in (other.per_image, reference.per_image))
    differences = (ours - theirs.loc[ours.index]).dropna()
    return int((differences < 0).sum()), len(differences)


def incomparable(reference: Evaluated, other: Evaluated) -> str:
    """Why scores of the two say nothing of each other, as the end of a sentence; empty if they do."""
    ours, theirs = other.metrics, reference.metrics
    if trained_on_test(ours) != trained_on_test(theirs):
        one = other if trained_on_test(ours) else reference
        return f"{one.name} was also trained on the test frames"
    if ours.get("source") != theirs.get("source"):
        return f"{other.name} was scored on another data set"
    if any(ours.get(side) != theirs.get(side) for side in ("height", "width")):
        return f"{other.name} was scored on frames of another size"
    tables = [one.per_image for one in (other, reference)]
    if all(table is not None for table in tables):
        names = [frozenset(_names(table)) for table in tables]
        if names[0] != names[1]:
            common = len(names[0] & names[1])
            return (
                f"{other.name} was scored on other test frames "
                f"({len(names[0])} rather than {len(names[1])}, {common} in common)"
            )
    digests = [metrics.get("frames_sha256") for metrics in (ours, theirs)]
    changed = _other_content(other, reference) if None in digests else digests[0] != digests[1]
    return f"{other.name} was scored on test frames of the same names but other content" if changed else ""


def _names(table: pd.DataFrame | None) -> list[tuple[str, ...]]:
    assert table is not None
    columns = [name for name in ("frame", "scene") if name in table]
    return [tuple(row) for row in table[columns].astype(str).itertuples(index=False)]


def _other_content(other: Evaluated, reference: Evaluated) -> bool:
    """Whether frames that both keep differ: an evaluation of older code has no digest of all of them."""
    if other.predictions is None or reference.predictions is None:
        return False
    ours, theirs = places_of(other.predictions), places_of(reference.predictions)
    return any(
        not same_frame(other.predictions, ours[key], reference.predictions, theirs[key])
        for key in ours.keys() & theirs.keys()
    )


def places_of(predictions: Predictions) -> dict[tuple[str, str], int]:
    """Where each frame stands, by frame and scene."""
    return {(str(frame["frame"]), str(frame["scene"])): place for place, frame in enumerate(predictions.frames)}


def same_frame(one: Predictions, place: int, other: Predictions, other_place: int) -> bool:
    return np.array_equal(one.rgb_u8[place], other.rgb_u8[other_place]) and np.array_equal(
        one.depth_mm[place], other.depth_mm[other_place]
    )


def ordered_by_rmse(runs: Sequence[Evaluated]) -> list[Evaluated]:
    """Those that have one, the lowest first; of equals the reference."""
    scored = [run for run in runs if RMSE.of(run.metrics) is not None]
    return sorted(scored, key=lambda run: RMSE.of(run.metrics) or 0.0)


def verdict(runs: Sequence[Evaluated]) -> str:
    """Which is the best, by how much, and whether that is clear, in one sentence. The first is the reference."""
    reference = runs[0]
    comparable = ordered_by_rmse([run for run in runs if not incomparable(reference, run)])
    if reference not in comparable:
        return f"No verdict: {reference.name} has no RMSE under {HEADLINE_PROTOCOL}"
    if len(comparable) < 2:
        reasons = [reason for run in runs[1:] if (reason := incomparable(reference, run))]
        return f"No verdict: {'; '.join(reasons) or 'there is no second RMSE'}"
    best = comparable[0]
    other = best if best is not reference else comparable[1]
    rmse, before = RMSE.of(other.metrics), RMSE.of(reference.metrics)
    assert rmse is not None and before is not None
    found = cell(RMSE, reference, other)
    scores = f"RMSE {number(rmse)} and {number(before)}{NBSP}m"
    if rmse == before:
        return f"{other.name} and {reference.name} score the same: RMSE {number(rmse)}{NBSP}m"
    if found.is_clear is False:
        unsure = "a difference that other test frames might undo"
        return f"{other.name} and {reference.name} are not told apart: {scores}, {unsure}"
    gap = f"{number(abs(rmse - before))}{NBSP}m ({percent_of(abs(rmse - before), before)})"
    sure = {True: ", beyond the confidence interval", None: ", how surely is not known"}[found.is_clear]
    if best is reference:
        nearest = "" if len(comparable) == 2 else ", the next best,"
        return f"{reference.name} stays the best: {other.name}{nearest} has an RMSE {gap} higher{sure}"
    return f"{best.name} is better than {reference.name}: RMSE {number(rmse)}{NBSP}m, {gap} lower{sure}"


def percent_of(part: float, whole: float) -> str:
    share = 100 * part / whole if whole else 0.0
    return f"{share:.0f}{NBSP}%" if share >= 1 else f"{share:.1f}{NBSP}%"


def certainty(runs: Sequence[Evaluated]) -> str:
    """The interval behind the verdict, and the distance of the best from the next; empty where there is none."""
    reference = runs[0]
    comparable = ordered_by_rmse([run for run in runs if not incomparable(reference, run)])
    if reference not in comparable or len(comparable) < 2:
        return ""
    best, second = comparable[:2]
    other = best if best is not reference else second
    told = []
    if (found := cell(RMSE, reference, other)).interval:
        better = frames_better(reference, other)
        frames = f"; lower on {better[0]} of {better[1]} frames" if better else ""
        paired = paired_difference(RMSE.column, reference, other)
        drawn = ", whole scenes drawn" if paired is not None and paired.groups is not None else ""
        told.append(
            f"RMSE of {other.name} minus that of {reference.name}: {found.interval}{NBSP}m "
            f"({round(100 * LEVEL)}{NBSP}% confidence, paired over the test frames{drawn}{frames})"
        )
    if reference not in (best, second) and (found := cell(RMSE, second, best)).interval:
        word = "clear" if found.is_clear else found.word
        told.append(f"Minus that of {second.name}, the next best: {found.interval}{NBSP}m, {word}")
    return ". ".join(told)


# Parameters


@dataclass(frozen=True)
class ParamRow:
    name: str
    values: Sequence[str]
    """one an experiment, an en dash where it has none"""
    differs: Sequence[bool]
    """whether each is another than the reference's"""


def differing_params(runs: Sequence[Evaluated]) -> list[ParamRow]:
    """Parameters that can change a score and in which the experiments differ."""
    table = pd.DataFrame([{f"params.{name}": text for name, text in _as_text(run.params).items()} for run in runs])
    rows = []
    for name in differing(table):
        texts = ["" if value != value else str(value) for value in table[name]]
        rows.append(
            ParamRow(short(name), [short_value(text) for text in texts], [one != texts[0] for one in texts])
        )
    return rows


def _as_text(params: Mapping[str, Any]) -> dict[str, str]:
    return {name: _plain(value) for name, value in flatten(params).items()}


def _plain(value: Any) -> str:
    """Numbers as one text however they are written: 1e-3, which YAML 1.1 takes for text, and 0.001; 1 and 1.0."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            written = float(value)
        except ValueError:
            return str(value)
        return str(int(written)) if written.is_integer() else repr(written)
    return "none" if value is None else shown_value(value)
