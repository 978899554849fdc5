"""Batches of training frames, on the device, in a seeded order."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.data.augment import Augmentation
from pipeline.data.pixels import from_millimetres, to_unit_rgb
from pipeline.data.shards import ShardSet


class Batches:
    """Batches of one split as (rgb (n, 3, H, W) float in [0, 1], depth_m (n, 1, H, W) metres, 0 = missing).

    With `shuffle_seed` every epoch visits the frames in an order of its own that depends on the seed and the
    epoch's number alone, and so do the random draws of `augmentation`; without it the frames come in their
    stored order and are not augmented. The last batch of an epoch may be smaller.
    """

    def __init__(
        self,
        shards: ShardSet,
        batch_size: int,
        device: torch.device,
        *,
        shuffle_seed: int | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        self._shards = shards
        self._batch_size = batch_size
        self._device = device
        self._shuffle_seed = shuffle_seed
        self._augmentation = augmentation if shuffle_seed is not None else None

    def __len__(self) -> int:
        return math.ceil(len(self._shards) / self._batch_size)

    @property
    def frames(self) -> int:
        return len(self._shards)

    def epoch(self, number: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        order = np.arange(len(self._shards))
        generator = torch.Generator(self._device)
        if self._shuffle_seed is not None:
            random = np.random.default_rng([self._shuffle_seed, number])
            random.shuffle(order)
            generator.manual_seed(int(random.integers(2**63)))
        for start in range(0, len(order), self._batch_size):
            # Ascending indices let the memory map be read forwards; within a batch the order means nothing.
            chosen = np.sort(order[start : start + self._batch_size])
            rgb = to_unit_rgb(self._shards.rgb_u8[chosen].to(self._device, non_blocking=True))
            depth_m = from_millimetres(self._shards.depth_mm[chosen].to(self._device, non_blocking=True))
            if self._augmentation is not None:
                rgb, depth_m = self._augmentation(rgb, depth_m, generator)
            yield rgb, depth_m
