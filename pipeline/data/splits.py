"""Which frames train, validate and test."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from pipeline.errors import PipelineError

TRAINED_ON = {"official": "official train split", "all": "all frames, the test frames included"}
"""What every result says of the frames behind it, by `preprocess.split`."""


def carve_validation(splits: dict[str, list[int]], scenes: Sequence[str], fraction: float) -> dict[str, list[int]]:
    """Move whole scenes that hold about `fraction` of the training frames from `train` to `val`.

    Neighbouring frames of one scene are near copies, so a split by frame would leak. Scenes are taken in the
    order of their names' hashes: the choice is arbitrary, the same on every machine and for every seed, and a
    scene keeps its side when others are added. A source that names validation frames itself keeps them.
    """
    train = splits["train"]
    if splits.get("val") or fraction == 0:
        return {"train": train, "val": splits.get("val", []), "test": splits["test"]}
    by_scene: dict[str, list[int]] = {}
    for index in train:
        by_scene.setdefault(scenes[index], []).append(index)
    val: list[int] = []
    for scene in sorted(by_scene, key=lambda name: hashlib.sha256(name.encode()).digest())[:-1]:
        if val and len(val) + len(by_scene[scene]) / 2 > fraction * len(train):
            break
        val += by_scene[scene]
    chosen = set(val)
    return {"train": [i for i in train if i not in chosen], "val": sorted(val), "test": splits["test"]}


def draw_training(splits: dict[str, list[int]], frames: int | None, seed: int) -> dict[str, list[int]]:
    """Keep `frames` of the training frames, all if it is None. Of one seed the fewer are among the more.

    Raises `PipelineError` if there are not as many.
    """
    train = splits["train"]
    if frames is None:
        return splits
    if frames > len(train):
        raise PipelineError(f"preprocess.train_frames is {frames}, but there are only {len(train)} training frames")
    return {**splits, "train": sorted(np.random.default_rng(seed).permutation(train)[:frames].tolist())}


def use_every_frame(splits: dict[str, list[int]]) -> dict[str, list[int]]:
    """Train on every frame, the test frames included, as the original work did; nothing is left to validate."""
    every = sorted(index for indices in splits.values() for index in indices)
    return {"train": every, "val": [], "test": splits["test"]}


def location_of(scene: str) -> str:
    """`kitchen_0001a` and `kitchen_0001b` are two recordings of the room `kitchen_0001`."""
    return re.sub(r"(?<=\d)[a-z]$", "", scene)


def scene_type_of(scene: str) -> str:
    """`kitchen` of `kitchen_0001a`."""
    return re.sub(r"_\d+[a-z]?$", "", scene)
