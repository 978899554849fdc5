"""What a study came to: its variants with means and spreads over their seeds, and under which conditions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipeline.studies.declaration import FRAMES, PARAMETERS, Study, Variant
from pipeline.studies.record import Measured


@dataclass(frozen=True)
class Estimate:
    """Over seeds."""

    mean: float
    spread: float | None
    """standard deviation; None for one seed"""
    n: int


@dataclass(frozen=True)
class Difference:
    """Of two means."""

    mean: float
    error: float | None
    """standard error; None where one of the two has one seed"""


@dataclass(frozen=True)
class Row:
    variant: Variant
    is_reference: bool
    results: Sequence[Measured]
    """by seed; none: not run"""
    val_rmse: Estimate | None
    val_delta1: Estimate | None
    difference: Difference | None
    """of the validation RMSE to the reference's; None for the reference itself"""
    test_rmse: Estimate | None
    """this and the two below: protocol `full`, per image"""
    test_abs_rel: Estimate | None
    test_delta1: Estimate | None


@dataclass(frozen=True)
class Summary:
    study: Study
    rows: Sequence[Row]

    @property
    def results(self) -> list[Measured]:
        return [result for row in self.rows for result in row.results]


def summarize(study: Study, record: Sequence[Measured]) -> Summary:
    """record: of any studies. An entry of other overrides than are declared now tells nothing of the variant."""
    results = {variant.name: _of_variant(study, variant, record) for variant in study.variants}
    reference = _estimate(results[study.against], lambda result: result.val_rmse)
    return Summary(study, [_row(study, variant, results[variant.name], reference) for variant in study.variants])


def _of_variant(study: Study, variant: Variant, record: Sequence[Measured]) -> list[Measured]:
    found = [
        result
        for result in record
        if (result.study, result.variant) == (study.name, variant.name)
        and result.overrides == study.overrides_of(variant)
    ]
    return sorted(found, key=lambda result: result.seed)


def _row(study: Study, variant: Variant, results: Sequence[Measured], reference: Estimate | None) -> Row:
    val_rmse = _estimate(results, lambda result: result.val_rmse)
    is_reference = variant.name == study.against
    return Row(
        variant=variant,
        is_reference=is_reference,
        results=results,
        val_rmse=val_rmse,
        val_delta1=_estimate(results, lambda result: result.val_delta1),
        difference=None if is_reference else difference(val_rmse, reference),
        test_rmse=_estimate(results, lambda result: result.tested("rmse")),
        test_abs_rel=_estimate(results, lambda result: result.tested("abs_rel")),
        test_delta1=_estimate(results, lambda result: result.tested("delta1")),
    )


def _estimate(results: Sequence[Measured], value: Callable[[Measured], float | None]) -> Estimate | None:
    known = [found for found in map(value, results) if found is not None]
    if not known:
        return None
    return Estimate(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def difference(one: Estimate | None, other: Estimate | None) -> Difference | None:
    if one is None or other is None:
        return None
    error = None
    if one.spread is not None and other.spread is not None:
        error = math.sqrt(one.spread**2 / one.n + other.spread**2 / other.n)
    return Difference(one.mean - other.mean, error)


def place_on_axis(study: Study, row: Row, result: Measured) -> float | None:
    """Where the study's plot has this result; None where that was not measured."""
    assert study.plot is not None
    if study.plot.x == FRAMES:
        return result.train_frames
    if study.plot.x == PARAMETERS:
        return result.parameters
    return float(study.overrides_of(row.variant)[study.plot.x])  # type: ignore[arg-type]


def conditions(summary: Summary) -> str:
    """Epochs, seeds, frames and hardware of all its results, as one line; empty where there are none."""
    results = summary.results
    if not results:
        return ""
    where = sorted({_hardware(result) for result in results})
    parts = [
        f"{_span(result.epochs for result in results)} epochs",
        f"seeds {', '.join(map(str, sorted({result.seed for result in results})))}",
        f"{_span(result.train_frames for result in results)} training, "
        f"{_span(result.val_frames for result in results)} validation and "
        f"{_span(result.test_frames for result in results)} test frames",
        f"fetch.source={' and '.join(sorted({str(result.source) for result in results}))}",
        " and ".join(where),
        f"commit {', '.join(sorted({result.git_commit[:7] for result in results}))}"
        f"{' with changes' if any(result.git_dirty for result in results) else ''}",
    ]
    return "; ".join(parts)


def short_conditions(summary: Summary) -> str:
    """For a plot, which may be shown alone."""
    results = summary.results
    seeds = _span(len(row.results) for row in summary.rows if row.results)
    devices = {"GPU" if "gpu" in result.environment else "CPU" for result in results}
    return (
        f"{_span(result.epochs for result in results)} epochs, {seeds} {'seed' if seeds == '1' else 'seeds'}, "
        f"{' and '.join(sorted(devices))}; test: full, per image, no flip averaging"
    )


def _hardware(result: Measured) -> str:
    known = result.environment
    name = known.get("gpu") or known.get("processor") or known.get("device") or "an unknown device"
    return f"{name}, torch {known['torch']}" if "torch" in known else name


def _span(values: Iterable[int | None]) -> str:
    known = sorted({value for value in values if value is not None})
    if not known:
        return "?"
    return str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"
