"""The studies in the report: what each came to, in small tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import paths
from pipeline.reporting.text import EN_DASH, number, signed
from pipeline.studies.declaration import read_studies
from pipeline.studies.record import read_record
from pipeline.studies.summary import Difference, Estimate, Row, Summary, conditions, summarize


@dataclass(frozen=True)
class Shown:
    """A mean or a difference as text."""

    value: str
    uncertainty: str
    """beginning with ±; empty where it is not known"""

    def __str__(self) -> str:
        return f"{self.value} {self.uncertainty}".rstrip()


@dataclass(frozen=True)
class StudyRow:
    variant: str
    idea: str
    is_reference: bool
    seeds: int
    """0: it was not run"""
    scores: Sequence[Shown]
    """validation RMSE, its difference to the reference's; test RMSE, AbsRel and δ1"""
    verdict: str


@dataclass(frozen=True)
class Studied:
    name: str
    title: str
    question: str
    verdict: str
    conditions: str
    rows: Sequence[StudyRow]
    has_verdicts: bool


def measured_studies(folder: Path = paths.STUDY_FILES, record: Path = paths.STUDIES) -> list[Summary]:
    """The studies of which anything was measured, as the page of experiments has them."""
    measured = read_record(record)
    summaries = [summarize(study, measured) for study in read_studies(folder)] if measured else []
    return [summary for summary in summaries if summary.results]


def studied(summary: Summary) -> Studied:
    study = summary.study
    return Studied(
        study.name,
        study.title,
        study.question,
        study.verdict,
        conditions(summary),
        [
            StudyRow(
                row.variant.name,
                row.variant.idea,
                row.is_reference,
                len(row.results),
                scores_of(row),
                row.variant.verdict,
            )
            for row in summary.rows
        ],
        any(row.variant.verdict for row in summary.rows),
    )


def scores_of(row: Row) -> list[Shown]:
    return [
        estimated(row.val_rmse),
        differing(row.difference),
        *map(estimated, (row.test_rmse, row.test_abs_rel, row.test_delta1)),
    ]


def estimated(estimate: Estimate | None) -> Shown:
    return Shown(EN_DASH, "") if estimate is None else Shown(number(estimate.mean), _after(estimate.spread))


def differing(difference: Difference | None) -> Shown:
    return Shown(EN_DASH, "") if difference is None else Shown(signed(difference.mean), _after(difference.error))


def _after(uncertainty: float | None) -> str:
    return "" if uncertainty is None else f"± {number(uncertainty)}"
