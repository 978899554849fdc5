"""What differs between two experiments, and whether that is more than chance."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from pipeline.reporting import experiments
from pipeline.reporting.changes import changes, param_changes, score_change
from tests.reporting.toy import run_row


def test_parameters_that_differ_are_told_with_both_values_the_seed_last() -> None:
    before = run_row("a", 0.5, seed=0, loss__ssim_weight=0.5)
    after = run_row("b", 0.5, seed=1, loss__ssim_weight=0.7, train__ema_decay=0.99)
    found = [(change.name, change.before, change.after) for change in param_changes(before, after)]
    assert found == [("loss.ssim_weight", "0.5", "0.7"), ("train.ema_decay", "–", "0.99"), ("seed", "0", "1")]


def test_what_changes_no_score_is_no_change() -> None:
    before = run_row("a", 0.5, report__title="A", train__device="cpu")
    assert param_changes(before, run_row("b", 0.5, report__title="B", train__device="cuda")) == []


@pytest.mark.parametrize(
    ("before", "after", "less_is_better", "word", "beyond"),
    [
        (0.60, 0.50, True, "better", True),
        (0.52, 0.50, True, "better", False),
        (0.50, 0.60, True, "worse", False),
        (0.60, 0.70, False, "better", True),
        (0.5001, 0.5, True, "level", False),
        (math.nan, 0.5, True, "", None),
    ],
)
def test_a_difference_has_its_word_and_is_held_against_the_interval(
    before: float, after: float, less_is_better: bool, word: str, beyond: bool | None
) -> None:
    found = score_change("x", "m", before, after, less_is_better=less_is_better, interval=[0.45, 0.55])
    assert (found.word, found.beyond) == (word, beyond)
    assert found.difference is None or found.difference == pytest.approx(after - before)


def test_without_an_interval_nothing_is_said_of_chance() -> None:
    found = changes(run_row("a", 0.6), run_row("b", 0.5), {})
    assert (found.since, [score.beyond for score in found.scores]) == ("a", [None, None, None])
    assert [score.name for score in found.scores] == ["Test RMSE", "Test δ1", "Validation RMSE"]


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
