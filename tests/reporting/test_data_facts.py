"""What is read off shards, against numpy on the arrays that were written into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.augment import Augmentation
from pipeline.data.frames import Frames
from pipeline.data.shards import write_shards
from pipeline.reporting.data_facts import EVERY, data_facts

SIZE = (32, 64)
SPLITS: dict[str, list[int]] = {"train": [0, 1, 2], "val": [], "test": [3]}
STEP = {"at": "step", "copies": 1, "flip": 0.5, "noise_std": 0.02}


class MemoryFrames:
    """Four frames whose depth is constant along each row, so that every fourth column tells all of it."""

    size = SIZE
    slab_frames = 2
    names = tuple(f"frame{index}" for index in range(4))
    scenes = ("kitchen_1", "kitchen_1", "office_1", "office_2")
    scene_types = ("kitchen", "kitchen", "office", "office")

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.rgb_u8 = random.integers(60, 190, (4, *SIZE, 3), np.uint8)
        rows_m = np.repeat(random.uniform(0.6, 9.6, (4, SIZE[0] // EVERY)), EVERY, axis=1)
        rows_m[:, :EVERY] = 0
        self.depth_m = np.repeat(rows_m[:, :, None], SIZE[1], axis=2).astype(np.float32)
        self.depth_m[:, -1, 0] = 9.9  # tells left from right, and lies between the pixels that are counted

    def __len__(self) -> int:
        return 4

    def read(self, start: int, stop: int) -> Frames:
        return Frames(self.rgb_u8[start:stop], self.depth_m[start:stop], self.depth_m[start:stop])


def written(folder: Path, **changes: Any) -> Path:
    given: dict[str, Any] = {"augmentation": None, "copies": 0} | changes
    facts = {"source": "rooms", "trained_on": "official train split"}
    write_shards(MemoryFrames(), SPLITS, folder, size=SIZE, border=0, seed=3, facts=facts, **given)
    return folder


def test_frames_copies_and_scenes_are_counted_by_split(tmp_path: Path) -> None:
    folder = written(tmp_path, augmentation=Augmentation(1.0, 0.0), copies=2)
    facts = data_facts(folder, STEP, 0)
    assert {name: (one.frames, one.copies, one.scenes) for name, one in facts.splits.items()} == {
        "train": (3, 6, 2),
        "val": (0, 0, 0),
        "test": (1, 0, 1),
    }
    assert (facts.size, facts.source, facts.trained_on) == (SIZE, "rooms", "official train split")


def test_depths_of_clean_frames_are_binned_and_missing_ones_told_apart(tmp_path: Path) -> None:
    facts = data_facts(written(tmp_path, augmentation=Augmentation(0.0, 0.0), copies=1), STEP, 0)
    depth_m = np.rint(MemoryFrames().depth_m[:3] * 1000)[:, ::EVERY, ::EVERY] / 1000
    expected, _ = np.histogram(depth_m[depth_m > 0], facts.edges_m)
    np.testing.assert_array_equal(facts.counts["train"], expected)
    assert facts.missing["train"] == pytest.approx(EVERY / SIZE[0])
    assert (facts.counts["val"].sum(), facts.missing["val"]) == (0, 0.0)


def test_augmentation_drawn_by_the_step_is_shown_mirrored_and_with_its_noise(tmp_path: Path) -> None:
    shown = data_facts(written(tmp_path), STEP, 0).augmented
    assert shown is not None
    np.testing.assert_array_equal(shown.after_mm, shown.before_mm[..., ::-1])
    difference = shown.after_u8.astype(float) - shown.before_u8[..., ::-1]
    # 2 % of 255, and the rounding to whole numbers.
    assert np.std(difference) == pytest.approx(np.hypot(0.02 * 255, 12**-0.5), rel=0.05)


def test_augmentation_in_the_shards_is_shown_as_it_lies_there(tmp_path: Path) -> None:
    folder = written(tmp_path, augmentation=Augmentation(1.0, 0.05), copies=1)
    shown = data_facts(folder, STEP | {"at": "shards"}, 0).augmented
    assert shown is not None
    assert shown.frame == "frame0"
    np.testing.assert_array_equal(shown.before_u8, MemoryFrames().rgb_u8[0].transpose(2, 0, 1))
    np.testing.assert_array_equal(shown.after_mm, shown.before_mm[..., ::-1])
    assert np.std(shown.after_u8.astype(float) - shown.before_u8[..., ::-1]) > 5


@pytest.mark.parametrize("augment", [{"at": "none"}, {"at": "shards", "copies": 0, "flip": 0.5, "noise_std": 0.02}])
def test_without_augmentation_there_is_nothing_to_show(augment: dict[str, Any], tmp_path: Path) -> None:
    assert data_facts(written(tmp_path), augment, 0).augmented is None
