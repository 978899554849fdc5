"""Renders the whole set, one scene a task, and writes it in order."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.data.frames import cores
from pipeline.data.nyu import NyuWriter, PackedFrame, pack_frame, write_splits
from pipeline.data.rooms.camera import nyu_intrinsics
from pipeline.data.rooms.lighting import Illumination, illuminate
from pipeline.data.rooms.render import render
from pipeline.data.rooms.scene import ROOM_KINDS, Scene, furnished
from pipeline.data.rooms.sensor import photograph, sensed_depth
from pipeline.data.rooms.views import FARTHEST_M, NEAREST_M, choose_view
from pipeline.errors import PipelineError
from pipeline.files import written_whole

_DEPTH_STEPS_PER_M = 4096
"""Depth is rounded to 2^-12 m = 0.24 mm: far below what anyone measures, and the file is a third smaller."""


@dataclass(frozen=True)
class SceneTask:
    """All that a worker needs to know; frame k of the set is the same however many others there are."""

    seed: int
    number: int
    frames: int
    height: int
    width: int

    @property
    def kind(self) -> int:
        """Scenes take turns through the kinds, from another one for each seed."""
        return (self.number + self.seed) % len(ROOM_KINDS)

    @property
    def scene_type(self) -> str:
        return ROOM_KINDS[self.kind].name

    @property
    def scene(self) -> str:
        """NYU's form: the type and the number of the scene within it."""
        return f"{self.scene_type}_{self.number // len(ROOM_KINDS) + 1:04d}"


def render_rooms(
    mat_path: Path,
    splits_path: Path,
    *,
    frames: int,
    frames_per_scene: int,
    test_fraction: float,
    seed: int,
    height: int = 480,
    width: int = 640,
    workers: int | None = None,
) -> None:
    """Render `frames` RGB-D frames, `frames_per_scene` from each scene, and write the official layout.

    Depth is along the optical axis, from 0.5 to 10 m, rounded to 2^-12 m (0.24 mm) so that it deflates well.
    The same arguments give the same bytes, whatever `workers` (None: one for each core). About
    `test_fraction` of the scenes, of every type alike, make the test split. Both files appear whole or not at
    all. Raises `PipelineError` if the frames do not make two scenes or a number is out of range.
    """
    tasks = _tasks(frames, frames_per_scene, seed, height, width)
    splits = _splits(tasks, test_fraction, seed)
    with (
        written_whole(mat_path) as mat_partial,
        written_whole(splits_path) as splits_partial,
        tqdm(total=frames, unit="frame", desc="render rooms") as progress,
    ):
        write_splits(splits_partial, splits)
        with NyuWriter(mat_partial, frames, (height, width)) as writer:
            for task, packed_frames in zip(tasks, _rendered(tasks, workers), strict=True):
                for packed in packed_frames:
                    writer.append(packed, task.scene, task.scene_type)
                    progress.update()


def _tasks(frames: int, frames_per_scene: int, seed: int, height: int, width: int) -> list[SceneTask]:
    for name, value, low in (
        ("frames", frames, 1),
        ("frames_per_scene", frames_per_scene, 1),
        ("seed", seed, 0),
        ("height", height, 32),
        ("width", width, 32),
    ):
        if value < low:
            raise PipelineError(f"rooms: {name} is {value}; give {low} or more")
    return [
        SceneTask(seed, number, min(frames_per_scene, frames - start), height, width)
        for number, start in enumerate(range(0, frames, frames_per_scene))
    ]


def _splits(tasks: list[SceneTask], test_fraction: float, seed: int) -> dict[str, list[int]]:
    """Frame numbers of both splits; whole scenes, as evenly from all types as their numbers allow."""
    if not 0 < test_fraction < 1:
        raise PipelineError(f"rooms: test_fraction is {test_fraction}; give more than 0 and less than 1")
    if len(tasks) < 2:
        raise PipelineError("rooms: all frames are in one scene; give more frames or fewer frames_per_scene")
    rng = np.random.default_rng(np.random.SeedSequence([seed, len(tasks)]))
    by_kind = [[task.number for task in tasks if task.kind == kind] for kind in range(len(ROOM_KINDS))]
    # Every scene's place within its shuffled type, as a fraction: the smallest are taken, type by type.
    rank = {
        number: (place + 0.5 + 0.5 * rng.random()) / len(numbers)
        for numbers in by_kind
        for place, number in enumerate(rng.permutation(numbers).tolist())
    }
    wanted = min(max(1, round(test_fraction * len(tasks))), len(tasks) - 1)
    test = set(sorted(rank, key=rank.__getitem__)[:wanted])
    splits: dict[str, list[int]] = {"train": [], "test": []}
    start = 0
    for task in tasks:
        splits["test" if task.number in test else "train"] += range(start, start + task.frames)
        start += task.frames
    return splits


def _rendered(tasks: list[SceneTask], workers: int | None) -> Iterator[list[PackedFrame]]:
    """The packed frames of each task in order, at most two scenes a worker ahead of the reader."""
    workers = min(workers or cores(), len(tasks))
    if workers == 1:
        yield from map(render_scene, tasks)
        return
    # Spawned, not forked: the caller may hold threads (torch, tqdm) that a fork would copy half.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_interrupts_to_parent)
    try:
        ahead: deque[Future[list[PackedFrame]]] = deque()
        for task in tasks:
            ahead.append(pool.submit(render_scene, task))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    except BrokenProcessPool as error:
        raise PipelineError(
            f"rooms: one of {workers} rendering processes was killed, perhaps for want of memory; "
            "free some and start again"
        ) from error
    except MemoryError as error:
        raise PipelineError(
            f"rooms: memory is short for {workers} rendering processes; free some and start again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_parent() -> None:
    """Ctrl-C reaches every process of the terminal; only the parent should answer, with one line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def render_scene(task: SceneTask) -> list[PackedFrame]:
    scene = furnished(ROOM_KINDS[task.kind], _generator(task, 0))
    illumination = illuminate(scene)
    return [
        pack_frame(*render_frame(task, scene, illumination, _generator(task, index + 1)))
        for index in range(task.frames)
    ]


def render_frame(
    task: SceneTask, scene: Scene, illumination: Illumination, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`rgb_u8` (H, W, 3), `depth_m` and `raw_depth_m` (H, W) from a view of the scene chosen at random."""
    camera = nyu_intrinsics(task.height, task.width)
    while True:
        picture = render(scene, illumination, camera, choose_view(scene, camera, rng))
        depth_m = np.rint(picture.depth_m * _DEPTH_STEPS_PER_M) / np.float32(_DEPTH_STEPS_PER_M)
        # The view was judged by a preview of 24 x 32, which may miss a chair's leg.
        if depth_m.min() >= NEAREST_M and depth_m.max() <= FARTHEST_M:
            return photograph(picture, rng), depth_m, sensed_depth(picture, rng)


def _generator(task: SceneTask, stream: int) -> np.random.Generator:
    """Stream 0 furnishes the scene, stream k takes its k-th picture."""
    return np.random.default_rng(np.random.SeedSequence([task.seed, task.number, stream]))
