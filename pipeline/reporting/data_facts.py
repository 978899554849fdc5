"""What a data card tells of the shards: frames, scenes, depths, and a frame that is augmented."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.data.augment import Augmentation, seed_from
from pipeline.data.pixels import from_millimetres, to_millimetres, to_u8, to_unit_rgb
from pipeline.data.shards import SPLITS, ShardSet
from pipeline.reporting.inputs import Augmented, DataFacts, SplitFacts

BIN_M = 0.25
FARTHEST_M = 10.0
EVERY = 4
"""Of so many rows and columns one is counted: 1/16 of the pixels give a histogram of the same look in 0.1 s."""
BATCH = 64


def data_facts(folder: Path, augment: dict[str, Any], seed: int) -> DataFacts:
    """Read a part of every clean frame in the folder's shards. augment: the parameters' section of that name."""
    shards = {split: ShardSet(folder, split) for split in SPLITS}
    edges_m = np.arange(0.0, FARTHEST_M + BIN_M, BIN_M)
    counts, missing = {}, {}
    for split, of_split in shards.items():
        counts[split], missing[split] = _depths(of_split, edges_m)
    index = shards["train"].index
    return DataFacts(
        source=index["source"],
        size=shards["train"].size,
        trained_on=index["trained_on"],
        fingerprint=index["fingerprint"],
        splits={split: _split_facts(of_split) for split, of_split in shards.items()},
        edges_m=edges_m,
        counts=counts,
        missing=missing,
        augmented=_augmented(shards["train"], augment, seed),
    )


def _split_facts(shards: ShardSet) -> SplitFacts:
    clean = [frame for frame in shards.frames if frame.copy == 0]
    return SplitFacts(
        frames=len(clean),
        copies=len(shards) - len(clean),
        scenes=len({frame.scene for frame in clean}),
        scene_types=len({frame.scene_type for frame in clean if frame.scene_type}),
    )


def _depths(shards: ShardSet, edges_m: np.ndarray) -> tuple[np.ndarray, float]:
    """Pixels in each bin, and the share of pixels without a measurement."""
    clean = [position for position, frame in enumerate(shards.frames) if frame.copy == 0]
    millimetres = np.zeros(2**15, dtype=np.int64)
    for start in range(0, len(clean), BATCH):
        depth_mm = shards.depth_mm[clean[start : start + BATCH]][..., ::EVERY, ::EVERY]
        millimetres += np.bincount(depth_mm.numpy().ravel(), minlength=2**15)
    valid = millimetres[1:]
    counted, _ = np.histogram(np.arange(1, 2**15) / 1000, edges_m, weights=valid)
    return counted, float(millimetres[0] / max(millimetres.sum(), 1))


def _augmented(shards: ShardSet, augment: dict[str, Any], seed: int) -> Augmented | None:
    """One training frame before and after, as training meets it: a copy of the shards, or drawn now."""
    if not len(shards) or augment["at"] == "none":
        return None
    if augment["at"] == "shards":
        copies = [position for position, frame in enumerate(shards.frames) if frame.copy > 0]
        flipped = [p for p in copies if _is_mirrored(shards, p)]
        if not copies:
            return None
        after = (flipped or copies)[0]
        before = _clean_of(shards, after)
        return Augmented(
            shards.frames[after].frame,
            shards.rgb_u8[before].numpy(),
            shards.rgb_u8[after].numpy(),
            shards.depth_mm[before].numpy(),
            shards.depth_mm[after].numpy(),
        )
    # A flip is shown for certain where one can happen: half of the draws would show none.
    draw = replace(Augmentation.of(augment), flip=1.0 if augment["flip"] > 0 else 0.0)
    generator = torch.Generator().manual_seed(seed_from(seed, 0, 1))
    rgb_u8, depth_mm = shards.rgb_u8[:1], shards.depth_mm[:1]
    rgb, after_m = draw(to_unit_rgb(rgb_u8), from_millimetres(depth_mm), generator)
    return Augmented(
        shards.frames[0].frame,
        rgb_u8[0].numpy(),
        to_u8(rgb[0]).numpy(),
        depth_mm[0].numpy(),
        to_millimetres(after_m[0]).numpy(),
    )


def _clean_of(shards: ShardSet, copy: int) -> int:
    """A clean frame stands before its copies."""
    return next(position for position in range(copy, -1, -1) if shards.frames[position].copy == 0)


def _is_mirrored(shards: ShardSet, copy: int) -> bool:
    clean_mm = shards.depth_mm[_clean_of(shards, copy)]
    return bool(torch.equal(shards.depth_mm[copy], clean_mm.flip(-1))) and not torch.equal(
        shards.depth_mm[copy], clean_mm
    )
