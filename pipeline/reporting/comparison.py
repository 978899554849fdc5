"""The page of `depth compare`: experiments beside a reference, in the report's look."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.evaluation.bootstrap import LEVEL, RESAMPLES
from pipeline.reporting import compared, tables
from pipeline.reporting.compared import DELTA1, MEASURES, RMSE, Cell, Evaluated, ParamRow
from pipeline.reporting.comparison_figures import draw_comparison, swatches
from pipeline.reporting.page import render_page
from pipeline.reporting.side_by_side import side_by_side
from pipeline.reporting.text import count, number
from pipeline.reporting.training_figures import best_epoch
from pipeline.reporting.verdict import HEADLINE_PROTOCOL, trained_on_test


@dataclass(frozen=True)
class Summary:
    """An experiment on the first screen."""

    name: str
    origin: str
    is_reference: bool
    is_best: bool
    """the lowest RMSE of all, and clearly below the reference's if it is another"""
    changed: Sequence[tuple[str, str]]
    """parameter and value where it is another than the reference's"""
    rmse: Cell
    delta1: Cell


@dataclass(frozen=True)
class MetricRow:
    name: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class MetricGroup:
    name: str
    meaning: str
    rows: Sequence[MetricRow]


def render_comparison(runs: Sequence[Evaluated]) -> str:
    """The experiments as one HTML document that loads nothing from anywhere. The first is the reference."""
    reference = runs[0]
    params = compared.differing_params(runs)
    plots = draw_comparison(runs)
    shown = side_by_side(runs)
    return render_page(
        "compare.html.jinja",
        names=[run.name for run in runs],
        verdict=compared.verdict(runs),
        certainty=compared.certainty(runs),
        warnings=[reason for run in runs[1:] if (reason := compared.incomparable(reference, run))],
        remembered=trained_on_test(reference.metrics),
        summaries=[_summary(runs, place, params) for place in range(len(runs))],
        keys=swatches(runs),
        params=params,
        groups=metric_groups(runs),
        others=other_rows(runs),
        plots=plots,
        shown=shown,
        contents=list(_contents(bool(params), bool(plots), shown is not None)),
        headline_protocol=HEADLINE_PROTOCOL,
        level=LEVEL,
        resamples=RESAMPLES,
        frames=reference.metrics.get("frames"),
        source=reference.metrics.get("source", ""),
        commands=list(_commands(runs)),
    )


def _commands(runs: Sequence[Evaluated]) -> Iterator[str]:
    asked = [run.asked for run in runs]
    yield f"depth compare {shlex.join(asked)}"
    if all(run.in_dvc for run in runs):
        yield f"dvc metrics diff {shlex.join(asked[:2])}"
        yield f"dvc plots diff {shlex.join(asked)}"


def _contents(has_params: bool, has_plots: bool, has_frames: bool) -> list[tuple[str, str]]:
    named = [
        (has_params, "parameters", "Parameters"),
        (True, "metrics", "Metrics"),
        (has_plots, "curves", "Curves"),
        (has_frames, "frames", "Side by side"),
        (True, "repeat", "Repeat it"),
    ]
    return [(identifier, name) for there, identifier, name in named if there]


def _summary(runs: Sequence[Evaluated], place: int, params: Sequence[ParamRow]) -> Summary:
    reference, run = runs[0], runs[place]
    comparable = [one for one in runs if not compared.incomparable(reference, one)]
    rmse = compared.cell(RMSE, reference, run)
    is_lowest = len(comparable) > 1 and run is next(iter(compared.ordered_by_rmse(comparable)), None)
    return Summary(
        run.name,
        run.origin,
        place == 0,
        is_lowest and (run is reference or rmse.is_clear is True),
        [(row.name, row.values[place]) for row in params if row.differs[place]],
        rmse,
        compared.cell(DELTA1, reference, run),
    )


def metric_groups(runs: Sequence[Evaluated]) -> list[MetricGroup]:
    """By protocol and averaging, as published; measures that no experiment has are left out."""
    groups = []
    for name, measures in MEASURES:
        rows = [
            MetricRow(measure.name, [compared.cell(measure, runs[0], run) for run in runs])
            for measure in measures
            if any(measure.of(run.metrics) is not None for run in runs)
        ]
        if rows:
            groups.append(MetricGroup(name, tables.protocol_meaning(measures[0].protocol), rows))
    return groups


def other_rows(runs: Sequence[Evaluated]) -> list[tuple[str, list[str]]]:
    """What each costs and how it was trained: name and one text an experiment."""

    def epochs(run: Evaluated) -> str:
        if run.history is None or run.history.empty:
            return number(None)
        best = best_epoch(run.history)
        return f"{len(run.history)}{f' (best: {best})' if best is not None else ''}"

    def seconds(run: Evaluated) -> str:
        return number(
            run.history["seconds"].sum() if run.history is not None and "seconds" in run.history else None, 0
        )

    rows = [
        ("Parameters", [count(run.metrics.get("parameters")) for run in runs]),
        ("Multiply-adds a frame", [count(run.metrics.get("multiply_adds")) for run in runs]),
        ("Latency (ms)", [number(run.metrics.get("latency_ms"), 1) for run in runs]),
        ("Throughput (frames/s)", [number(run.metrics.get("throughput_frames_per_s"), 0) for run in runs]),
        ("Measured on", [str(run.metrics.get("device") or number(None)) for run in runs]),
        ("Trained on", [str(run.metrics.get("trained_on", number(None))) for run in runs]),
        ("Epochs", [epochs(run) for run in runs]),
        ("Training (s)", [seconds(run) for run in runs]),
        ("Test frames", [str(run.metrics.get("frames", number(None))) for run in runs]),
    ]
    return [(name, values) for name, values in rows if set(values) != {number(None)}]
