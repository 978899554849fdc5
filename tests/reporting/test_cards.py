"""The cards of data and model, and the commands that repeat a run."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import yaml

from pipeline.reporting import cards
from pipeline.reporting.gallery import page_scale
from tests.reporting.toy import RICH, data_facts, metrics, rich_metrics


def test_only_a_commit_hash_gets_into_the_command_line() -> None:
    assert cards.commands({"git_commit": "$(rm -rf ~)"}, {}, {}) == ["make repro"]
    assert cards.commands({"git_commit": "3f2a9c81d7e4 (with changes)"}, {}, {})[0] == "git checkout 3f2a9c81d7e4"
    assert cards.commands({}, {}, {}) == ["make repro"]


@pytest.mark.parametrize("value", [0.00001, 0.5, None, True, "$(reboot) it's", "a b", ["x", "y"], 12])
def test_parameters_that_differ_from_the_commits_come_through_the_shell_and_yaml_as_they_are(value: Any) -> None:
    (command,) = cards.commands({}, {"train": {"rate": value, "epochs": 3}}, {"train": {"rate": 7, "epochs": 3}})
    program, *arguments = shlex.split(command.replace("\\\n", ""))
    assert (program, arguments[:3]) == ("dvc", ["exp", "run", "-S"])
    key, _, text = arguments[3].partition("=")
    assert (key, yaml.safe_load(text), len(arguments)) == ("train.rate", value, 4)


def test_terms_of_the_data_are_told() -> None:
    assert "research data under its own terms" in cards.model_card(metrics(source="file"), {}, None).data
    assert "nobody else's terms" in cards.model_card(metrics(source="rooms"), {}, None).data
    assert "NYU Depth v2 (Silberman" in cards.model_card(metrics(source="nyu_raw"), {}, None).data
    assert "No terms are known" in cards.model_card(metrics(source="of other code"), {}, None).data
    assert "(60 frames of 21 scenes)" in cards.model_card(metrics(), {}, data_facts()).data


def test_limits_say_what_this_model_cannot_do() -> None:
    limits = " ".join(cards.model_card(rich_metrics(), RICH.params, None).limits).replace("\N{NO-BREAK SPACE}", " ")
    assert "up to 10 m" in limits
    assert "rendered rooms" in limits
    assert "Scale of a whole image is off by 13 %" in limits  # √(0.05² + 0.125²) = 0.135
    assert "Errs most: 1–2 m away" in limits
    seen = cards.model_card(metrics(trained_on="all frames, the test frames included"), {}, None)
    assert "tell nothing of new images" in " ".join(seen.limits)


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        ({"at": "none"}, "None: the network sees each frame as it is."),
        ({"at": "step", "copies": 1, "flip": 0.5, "noise_std": 0.02}, "Every batch drawn afresh: mirrored with"),
        ({"at": "shards", "copies": 2, "flip": 0.5, "noise_std": 0.02}, "2 fixed copies of each training frame"),
    ],
)
def test_augmentation_is_told_in_words(augment: dict[str, Any], words: str) -> None:
    assert cards.augmentation_in_words(augment).startswith(words)


def test_the_data_card_counts_and_shows_a_frame_before_and_after() -> None:
    card = cards.data_card(data_facts(), RICH.params["augment"], page_scale(RICH.predictions))
    assert [(row.name, row.frames, row.copies, row.scenes) for row in card.splits] == [
        ("Training", 60, 60, 21),
        ("Validation", 7, 0, 3),
        ("Test", 11, 0, 5),
    ]
    assert [tile.caption for tile in card.tiles] == ["Image", "Augmented", "Depth", "Augmented depth"]
