"""The report: one HTML file with its pictures, style and script inside, drawn from numbers that stages wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from pipeline.data.kinds import kind_of
from pipeline.evaluation.protocols import PROTOCOLS
from pipeline.params import flatten
from pipeline.reporting import cards, experiments, figures, tables
from pipeline.reporting.benchmarks import tabulate
from pipeline.reporting.changes import changes
from pipeline.reporting.compared import Evaluated
from pipeline.reporting.gallery import gallery, page_scale
from pipeline.reporting.inputs import Experiments, ReportInputs
from pipeline.reporting.page import render_page
from pipeline.reporting.pictures import chart_of
from pipeline.reporting.point_cloud import point_clouds
from pipeline.reporting.studies import studied
from pipeline.reporting.style import DARK, LIGHT
from pipeline.reporting.text import short_value
from pipeline.reporting.training_figures import best_epoch
from pipeline.reporting.verdict import HEADLINE_PROTOCOL, certainty, hardest, trained_on_test, verdict

MOST_COMPARED = 30
"""Rows of the table of experiments."""


def render_report(inputs: ReportInputs) -> str:
    """The whole report as one HTML document that loads nothing from anywhere."""
    metrics, data = inputs.metrics, inputs.data
    plots = figures.draw_plots(inputs)
    light, dark = (
        figures.draw_search(inputs, theme) | figures.draw_studies(inputs, theme) for theme in (LIGHT, DARK)
    )
    shown = gallery(inputs.predictions)
    clouds = point_clouds(inputs.predictions)
    short_groups, groups = tables.short_groups(metrics), list(tables.result_groups(metrics))
    parts: dict[str, Any] = {
        "training": training_summary(inputs),
        "comparison": None if inputs.experiments is None else comparison(inputs.experiments),
        "studies": [studied(summary) for summary in inputs.studies],
        "benchmarks": tabulate(inputs.benchmarks) if inputs.benchmarks else None,
        "data": None
        if data is None
        else cards.data_card(data, inputs.params.get("augment", {}), page_scale(inputs.predictions)),
        "regions": tables.region_cells(metrics.get("by_region")),
        "shapes": tables.shape_rows(metrics),
        "boundaries": metrics.get("boundaries"),
    }
    parts["has_errors"] = bool(
        parts["regions"] or parts["shapes"] or parts["boundaries"] or any("error" in name for name in plots)
    )
    return render_page(
        "report.html.jinja",
        title=inputs.title,
        run_name=None if inputs.this_run is None else inputs.this_run["name"],
        verdict=verdict(metrics),
        certainty=certainty(metrics),
        hardest=hardest(metrics),
        trained_on_test=trained_on_test(metrics),
        contents=list(_contents(parts, bool(shown.groups))),
        metrics=metrics,
        headline_protocol=HEADLINE_PROTOCOL,
        is_nyu=kind_of(metrics["source"]).is_nyu,
        bootstrap=metrics.get("bootstrap"),
        short_groups=short_groups,
        short_notes=tables.footnotes(short_groups),
        groups=groups,
        notes=tables.footnotes(groups),
        changes=None
        if inputs.this_run is None or inputs.previous_run is None
        else changes(inputs.previous_run, inputs.this_run, _both_evaluated(inputs)),
        gallery=shown,
        clouds=clouds,
        clouds_json=[asdict(cloud) for cloud in clouds],
        plots=plots,
        charts={name: chart_of(png, dark[name]) for name, png in light.items()},
        measures=tables.MEASURES,
        protocols=list(PROTOCOLS),
        model=cards.model_card(metrics, inputs.params, data),
        commands=cards.commands(inputs.environment, inputs.params, inputs.committed_params),
        is_dirty=str(inputs.environment.get("git_dirty")).lower() == "true",
        params=[(section, flatten(content).items()) for section, content in _sections(inputs.params)],
        environment=flatten(inputs.environment).items(),
        outputs=[(f"{output.stage}: {output.path}", output.md5) for output in inputs.outputs],
        data_fingerprint=inputs.data_fingerprint,
        run_id=inputs.run_id,
        **parts,
    )


def _both_evaluated(inputs: ReportInputs) -> tuple[Evaluated, Evaluated] | None:
    """The run before and this one; None where the store did not give the files of the one before."""
    if inputs.previous_run is None or inputs.previous_metrics is None or inputs.previous_per_image is None:
        return None
    return (
        _evaluated(str(inputs.previous_run["name"]), inputs.previous_metrics, inputs.previous_per_image),
        _evaluated("this run", inputs.metrics, inputs.per_image),
    )


def _evaluated(name: str, metrics: Mapping[str, Any], per_image: pd.DataFrame) -> Evaluated:
    return Evaluated(name, "", name, False, metrics, {}, per_image)


def _contents(parts: Mapping[str, Any], has_predictions: bool) -> Iterator[tuple[str, str]]:
    """Sections that the page has: (identifier, name)."""
    yield "results", "Results"
    if has_predictions:
        yield "predictions", "Predictions"
        yield "space", "In space"
    for key, identifier, name in (
        ("training", "training", "Training"),
        ("has_errors", "errors", "Where it errs"),
        ("comparison", "experiments", "Experiments"),
        ("studies", "studies", "Studies"),
    ):
        if parts[key]:
            yield identifier, name
    yield "measures", "All measures"
    for key, name in (("benchmarks", "Benchmarks"), ("data", "Data")):
        if parts[key]:
            yield key, name
    yield "model", "Model"
    yield "repeat", "Repeat it"


# The course of training


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
    best = best_epoch(history)
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
class SeedSummary:
    """Mean and standard deviation over the runs that differ from this one in the seed alone."""

    runs: int
    rmse: float
    rmse_spread: float
    delta1: float
    delta1_spread: float


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


def comparison(given: Experiments) -> Comparison:
    names = experiments.differing(given.runs)
    score = experiments.score_of_search(given.runs)
    ordered = given.runs.sort_values(score, kind="stable", na_position="last").reset_index(drop=True)
    shown = ordered[(ordered.index < MOST_COMPARED) | ordered["is_this"]]
    rows = [
        ComparedRun(
            row["name"],
            bool(row["is_this"]),
            [short_value(row[name]) for name in names],
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


def _sections(params: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The sections of the parameters; single values such as `seed` come first, together."""
    single = {key: content for key, content in params.items() if not isinstance(content, Mapping)}
    if single:
        yield "general", single
    yield from ((key, content) for key, content in params.items() if isinstance(content, Mapping))
