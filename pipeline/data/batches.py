"""Batches of training frames, on the device, in a seeded order."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.data.augment import Augmentation, seed_from
from pipeline.data.pixels import from_millimetres, to_unit_rgb
from pipeline.data.shards import ShardSet
from pipeline.errors import PipelineError

PREFETCHED = 2
"""Batches that are read from the shards ahead of the one that is trained on."""
SLAB_FRAMES = 64
"""Frames that are brought into the device's memory at a time."""

Stored = tuple[Tensor, Tensor]
"""Frames as the shards hold them: rgb_u8 (n, 3, H, W) uint8 and depth_mm (n, 1, H, W) int16."""


class Batches:
    """Batches of one split as (rgb (n, 3, H, W) float in [0, 1], depth_m (n, 1, H, W) metres, 0 = missing).

    With `shuffle_seed` every epoch visits the frames in an order of its own, which depends on the seed and the
    epoch's number alone; the draws of `augmentation` depend on these and the step's number alone. Without it the
    frames come in their stored order and are not augmented. The last batch of an epoch may be smaller.

    Each of `world` ranks gets a contiguous part of every batch of `batch_size`; parts differ by at most one frame,
    and those of a small last batch may be empty. Put together they are the batches of a single rank.

    resident: "always" keeps the frames in the device's memory. "never" reads each batch from the shards ahead of
        its use and takes the same memory for any number of frames. "auto" keeps them if they fit into half of the
        device's free memory when the first epoch begins. The batches are the same.
    """

    def __init__(
        self,
        shards: ShardSet,
        batch_size: int,
        device: torch.device,
        *,
        shuffle_seed: int | None = None,
        augmentation: Augmentation | None = None,
        resident: Literal["auto", "always", "never"] = "auto",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._shards = shards
        self._batch_size = batch_size
        self._device = device
        self._shuffle_seed = shuffle_seed
        self._augmentation = augmentation
        self._residence = resident
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        return math.ceil(self.frames / self._batch_size)

    @property
    def frames(self) -> int:
        """Frames of an epoch on all ranks together."""
        return len(self._shards)

    def size(self, step: int) -> int:
        """Frames of a batch on all ranks together."""
        return min(self._batch_size, self.frames - step * self._batch_size)

    @cached_property
    def resident(self) -> bool:
        """Whether the frames are kept in the device's memory; under "auto" decided when first asked."""
        if self._residence == "auto":
            # Ranks that compute on processors keep their frames in one memory.
            copies = self._world if self._device.type == "cpu" else 1
            return copies * self._bytes <= free_memory(self._device) / 2
        return self._residence == "always"

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from step `start` on; the first step is 0."""
        steps = range(start, len(self))
        parts = [self._part(step) for step in steps]
        generator = torch.Generator(self._device)
        stored = (self._from_memory if self.resident else self._from_shards)(self._order(number), parts)
        with contextlib.closing(stored):
            for step, part, (rgb_u8, depth_mm) in zip(steps, parts, stored, strict=True):
                if self._device.type == "cuda":
                    # The network will want the channels innermost; turned now it is a quarter of the bytes.
                    rgb_u8 = rgb_u8.contiguous(memory_format=torch.channels_last)
                rgb, depth_m = to_unit_rgb(rgb_u8), from_millimetres(depth_mm)
                if self._augmentation is not None and self._shuffle_seed is not None:
                    generator.manual_seed(seed_from(self._shuffle_seed, number, step))
                    first = part.start - step * self._batch_size
                    rgb, depth_m = self._augmentation(rgb, depth_m, generator, first=first, of=self.size(step))
                yield rgb, depth_m

    def _order(self, epoch: int) -> np.ndarray:
        order = np.arange(self.frames)
        if self._shuffle_seed is not None:
            np.random.default_rng([self._shuffle_seed, epoch]).shuffle(order)
            # Ascending indices let the shards be read forwards; within a batch the order means nothing.
            for first in range(0, self.frames, self._batch_size):
                order[first : first + self._batch_size].sort()
        return order

    def _part(self, step: int) -> slice:
        """Where in the epoch's order this rank's part of a batch stands."""
        start, size = step * self._batch_size, self.size(step)
        return slice(
            start + size * self._rank // self._world,
            start + size * (self._rank + 1) // self._world,
        )

    def _from_memory(self, order: np.ndarray, parts: Sequence[slice]) -> Generator[Stored]:
        rgb_u8, depth_mm = self._memory
        # Once an epoch: a transfer for each batch would wait for the step before.
        indices = torch.from_numpy(order).to(self._device)
        for part in parts:
            yield rgb_u8.index_select(0, indices[part]), depth_mm.index_select(0, indices[part])

    def _from_shards(self, order: np.ndarray, parts: Sequence[slice]) -> Generator[Stored]:
        # The block ends the thread, however it is left.
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
            reads = (thread.submit(self._read, order[part]) for part in parts)
            waiting: deque[Future[Stored]] = deque(itertools.islice(reads, PREFETCHED))
            while waiting:
                rgb_u8, depth_mm = waiting.popleft().result()
                waiting.extend(itertools.islice(reads, 1))
                yield (
                    rgb_u8.to(self._device, non_blocking=True),
                    depth_mm.to(self._device, non_blocking=True),
                )

    def _read(self, chosen: np.ndarray) -> Stored:
        pinned = self._device.type == "cuda"
        rgb_u8, depth_mm = self._shards.rgb_u8, self._shards.depth_mm
        return rgb_u8.gather(chosen, pinned=pinned), depth_mm.gather(chosen, pinned=pinned)

    @cached_property
    def _memory(self) -> Stored:
        """All frames in the device's memory."""
        free = free_memory(self._device)
        if self._bytes > free:
            raise PipelineError(
                f"the '{self._shards.split}' frames take {self._bytes / 2**30:.1f} GiB, but {self._device} has "
                f"{free / 2**30:.1f} GiB of free memory; set train.resident to auto or never"
            )
        rgb_u8, depth_mm = (
            torch.empty(stored.shape, dtype=stored.dtype, device=self._device)
            for stored in (self._shards.rgb_u8, self._shards.depth_mm)
        )
        for first in range(0, self.frames, SLAB_FRAMES):
            slab = slice(first, first + SLAB_FRAMES)
            rgb_u8[slab] = self._shards.rgb_u8[slab].to(self._device)
            depth_mm[slab] = self._shards.depth_mm[slab].to(self._device)
        return rgb_u8, depth_mm

    @property
    def _bytes(self) -> int:
        """What all frames take in memory."""
        tensors = (self._shards.rgb_u8, self._shards.depth_mm)
        return sum(tensor.shape.numel() * tensor.dtype.itemsize for tensor in tensors)


def free_memory(device: torch.device) -> int:
    """Bytes that a device can still give: of its own memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        import psutil
    except ImportError:
        # Without what the system would take back from its caches.
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available: int = psutil.virtual_memory().available
    return available
