"""What differs between two experiments, and whether that is more than chance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.reporting import experiments
from pipeline.reporting.changes import changes, param_changes
from pipeline.reporting.compared import Evaluated
from tests.reporting.toy import run_row
from tests.reporting.toy_compared import evaluated


def test_parameters_that_differ_are_told_with_both_values_the_seed_last() -> None:
    before = run_row("a", 0.5, seed=0, loss__ssim_weight=0.5)
    after = run_row("b", 0.5, seed=1, loss__ssim_weight=0.7, train__ema_decay=0.99)
    found = [(change.name, change.before, change.after) for change in param_changes(before, after)]
    assert found == [("loss.ssim_weight", "0.5", "0.7"), ("train.ema_decay", "–", "0.99"), ("seed", "0", "1")]


def test_what_changes_no_score_is_no_change() -> None:
    before = run_row("a", 0.5, report__title="A", train__device="cpu")
    assert param_changes(before, run_row("b", 0.5, report__title="B", train__device="cuda")) == []


RMSE = np.linspace(0.3, 0.8, 24)
NOISE = np.random.default_rng(0).standard_normal(24)


def both(difference: np.ndarray, **changed: Any) -> tuple[Evaluated, Evaluated]:
    return evaluated("a", RMSE), evaluated("b", RMSE + difference, **changed)


def words_of(*files: Evaluated, **params: Any) -> list[tuple[str, str]]:
    before, after = run_row("a", 0.6), run_row("b", 0.5, **params)
    found = changes(before, after, (files[0], files[1]) if files else None)
    return [(score.name, score.word) for score in found.scores]


def test_a_change_is_called_better_or_worse_only_where_the_paired_frames_show_it() -> None:
    """Every frame 0.02 m better, while the interval of one sample spans 0.12 m."""
    assert words_of(*both(-0.02 + 0.01 * NOISE))[:2] == [("Test RMSE", "better"), ("Test δ1", "better")]
    assert words_of(*both(0.02 + 0.01 * NOISE))[0] == ("Test RMSE", "worse")
    assert words_of(*both(0.2 * (NOISE - NOISE.mean()) - 0.02))[0] == ("Test RMSE", "not clear")
    assert words_of(*both(-0.02 + 0.01 * NOISE))[2] == ("Validation RMSE", "")


def test_without_the_figures_of_each_frame_nothing_is_said_of_certainty() -> None:
    found = changes(run_row("a", 0.6), run_row("b", 0.5))
    assert [score.word for score in found.scores] == ["", "", ""]
    assert found.scores[0].difference == pytest.approx(-0.1)
    assert (found.since, found.not_compared) == ("a", "")


@pytest.mark.parametrize(
    "params", [{"fetch__source": "nyu_v2"}, {"fetch__rooms__seed": 3}, {"preprocess__split": "all"}]
)
def test_a_run_on_other_data_gives_values_but_no_difference_and_no_word(params: dict[str, Any]) -> None:
    found = changes(run_row("a", 0.6), run_row("b", 0.5, **params), both(-0.02 + 0.01 * NOISE))
    assert [(score.word, score.difference) for score in found.scores] == [("", None)] * 3
    assert (found.scores[0].before, found.scores[0].after) == (0.6, 0.5)
    assert found.not_compared and len(found.params) == 1


def test_frames_of_other_content_under_the_same_parameters_are_not_compared_either() -> None:
    one, other = both(-0.02 + 0.01 * NOISE, frames_sha256="b")
    one = replace(one, metrics=one.metrics | {"frames_sha256": "a"})
    found = changes(run_row("a", 0.6), run_row("b", 0.5), (one, other))
    assert "other content" in found.not_compared
    assert found.scores[0].difference is None


def stored(name: str, rmse: float, training: str | None = None) -> dict[str, object]:
    """A row as the store gives it."""
    row = run_row(name, rmse) | {"training": training or name}
    back = {ours: theirs for theirs, ours in experiments.SCORES.items()}
    return {back.get(key, key): value for key, value in row.items()}


def test_the_previous_run_is_the_newest_with_weights_or_scores_of_its_own() -> None:
    this = run_row("this", 0.5)
    only_reports_again = stored("again", 0.5, training="this")
    finished = pd.DataFrame([stored("this", 0.5), only_reports_again, stored("newer", 0.6), stored("older", 0.7)])
    found = experiments.previous(this, finished)
    assert found is not None
    assert (found["name"], found["test_rmse"]) == ("newer", 0.6)
    assert experiments.previous(this, finished[:2]) is None
    scored_anew = pd.DataFrame([stored("again", 0.55, training="this")])
    assert experiments.previous(this, scored_anew) is not None


def test_the_previous_run_is_one_on_the_same_data_where_there_is_any() -> None:
    this = run_row("this", 0.5, preprocess__split="official")
    old = stored("old", 0.7) | {"params.preprocess.split": "official"}
    finished = pd.DataFrame([stored("newer", 0.4) | {"params.preprocess.split": "all"}, old])
    found = experiments.previous(this, finished)
    assert found is not None and found["name"] == "old"
    only = experiments.previous(this, finished[:1])
    assert only is not None and only["name"] == "newer"
    assert not experiments.same_data(this, only)
