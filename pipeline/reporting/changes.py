"""What differs between two experiments: the parameters, and the scores with the certainty of the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.reporting.compared import DELTA1, RMSE, Evaluated, cell, incomparable
from pipeline.reporting.experiments import UNCOMPARED, same_data, short, text_of
from pipeline.reporting.text import is_number, short_value


@dataclass(frozen=True)
class ParamChange:
    name: str
    before: str
    after: str


@dataclass(frozen=True)
class ScoreChange:
    name: str
    unit: str
    before: float | None
    after: float | None
    difference: float | None
    """None where one is missing, or the two do not compare"""
    word: str
    """that of `compared.Cell`; empty where nothing is known of its certainty"""


@dataclass(frozen=True)
class Changes:
    """From an experiment before to this one."""

    since: str
    """name of the one before"""
    not_compared: str
    """why scores of the two say nothing of each other; empty if they do"""
    params: Sequence[ParamChange]
    scores: Sequence[ScoreChange]


COMPARED = (
    ("test_rmse", "Test RMSE", "m", RMSE),
    ("test_delta1", "Test δ1", "", DELTA1),
    ("val_rmse", "Validation RMSE", "m", None),
)
"""Column of the table of runs, its name, its unit, and the measure of which each test frame has a figure."""


def changes(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    evaluated: tuple[Evaluated, Evaluated] | None = None,
) -> Changes:
    """From one row of the table of runs to another. evaluated: the files of both, in the same order, if at hand."""
    reason = "" if same_data(before, after) else "other data, or another split of them"
    if not reason and evaluated is not None:
        reason = incomparable(*evaluated)
    scores = []
    for column, name, unit, measure in COMPARED:
        old, new = (float(row[column]) if is_number(row.get(column)) else None for row in (before, after))
        if old is None and new is None:
            continue
        word = cell(measure, *evaluated).word if measure and evaluated and not reason else ""
        difference = None if reason or old is None or new is None else new - old
        scores.append(ScoreChange(name, unit, old, new, difference, word))
    return Changes(str(before["name"]), reason, param_changes(before, after), scores)


def param_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[ParamChange]:
    """The parameters (`params.…`, as text) in which two runs differ and that can change a score, the seed last."""
    names = [
        name
        for name in dict.fromkeys([*after, *before])
        if name.startswith("params.")
        and not name.startswith(UNCOMPARED)
        and text_of(before.get(name)) != text_of(after.get(name))
    ]
    return [
        ParamChange(short(name), short_value(before.get(name)), short_value(after.get(name)))
        for name in sorted(names, key=lambda name: name == "params.seed")
    ]
