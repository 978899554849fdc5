"""What every source of RGB-D frames offers, whatever its files look like."""

from __future__ import annotations

import itertools
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from pipeline.errors import PipelineError

AT_ONCE_BYTES = 256 * 2**20
"""Of frames that are read and worked on at a time, whatever the number of cores."""

MAX_DEPTH_M = 32.767
"""What 16-bit millimetres hold, and beyond what a network may predict; NYU's depths end at 10 m."""

Result = TypeVar("Result")


class Frames(NamedTuple):
    """`n` frames of one size at the source's own resolution."""

    rgb_u8: np.ndarray
    """(n, H, W, 3) uint8"""
    depth_m: np.ndarray
    """(n, H, W) float32 metres, holes filled where the source fills them; 0 = missing"""
    raw_depth_m: np.ndarray
    """(n, H, W) float32 metres as the sensor gave them; 0 = missing"""


class FrameSource(Protocol):
    """An opened set of frames: the official NYU file, or a folder of images.

    Several threads may `read` at a time.
    """

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


class FrameReader(Protocol):
    """Reads some frames of a source. It travels to the process that does: picklable, open only while it reads."""

    def read(self, index: int) -> Frames:
        """One frame, by its index in the source. Raises `PipelineError` that names the frame and its file."""
        ...


class RandomAccess(ABC):
    """A `FrameSource` whose frames can be read in any order, in other processes too: each has files of its own.

    A context manager that keeps nothing open between reads. Entering it sets what is only declared here.
    """

    size: tuple[int, int]
    names: list[str]
    scenes: list[str]
    scene_types: list[str]
    slab_frames = 1

    @abstractmethod
    def reader(self, indices: Sequence[int]) -> FrameReader:
        """For these frames. It goes with one job, so it should be no larger than they need."""

    def __exit__(  # noqa: B027
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __len__(self) -> int:
        return len(self.names)

    def read(self, start: int, stop: int) -> Frames:
        """Frames `start` to `stop` (exclusive). There is no second depth map, so raw is the same array."""
        indices = range(start, min(stop, len(self)))
        reader = self.reader(indices)
        frames = [reader.read(index) for index in indices]
        rgb_u8, depth_m = (np.concatenate([frame[part] for frame in frames]) for part in (0, 1))
        return Frames(rgb_u8, depth_m, depth_m)


def read_slabs(source: FrameSource, indices: Iterable[int]) -> Iterator[tuple[list[int], Frames]]:
    """Yield (frame indices, their frames) in ascending order, one aligned slab of the file at a time.

    Slabs that hold none of the wanted `indices` are not read.
    """
    for inside, start, stop in _wanted_slabs(source, indices):
        yield inside, _read_wanted(source, inside, start, stop)


def map_slabs(
    source: FrameSource,
    indices: Iterable[int],
    work: Callable[[list[int], Frames], Result],
    *,
    ahead: int,
) -> Iterator[Result]:
    """Yield `work(frame indices, their frames)` for each slab of `read_slabs`, in the same order.

    Slabs are read and worked on in threads, as many as there are cores and `AT_ONCE_BYTES` allow. They go on until
    `ahead` results wait to be taken.
    """
    height, width = source.size
    slab_bytes = min(source.slab_frames, max(1, len(source))) * height * width * 11
    threads = max(1, min(cores(), AT_ONCE_BYTES // slab_bytes))

    def read_and_work(slab: tuple[list[int], int, int]) -> Result:
        return work(slab[0], _read_wanted(source, *slab))

    with ThreadPoolExecutor(threads, thread_name_prefix="slabs") as pool:
        slabs = _wanted_slabs(source, indices)
        under_way: deque[Future[Result]] = deque()
        try:
            while True:
                missing = threads + ahead - len(under_way)
                under_way += [pool.submit(read_and_work, slab) for slab in itertools.islice(slabs, missing)]
                if not under_way:
                    return
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _wanted_slabs(source: FrameSource, indices: Iterable[int]) -> Iterator[tuple[list[int], int, int]]:
    """(wanted frames, first frame, last frame + 1) of each slab that holds wanted ones."""
    wanted = np.unique(np.fromiter(indices, dtype=np.int64))
    step = source.slab_frames
    for slab in np.unique(wanted // step):
        start, stop = int(slab) * step, min((int(slab) + 1) * step, len(source))
        yield wanted[(wanted >= start) & (wanted < stop)].tolist(), start, stop


def _read_wanted(source: FrameSource, wanted: list[int], start: int, stop: int) -> Frames:
    frames = source.read(start, stop)
    if len(wanted) == stop - start:
        return frames
    picked = np.array(wanted) - start
    return Frames(*(array[picked] for array in frames))


def check_splits(splits: dict[str, list[int]], frames: int, where: str) -> None:
    """Raise `PipelineError` unless the splits are disjoint and point at existing frames, told from 1 as there."""
    seen: dict[int, str] = {}
    for split, indices in splits.items():
        for index in indices:
            if not 0 <= index < frames:
                raise PipelineError(f"{where}: {split} frame {index + 1} (from 1) is outside 1..{frames}")
            if index in seen:
                twice = f"{split} twice" if seen[index] == split else f"both {seen[index]} and {split}"
                raise PipelineError(f"{where}: frame {index + 1} (from 1) is in {twice}")
            seen[index] = split


def check_scenes(splits: dict[str, list[int]], scenes: Sequence[str], where: str) -> None:
    """Raise `PipelineError` if frames of one scene, which are near copies of each other, are in two splits."""
    first: dict[str, tuple[str, int]] = {}
    for split, indices in splits.items():
        for index in indices:
            other, frame = first.setdefault(scenes[index], (split, index))
            if other != split:
                raise PipelineError(
                    f"{where}: scene '{scenes[index]}' is in {other} (frame {frame + 1}) and in {split} "
                    f"(frame {index + 1}, from 1); a scene belongs to one split"
                )
