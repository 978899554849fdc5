"""What every source of RGB-D frames offers, whatever its files look like."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from pipeline.errors import PipelineError


class Frames(NamedTuple):
    """`n` frames of one size at the source's own resolution."""

    rgb_u8: np.ndarray
    """(n, H, W, 3) uint8"""
    depth_m: np.ndarray
    """(n, H, W) float32 metres, holes filled where the source fills them; 0 = missing"""
    raw_depth_m: np.ndarray
    """(n, H, W) float32 metres as the sensor gave them; 0 = missing"""


class FrameSource(Protocol):
    """An opened set of frames: the official NYU file, or a folder of images."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of every frame."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """One stable name a frame, for tables and error messages."""
        ...

    @property
    def scenes(self) -> Sequence[str]: ...

    @property
    def scene_types(self) -> Sequence[str]: ...

    @property
    def slab_frames(self) -> int:
        """How many frames to read at once so that nothing on disk is unpacked twice."""
        ...

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Frames: ...


def read_slabs(source: FrameSource, indices: Iterable[int]) -> Iterator[tuple[list[int], Frames]]:
    """Yield (frame indices, their frames) in ascending order, one aligned slab of the file at a time.

    Slabs that hold none of the wanted `indices` are not read.
    """
    wanted = np.unique(np.fromiter(indices, dtype=np.int64))
    step = source.slab_frames
    for slab in np.unique(wanted // step):
        start, stop = int(slab) * step, min((int(slab) + 1) * step, len(source))
        inside = wanted[(wanted >= start) & (wanted < stop)]
        frames = source.read(start, stop)
        picked = inside - start
        yield inside.tolist(), Frames(*(array[picked] for array in frames))


def check_splits(splits: dict[str, list[int]], frames: int, where: str) -> None:
    """Raise `PipelineError` unless the splits are disjoint and point at existing frames."""
    seen: dict[int, str] = {}
    for split, indices in splits.items():
        for index in indices:
            if not 0 <= index < frames:
                raise PipelineError(f"{where}: {split} frame {index + 1} is outside 1..{frames}")
            if index in seen:
                twice = f"{split} twice" if seen[index] == split else f"both {seen[index]} and {split}"
                raise PipelineError(f"{where}: frame {index + 1} is in {twice}")
            seen[index] = split
