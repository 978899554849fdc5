"""Shards of a source whose frames can be read one by one: each is a job of its own, wherever it is done.

What is in a shard is known before the first frame is read. So shards can be made in any order, by any number of
processes or machines, and made again; they and the index are byte for byte those that `write_shards` writes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, count, groupby, islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.data.augment import Augmentation
from pipeline.data.frames import FrameReader, FrameSource, RandomAccess
from pipeline.data.shards import (
    INDEX,
    SPLITS,
    ShardFrame,
    check_border,
    frame_copies,
    save_shard,
    shard_capacity,
    shard_name,
    write_index,
)
from pipeline.files import sha256_of, write_json
from pipeline.progress import progress_bar
from pipeline.state import claimed


@dataclass(frozen=True)
class Recipe:
    """What is made of a frame; see `write_shards`."""

    size: tuple[int, int]
    border: int
    augmentation: Augmentation | None
    copies: int
    seed: int


@dataclass(frozen=True)
class PlannedShard:
    """What is in a shard."""

    split: str
    number: int
    frames: tuple[tuple[int, int], ...]
    """(index in the source, copy) in their order"""

    @property
    def name(self) -> str:
        return shard_name(self.split, self.number)


@dataclass(frozen=True)
class ShardJob(PlannedShard):
    """One shard: all that another process needs in order to make it."""

    reader: FrameReader
    recipe: Recipe

    def tensors(self, advance: Callable[[int], None] = lambda frames: None) -> tuple[Tensor, Tensor]:
        """The shard's `rgb_u8` and `depth_mm`. advance: is told after each frame how many are done."""
        height, width = self.recipe.size
        rgb_u8 = torch.empty((len(self.frames), 3, height, width), dtype=torch.uint8)
        depth_mm = torch.empty((len(self.frames), 1, height, width), dtype=torch.int16)
        position = 0
        for index, group in groupby(self.frames, key=lambda frame: frame[0]):
            for rgb, depth in frame_copies(
                self.reader.read(index),
                index,
                (copy for _, copy in group),
                size=self.recipe.size,
                border=self.recipe.border,
                augmentation=self.recipe.augmentation,
                seed=self.recipe.seed,
            ):
                rgb_u8[position], depth_mm[position] = rgb, depth
                position += 1
            advance(position)
        return rgb_u8, depth_mm


Done = Callable[[ShardJob], None]
Advance = Callable[[int], None]


class Workers(Protocol):
    """Those who do the jobs."""

    def do(self, jobs: Iterator[ShardJob], work: WorkFolder, done: Done, advance: Advance) -> None:
        """Do all jobs, each into the work folder, and tell of each that is done.

        advance: is told now and then how many frames of unfinished shards are done, where that can be known.
        """
        ...


class WorkFolder:
    """Shards that are whole already, each with a note of size and hash that is written after it."""

    def __init__(self, path: Path) -> None:
        self.shards, self._notes = path / "shards", path / "notes"
        for folder in (self.shards, self._notes):
            folder.mkdir(parents=True, exist_ok=True)

    def save(self, job: ShardJob, rgb_u8: Tensor, depth_mm: Tensor) -> None:
        self.note(job, save_shard(self.shards / job.name, rgb_u8, depth_mm))

    def note(self, job: ShardJob, entry: dict[str, Any]) -> None:
        """entry: of the shard that has been written, for the index."""
        write_json(self._note_of(job.name), entry)

    def entry(self, name: str) -> dict[str, Any]:
        """The note of a shard that is done."""
        entry: dict[str, Any] = json.loads(self._note_of(name).read_text(encoding="utf-8"))
        return entry

    def keep_whole(self, names: Iterable[str]) -> set[str]:
        """Which of these shards are here and as they were written. Everything else is deleted."""
        wanted = set(names)
        here = [path for path in self.shards.iterdir() if path.name in wanted]
        with ThreadPoolExecutor() as pool:
            whole = {path.name for path, good in zip(here, pool.map(self._is_whole, here), strict=True) if good}
        for path in chain(self.shards.iterdir(), self._notes.iterdir()):
            if path.name.removesuffix(".json") not in whole:
                path.unlink()
        return whole

    def _is_whole(self, path: Path) -> bool:
        try:
            entry = self.entry(path.name)
            return bool(path.stat().st_size == entry["bytes"] and sha256_of(path) == entry["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _note_of(self, name: str) -> Path:
        return self._notes / f"{name}.json"


def write_shards_by_jobs(
    source: RandomAccess,
    splits: Mapping[str, Sequence[int]],
    folder: Path,
    recipe: Recipe,
    *,
    work: Path,
    workers: Workers,
    facts: dict[str, Any],
) -> None:
    """What `write_shards` does, in the folder `work` first, which moves to `folder` when it is complete.

    After any end of the process the next call with the same `work` goes on from the shards that are whole; so its
    name has to tell parameters, data and code. `folder` is replaced in one go and is never half-written.
    """
    check_border(recipe.border, source.size)
    plan = list(_plan(splits, recipe))
    with _own_folder(work) as path:
        place = WorkFolder(path)
        whole = place.keep_whole(shard.name for shard in plan)
        jobs = (
            ShardJob(**vars(shard), reader=source.reader(_indices(shard)), recipe=recipe)
            for shard in plan
            if shard.name not in whole
        )
        finished = sum(len(shard.frames) for shard in plan if shard.name in whole)
        total = sum(len(shard.frames) for shard in plan)
        with progress_bar(total, "preprocess", "frame", initial=finished) as bar:

            def done(job: ShardJob) -> None:
                nonlocal finished
                finished += len(job.frames)

            def advance(unfinished: int) -> None:
                bar.update(finished + unfinished - bar.n)

            workers.do(jobs, place, done, advance)
            advance(0)
        write_index(
            place.shards,
            {split: [place.entry(shard.name) for shard in plan if shard.split == split] for split in SPLITS},
            {split: _contents(source, plan, split) for split in SPLITS},
            size=recipe.size,
            border=recipe.border,
            source_size=source.size,
            facts=facts,
        )
        _move(place.shards, folder)
        shutil.rmtree(path, ignore_errors=True)


def _plan(splits: Mapping[str, Sequence[int]], recipe: Recipe) -> Iterator[PlannedShard]:
    """What each shard holds, as `write_shards` fills them: by index, each training frame before its copies."""
    capacity = shard_capacity(recipe.size)
    for split in SPLITS:
        copies = recipe.copies if split == "train" and recipe.augmentation is not None else 0
        frames = ((index, copy) for index in sorted(splits[split]) for copy in range(copies + 1))
        for number in count():
            part = tuple(islice(frames, capacity))
            if not part:
                break
            yield PlannedShard(split, number, part)


def _indices(shard: PlannedShard) -> list[int]:
    """Of its frames in the source, each once."""
    return list(dict.fromkeys(index for index, _ in shard.frames))


def _contents(source: FrameSource, plan: Iterable[PlannedShard], split: str) -> Iterator[ShardFrame]:
    for shard in plan:
        if shard.split == split:
            for index, copy in shard.frames:
                yield ShardFrame(source.names[index], source.scenes[index], source.scene_types[index], copy)


@contextlib.contextmanager
def _own_folder(work: Path) -> Iterator[Path]:
    """`work`, or another that is deleted afterwards while another process has it."""
    with claimed(work) as is_mine:
        if is_mine:
            yield work
            return
        told = "warning: another process makes the same shards, so these are not kept to be gone on with"
        print(told, file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix=f"{work.name}-", dir=work.parent) as other:
            yield Path(other)


def _move(made: Path, folder: Path) -> None:
    """Put a complete set in the place of what is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        (folder / INDEX).unlink(missing_ok=True)  # a folder that has one is complete
        shutil.rmtree(folder)
    try:
        made.rename(folder)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # On another file system: a copy beside, and that is moved.
        coming = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
        try:
            shutil.copytree(made, coming)
            coming.rename(folder)
        finally:
            shutil.rmtree(coming, ignore_errors=True)
