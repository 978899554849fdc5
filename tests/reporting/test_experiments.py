"""The report's run beside others of the store: who is compared, along which parameter, and what is shown of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.reporting import experiments, html, search_figures
from pipeline.reporting.inputs import Experiments
from pipeline.tracking.compare import finished_rows
from pipeline.tracking.opening import Opening, open_run
from pipeline.tracking.store import open_store
from pipeline.tracking.table import table_of
from tests.reporting.toy import INPUTS, Page, only_own_scripts

DEFAULTS = {"seed": "0", "loss.ssim_weight": "0.5", "train.learning_rate": "0.0001", "augment.at": "shards"}
SCORES = ("val/rmse", "test/full/rmse", "test/full/delta1")


def run(name: str, scores: tuple[float, ...] = (0.5, 0.6, 0.7), group: str | None = None, **params: Any) -> dict:
    """A row as `finished_rows` gives it; params with __ for the dot."""
    given = DEFAULTS | {key.replace("__", "."): str(value) for key, value in params.items()}
    return {
        "run_id": name,
        "name": name,
        "group": group,
        "training": name,
        **{f"params.{key}": value for key, value in given.items()},
        **dict(zip(SCORES, scores, strict=True)),
    }


def compared(*others: dict, group: str | None = None, **params: Any) -> Experiments | None:
    this = pd.Series(run("this", (0.41, 0.51, 0.81), group, **params)).rename(experiments.SCORES)
    return experiments.gather(this.to_dict(), finished(*others), group, "2026-11-22")


def finished(*rows: dict) -> pd.DataFrame:
    return pd.DataFrame(
        list(rows) or None, columns=None if rows else ["run_id", "name", "group", "training", *SCORES]
    )


def weights_by_seeds() -> list[dict]:
    """RMSE (w - 0.5)² + 0.01·seed above 0.6, four weights of two seeds."""
    return [
        run(f"w{w}s{s}", (0.5, 0.6 + (w - 0.5) ** 2 + 0.01 * s, 0.7), loss__ssim_weight=w, seed=s)
        for w in (0.1, 0.3, 0.7, 0.9)
        for s in (1, 2)
    ]


def search(count: int) -> list[dict]:
    random = np.random.default_rng(0)
    rows = []
    for number in range(count):
        weight, rate = random.uniform(0.1, 0.9), 10 ** random.uniform(-5, -2)
        error = (weight - 0.5) ** 2
        scores = (0.5 + error, 0.6 + error, 0.7 - error)
        rows.append(run(f"t{number}", scores, loss__ssim_weight=weight, train__learning_rate=rate))
    return rows


def test_alone_in_the_store_a_run_is_compared_with_nothing() -> None:
    assert compared() is None


def test_a_run_that_only_reports_again_is_the_same_run() -> None:
    again = run("again", (0.41, 0.51, 0.81)) | {"training": "this"}
    assert compared(again) is None
    scored_anew = again | {"test/full/rmse": 0.55, "params.evaluate.checkpoint": "last"}
    found = compared(scored_anew)
    assert found is not None
    assert list(found.runs["name"]) == ["this", "again"]


def test_what_changes_no_score_makes_no_difference() -> None:
    assert compared(run("titled", report__title="Mine", tracking__group="x", evaluate__examples=9)) is None
    hardware = {"train__device": "cpu", "train__devices": 2, "train__resident": "never", "evaluate__device": "cpu"}
    assert compared(run("elsewhere", **hardware)) is None


def test_a_group_stands_alone_once_it_has_two_other_runs() -> None:
    stranger = run("stranger", augment__at="step")
    one = run("one", group="sweep", loss__ssim_weight=0.1)
    two = run("two", group="sweep", loss__ssim_weight=0.9)
    few, enough = compared(stranger, one, group="sweep"), compared(stranger, one, two, group="sweep")
    assert few is not None and enough is not None
    assert (few.group, list(few.runs["name"])) == (None, ["this", "stranger", "one"])
    assert (enough.group, list(enough.runs["name"])) == ("sweep", ["this", "one", "two"])
    assert enough.in_store == 3


def test_a_parameter_that_a_run_of_older_code_did_not_have_counts_as_a_difference() -> None:
    older = run("older")
    del older["params.augment.at"]
    found = compared(older)
    assert found is not None
    assert experiments.differing(found.runs) == ["params.augment.at"]
    assert html.comparison(found).runs[1].params == ["–"]


def test_the_line_runs_through_this_run_and_its_points_are_means_over_seeds() -> None:
    off_the_line = run("off", (0.1, 0.1, 0.1), loss__ssim_weight=0.3, augment__at="step")
    found = compared(*weights_by_seeds(), off_the_line)
    assert found is not None
    name, members = experiments.line_through_this(found.runs) or ("", pd.DataFrame())
    assert name == "params.loss.ssim_weight"
    assert "off" not in set(members["name"])
    points = experiments.by_value(members, "test_rmse")
    np.testing.assert_allclose(points["value"], [0.1, 0.3, 0.5, 0.7, 0.9])
    np.testing.assert_allclose(points["mean"], [0.775, 0.655, 0.51, 0.655, 0.775])
    # Standard deviation of two values that are 0.01 apart: 0.01 / √2.
    np.testing.assert_allclose(points["spread"], [0.01 / 2**0.5] * 2 + [np.nan] + [0.01 / 2**0.5] * 2)
    rmse, delta = search_figures.parameter_line_figure(found.runs).axes  # type: ignore[union-attr]
    assert (rmse.get_ylabel(), delta.get_xlabel()) == ("RMSE (m)", "loss.ssim_weight")


def test_few_values_of_the_line_are_written_out_and_the_best_score_is_bold() -> None:
    scored = ((0.1, 0.60, 0.70), (0.3, 0.55, 0.79), (0.9, 0.58, 0.75))
    found = compared(*(run(f"w{w}", (0.5, rmse, delta), loss__ssim_weight=w) for w, rmse, delta in scored))
    assert found is not None
    rmse, delta = search_figures.parameter_line_figure(found.runs).axes  # type: ignore[union-attr]
    written = [[(text.get_text(), text.get_weight()) for text in axes.texts] for axes in (rmse, delta)]
    assert written == [
        [("0.600", "normal"), ("0.550", "normal"), ("0.510", "bold"), ("0.580", "normal")],
        [("70.0", "normal"), ("79.0", "normal"), ("81.0", "bold"), ("75.0", "normal")],
    ]
    many = compared(*(run(f"w{w}", loss__ssim_weight=w / 20) for w in range(9)))
    assert many is not None
    assert not search_figures.parameter_line_figure(many.runs).axes[0].texts  # type: ignore[union-attr]


def test_where_no_number_varies_there_is_no_chart_but_a_table() -> None:
    found = compared(run("other", augment__at="step"), run("seeded", seed=4))
    assert found is not None
    assert search_figures.parameter_line_figure(found.runs) is None
    assert search_figures.parallel_coordinates_figure(found.runs) is None
    assert search_figures.parameter_map_figure(found.runs, "test_rmse") is None
    assert html.comparison(found).params == ["augment.at", "seed"]


def test_one_parameter_is_enough_for_parallel_coordinates_with_both_scores() -> None:
    scored = ((0.1, 0.60, 0.70), (0.3, 0.55, 0.75), (0.9, 0.53, 0.79))
    found = compared(*(run(f"w{w}", (0.5, rmse, delta), loss__ssim_weight=w) for w, rmse, delta in scored))
    assert found is not None
    (axes,) = search_figures.parallel_coordinates_figure(found.runs).axes  # type: ignore[union-attr]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["loss\nssim weight", "Test\nRMSE (m)", "Test\nδ < 1.25 (%)"]
    # This run is the best of both scores, which is the upper end of their axes.
    *_, this = [line for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(this.get_ydata(), [0.5, 1.0, 1.0])
    assert [text.get_text() for text in axes.texts] == [
        "0.1",
        "0.9",
        "0.3",
        "0.5",
        "0.600",
        "0.510",
        "70.0",
        "81.0",
    ]


def test_the_page_of_the_sweep_over_the_weight_has_its_line_and_its_parallel_coordinates() -> None:
    weights = [run(f"w{w}", (0.5, 0.5 + w, 0.7 - w / 5), "ssim", loss__ssim_weight=w) for w in (0.1, 0.3, 0.7, 0.9)]
    found = compared(*weights, group="ssim")
    page = Page(html.render_report(replace(INPUTS, experiments=found)))
    drawn = [image["alt"] for image in page.images if "parameter" in image["alt"]]
    assert [alt.partition(" of ")[0] for alt in drawn] == ["RMSE and share", "Parallel coordinates"]


def test_two_parameters_give_parallel_coordinates_and_with_four_runs_a_map_of_each_score() -> None:
    few, many = compared(*search(2)), compared(*search(8))
    assert few is not None and many is not None
    assert search_figures.parallel_coordinates_figure(few.runs) is not None
    assert search_figures.parameter_map_figure(few.runs, "test_rmse") is None
    parallel = search_figures.parallel_coordinates_figure(many.runs)
    assert parallel is not None
    labels = [label.get_text() for label in parallel.axes[0].get_xticklabels()]
    assert labels == ["loss\nssim weight", "train\nlearning rate", "Test\nRMSE (m)", "Test\nδ < 1.25 (%)"]
    for score, unit, name in (("test_rmse", 1, "Test RMSE (m)"), ("test_delta1", 100, "Test δ < 1.25 (%)")):
        plan = search_figures.parameter_map_figure(many.runs, score)
        assert plan is not None
        axes, bar = plan.axes
        assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("loss.ssim_weight", "train.learning_rate")
        np.testing.assert_allclose(axes.collections[-1].get_array(), unit * many.runs[score])
        assert [text.get_text() for text in bar.texts] == [name]


@pytest.mark.parametrize(
    ("values", "wide"),
    [
        ([0.0001, 0.001, 0.01], True),
        ([0.0003, 0.0004, 0.0007, 0.002, 0.005], True),
        ([0.007, 0.2, 0.4, 0.6, 0.9], False),  # a weight drawn evenly from 0 to 1
        ([0.1, 0.3, 0.5, 0.7, 0.9], False),
        ([0.0, 0.001, 0.1], False),
    ],
)
def test_an_axis_is_logarithmic_where_values_were_tried_over_powers_of_ten(values: list[float], wide: bool) -> None:
    assert experiments.is_wide(pd.Series(values)) is wide


def test_runs_on_one_straight_line_give_a_map_without_a_surface() -> None:
    values = np.linspace(0.1, 0.9, 7)
    rows = [run(f"r{w}", (0.4, 0.6 + w, 0.7), loss__ssim_weight=w, train__learning_rate=2 * w) for w in values]
    runs = compared(*rows, loss__ssim_weight=0.2, train__learning_rate=0.4)
    assert runs is not None
    plan = search_figures.parameter_map_figure(runs.runs, "test_rmse")
    assert plan is not None
    assert len(plan.axes[0].collections) == 1  # the dots


def test_without_validation_frames_runs_are_ranked_by_the_test_and_the_page_says_so() -> None:
    found = compared(run("a", (np.nan, 0.4, 0.8), loss__ssim_weight=0.2), run("b", (np.nan, 0.6, 0.7), seed=1))
    assert found is not None
    shown = html.comparison(found)
    assert shown.ranked_by == "test RMSE"
    assert [row.name for row in shown.runs] == ["a", "this", "b"]


def test_the_page_has_the_runs_best_first_with_this_one_marked_and_the_day_of_the_store() -> None:
    found = compared(*weights_by_seeds())
    page = Page(html.render_report(replace(INPUTS, experiments=found)))
    assert page.open_tags == []
    rows = [row for row in page.cells() if len(row) == 6 and row[0] != "per image"]
    assert rows[0] == ["Run", "Val RMSE (m)", "Test RMSE (m)", "δ1", "loss.ssim_weight", "seed"]
    assert rows[1] == ["this (this run)", "0.410", "0.510", "0.810", "0.5", "0"]
    assert len(rows) == 10
    text = " ".join(page.text.split())
    assert "As of 2026-11-22, with 8 other finished runs in the MLflow store, which DVC does not track" in text
    assert 'href="#experiments"' in page.text
    assert sum("parameter that varies" in image["alt"] for image in page.images) == 1


def test_seeds_of_these_settings_are_told_with_their_spread() -> None:
    found = compared(run("s1", (0.5, 0.53, 0.79), seed=1), run("s2", (0.5, 0.55, 0.80), seed=2))
    assert found is not None
    summary = html.comparison(found).seeds
    assert summary is not None
    assert (summary.runs, summary.rmse, summary.rmse_spread) == (3, pytest.approx(0.53), pytest.approx(0.02))


def test_a_long_list_is_cut_but_for_this_run() -> None:
    others = [run(f"r{n}", (0.1 + n / 1000, 0.6, 0.7), loss__ssim_weight=n / 100) for n in range(60)]
    found = compared(*others)
    assert found is not None
    shown = html.comparison(found)
    assert (len(shown.runs), shown.count, shown.runs[-1].is_this) == (html.MOST_COMPARED + 1, 61, True)


def test_names_and_values_from_the_store_cannot_become_markup() -> None:
    found = compared(run("<script>alert(1)</script>", augment__at="<b>bold"))
    text = html.render_report(replace(INPUTS, experiments=found))
    assert only_own_scripts(text)
    assert "<b>bold" not in text


def test_finished_runs_are_read_from_the_store_with_their_best_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_BASELINE_REV", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("seed: 0\n", encoding="utf-8")

    def log(name: str, weight: float, group: str, fails: bool = False) -> None:
        monkeypatch.setenv("DVC_EXP_NAME", name)
        with open_run(Opening("train", "depth", {"loss": {"ssim_weight": weight}}, group)) as opened:
            for step, rmse in ((10, 0.9), (20, 0.4 + weight), (30, float("nan")), (40, 0.8 + weight)):
                opened.log_metrics({"val/rmse": rmse}, step)
            if fails:
                raise RuntimeError("no")
            opened.log_metrics({"test/full/rmse": 0.5 + weight, "test/full/delta1": 0.7})

    log("first", 0.25, "sweep")
    log("second", 0.125, "other")
    with pytest.raises(RuntimeError):
        log("third", 0.5, "sweep", fails=True)
    log("fourth", 0.0625, "sweep")
    client = open_store()
    number = client.get_experiment_by_name("depth").experiment_id
    (replaced,) = client.search_runs([number], "attributes.run_name = 'fourth'")
    tags = {key: replaced.data.tags[key] for key in ("repository", "dvc.experiment")}
    again = client.create_run(number, replaced.info.start_time + 1000, tags, run_name="again")
    client.log_metric(again.info.run_id, "test/full/rmse", 0.5625)
    client.set_terminated(again.info.run_id, "FINISHED")

    table = table_of(finished_rows("depth")).set_index("name")
    assert sorted(table.index) == ["again", "first", "second"]
    assert table.loc["first", "params.loss.ssim_weight"] == "0.25"
    assert table.loc["second", list(SCORES)].tolist() == [0.525, 0.625, 0.7]
    assert finished_rows("nothing of this name") == []
