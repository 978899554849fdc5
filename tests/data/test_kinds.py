"""What is known of each source of frames."""

from __future__ import annotations

from typing import get_args

from pipeline.data.kinds import KINDS, kind_of
from pipeline.params import Fetch


def test_all_that_is_to_be_known_is_known_of_every_source_that_can_be_fetched() -> None:
    assert set(KINDS) == set(get_args(Fetch.model_fields["source"].annotation))


def test_the_terms_of_nyu_are_told_wherever_its_frames_come_from() -> None:
    of_nyu = {source for source in KINDS if "NYU Depth v2" in kind_of(source).terms}
    assert of_nyu == {"nyu_v2", "file", "nyu_raw"}


def test_published_figures_are_of_the_labelled_frames_alone() -> None:
    assert {source for source in KINDS if kind_of(source).is_nyu} == {"nyu_v2", "file"}


def test_of_a_source_of_other_code_its_name_is_told_and_nothing_invented() -> None:
    moon = kind_of("moon")
    assert moon.name == "moon" and not moon.is_nyu
    assert moon.terms == "No terms are known of data from moon."
