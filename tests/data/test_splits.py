"""The validation split, as properties of any set of scenes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.splits import carve_validation, draw_training, use_every_frame
from pipeline.errors import PipelineError

SCENE_SIZES = st.lists(st.integers(1, 9), min_size=2, max_size=30)
FRACTIONS = st.floats(0.01, 0.5)


def frames_of(sizes: list[int]) -> tuple[dict[str, list[int]], list[str]]:
    """Scenes of these sizes to train on, dealt in turn as in no particular order, and two test frames."""
    deck = sorted((turn, scene) for scene, size in enumerate(sizes) for turn in range(size))
    scenes = [f"scene_{scene:04d}" for _, scene in deck] + ["test_0001", "test_0001"]
    train = list(range(len(deck)))
    return {"train": train, "test": [len(deck), len(deck) + 1]}, scenes


@given(SCENE_SIZES, FRACTIONS)
def test_no_scene_stands_in_two_splits_and_no_frame_is_lost(sizes: list[int], fraction: float) -> None:
    splits, scenes = frames_of(sizes)
    carved = carve_validation(splits, scenes, fraction)
    owned = {split: {scenes[index] for index in indices} for split, indices in carved.items()}
    assert not owned["train"] & owned["val"]
    assert not owned["test"] & (owned["train"] | owned["val"])
    assert sorted(carved["train"] + carved["val"]) == splits["train"]
    assert carved["test"] == splits["test"]


@given(SCENE_SIZES, FRACTIONS)
def test_training_and_validation_have_a_scene_each(sizes: list[int], fraction: float) -> None:
    carved = carve_validation(*frames_of(sizes), fraction)
    assert carved["train"]
    assert carved["val"]


@given(SCENE_SIZES, FRACTIONS)
def test_the_share_is_within_half_a_scene_of_what_was_asked(sizes: list[int], fraction: float) -> None:
    splits, scenes = frames_of(sizes)
    validated = len(carve_validation(splits, scenes, fraction)["val"])
    wanted = fraction * len(splits["train"])
    # One scene always validates and one always trains, however large they are.
    assert validated <= max(wanted + max(sizes) / 2, max(sizes))
    assert validated >= min(wanted - max(sizes) / 2, sum(sizes) - max(sizes))


@given(SCENE_SIZES, FRACTIONS)
def test_the_choice_is_the_same_every_time_and_in_any_order_of_frames(sizes: list[int], fraction: float) -> None:
    splits, scenes = frames_of(sizes)
    carved = carve_validation(splits, scenes, fraction)
    backwards = {**splits, "train": splits["train"][::-1]}
    assert carve_validation(splits, scenes, fraction) == carved
    assert carve_validation(backwards, scenes, fraction)["val"] == carved["val"]


def test_the_choice_does_not_follow_the_names() -> None:
    splits, scenes = frames_of([4] * 40)
    carved = carve_validation(splits, scenes, 0.25)
    chosen = {scenes[index] for index in carved["val"]}
    assert len(chosen) == 10
    assert chosen != set(sorted(set(scenes))[:10])


def test_the_official_proportions_give_about_a_tenth() -> None:
    sizes = [3] * 200 + [4] * 49  # 796 frames in 249 scenes, as the official training split has
    splits, scenes = frames_of(sizes)
    assert len(carve_validation(splits, scenes, 0.1)["val"]) == pytest.approx(79.6, abs=2)


def test_no_fraction_leaves_nothing_to_validate() -> None:
    splits, scenes = frames_of([2, 3, 4])
    carved = carve_validation(splits, scenes, 0)
    assert carved == {**splits, "val": []}


def test_a_single_scene_is_trained_on() -> None:
    splits, scenes = frames_of([5])
    assert carve_validation(splits, scenes, 0.2) == {**splits, "val": []}


@pytest.mark.parametrize("fraction", [0, 0.3])
def test_validation_frames_named_by_the_source_are_kept(fraction: float) -> None:
    splits = {"train": [0, 1, 2], "val": [3], "test": [4]}
    assert carve_validation(splits, ["a", "b", "c", "d", "e"], fraction) == splits


@given(st.lists(st.sampled_from(["train", "val", "test"]), min_size=1, max_size=30))
def test_using_every_frame_trains_on_each_once_and_still_tests_the_test_frames(owners: list[str]) -> None:
    splits = {name: [i for i, owner in enumerate(owners) if owner == name] for name in ("train", "val", "test")}
    every = use_every_frame(splits)
    assert Counter(every["train"]) == Counter(range(len(owners)))
    assert every["val"] == []
    assert every["test"] == splits["test"]


def test_fewer_training_frames_are_among_more_of_the_same_seed_and_nothing_else_changes() -> None:
    splits = {"train": list(range(3, 60)), "val": [0, 1], "test": [2, 60]}
    few, more = (draw_training(splits, frames, seed=4) for frames in (10, 30))
    assert len(set(few["train"])) == 10
    assert set(few["train"]) < set(more["train"]) < set(splits["train"])
    assert few["train"] != draw_training(splits, 10, seed=5)["train"]
    assert (few["val"], few["test"]) == (splits["val"], splits["test"])
    assert draw_training(splits, None, seed=4) == splits


def test_more_training_frames_than_there_are_are_refused() -> None:
    with pytest.raises(PipelineError, match="train_frames is 4, but there are only 3"):
        draw_training({"train": [0, 1, 2], "val": [], "test": [3]}, 4, seed=0)
