"""What differs between two experiments: the parameters, and the scores with the certainty of the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.reporting.experiments import UNCOMPARED, short
from pipeline.reporting.text import is_number, short_value

LEVEL_SHARE = 0.0005
"""A difference that three decimals do not show is none."""


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
    word: str
    """`better`, `worse`, `level`, or empty where one is missing"""
    beyond: bool | None
    """whether `before` lies outside of the confidence interval of `after`; None where there is no interval"""


@dataclass(frozen=True)
class Changes:
    """From an experiment before to this one."""

    since: str
    """name of the one before"""
    params: Sequence[ParamChange]
    scores: Sequence[ScoreChange]


COMPARED = (
    ("test_rmse", "Test RMSE", "m", True, "rmse"),
    ("test_delta1", "Test δ1", "", False, "delta1"),
    ("val_rmse", "Validation RMSE", "m", True, None),
)
"""Column of the table of runs, its name, its unit, whether less is better, and the metric of its interval."""


def changes(
    before: Mapping[str, Any], after: Mapping[str, Any], intervals: Mapping[str, Sequence[float]]
) -> Changes:
    """From one row of the table of runs to another. intervals: of the scores of `after`, by metric."""
    return Changes(
        since=str(before["name"]),
        params=param_changes(before, after),
        scores=[
            score_change(
                name,
                unit,
                before.get(column),
                after.get(column),
                less_is_better=less,
                interval=intervals.get(metric) if metric else None,
            )
            for column, name, unit, less, metric in COMPARED
            if is_number(before.get(column)) or is_number(after.get(column))
        ],
    )


def param_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[ParamChange]:
    """The parameters (`params.…`, as text) in which two runs differ and that can change a score, the seed last."""
    names = [
        name
        for name in dict.fromkeys([*after, *before])
        if name.startswith("params.")
        and not name.startswith(UNCOMPARED)
        and _text(before.get(name)) != _text(after.get(name))
    ]
    return [
        ParamChange(short(name), short_value(before.get(name)), short_value(after.get(name)))
        for name in sorted(names, key=lambda name: name == "params.seed")
    ]


def score_change(
    name: str,
    unit: str,
    before: float | None,
    after: float | None,
    *,
    less_is_better: bool,
    interval: Sequence[float] | None = None,
) -> ScoreChange:
    """A score of two experiments. interval: of `after`, whose ends `before` is held against."""
    if not (is_number(before) and is_number(after)):
        return ScoreChange(name, unit, before, after, None, "", None)
    assert before is not None and after is not None
    difference = after - before
    word = "level" if abs(difference) < LEVEL_SHARE else "better" if (difference < 0) == less_is_better else "worse"
    known = interval is not None and all(is_number(bound) for bound in interval)
    beyond = not interval[0] <= before <= interval[1] if known and interval is not None else None
    return ScoreChange(name, unit, before, after, difference, word, beyond)


def _text(value: Any) -> str:
    """MLflow keeps parameters as text; a run of older code lacks some."""
    return "" if value is None or value != value else str(value)
