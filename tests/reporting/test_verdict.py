"""The result in a sentence, how certain it is, and where the network fails."""

from __future__ import annotations

import pytest

from pipeline.reporting import verdict
from tests.reporting.toy import metrics, rich_metrics, scores


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NON-BREAKING HYPHEN}", "-")


def test_the_headline_says_what_came_out_in_plain_words() -> None:
    # 0.56 / 0.903 = 0.620
    assert plain(verdict.verdict(metrics())) == (
        "RMSE 0.56 m on 84 unseen test frames, 38 % below the mean-depth map; "
        "71 % of pixels within a factor of 1.25 of the true depth (δ1)"
    )


@pytest.mark.parametrize(
    ("rmse", "words"),
    [(1.1, "22 % above the mean-depth map"), (0.9035, "level with the mean-depth map")],
)
def test_the_headline_hides_no_defeat(rmse: float, words: str) -> None:
    said = plain(verdict.verdict(metrics(full=scores(0.5) | {"rmse": rmse})))
    assert words in said


def test_frames_that_were_trained_on_are_not_called_unseen() -> None:
    said = verdict.verdict(metrics(trained_on="all frames (split: all)"))
    assert "unseen" not in said
    assert "84 test frames that were also trained on" in said


def test_certainty_gives_both_intervals_and_the_paired_difference() -> None:
    assert plain(verdict.certainty(rich_metrics())) == (
        "95 % confidence: RMSE 0.520–0.610 m; δ1 0.520–0.610; better than the mean-depth map by 0.300–0.400 m"
    )
    assert verdict.certainty(metrics()) == ""


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ([0.1, 0.2], "worse than the mean-depth map by 0.100–0.200 m"),
        ([-0.1, 0.1], "not told apart from the mean-depth map"),
    ],
)
def test_certainty_hides_no_defeat(bounds: list[float], words: str) -> None:
    given = rich_metrics(intervals_against_mean_map={"full": {"rmse": bounds}})
    assert words in plain(verdict.certainty(given))


def test_the_hardest_are_named_but_not_what_few_pixels_or_frames_say() -> None:
    assert plain(verdict.hardest(rich_metrics())) == (
        "1–2 m away (RMSE 0.40 m); scene type home office (0.70 m); the image's bottom right"
    )
    bands = [
        {"from_m": 0, "to_m": 1, "pixels": 500, "rmse": 0.2},
        {"from_m": 1, "to_m": 2, "pixels": 500, "rmse": 0.3},
        {"from_m": 9, "to_m": 10, "pixels": 5, "rmse": 9.0},
        {"from_m": 10, "to_m": 11, "pixels": 0, "rmse": None},
    ]
    kinds = [
        {"scene_type": name, "frames": frames, "rmse": rmse}
        for name, frames, rmse in (("a", 9, 0.1), ("b", 9, 0.2), ("c", 1, 5.0))
    ]
    said = verdict.hardest(metrics(by_distance=bands, by_scene_type=kinds))
    assert plain(said) == "1–2 m away (RMSE 0.30 m); scene type b (0.20 m)"


@pytest.mark.parametrize(
    ("row", "column", "name"),
    [(0, 0, "top left"), (1, 1, "middle left"), (1, 2, "middle centre"), (2, 5, "bottom right")],
)
def test_a_region_has_a_name(row: int, column: int, name: str) -> None:
    assert verdict.region_name(row, column, 3, 6) == name
