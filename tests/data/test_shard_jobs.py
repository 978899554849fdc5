"""Shards made as jobs, against those that the streaming writer makes of the same frames."""

from __future__ import annotations

import json
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from pipeline.data import shards
from pipeline.data.augment import Augmentation
from pipeline.data.folder import FolderFrames, FolderReader
from pipeline.data.frames import Frames, FrameSource, RandomAccess
from pipeline.data.nyu import NyuFile
from pipeline.data.raw_sequences import RawSequences
from pipeline.data.shard_jobs import (
    Advance,
    Done,
    Recipe,
    ShardJob,
    Workers,
    WorkFolder,
    write_shards_by_jobs,
)
from pipeline.data.shards import ShardSet, verify_shards, write_shards
from pipeline.data.splits import use_every_frame
from pipeline.data.workers import LocalWorkers
from pipeline.errors import PipelineError
from tests.data.own_images import fetched, row_of, write_csv

FRAMES, HEIGHT, WIDTH = 30, 48, 64
RECIPE = Recipe(size=(32, 64), border=3, augmentation=Augmentation(0.5, 0.02), copies=2, seed=7)
FACTS = {"source": "folder", "trained_on": "official train split"}
FOUR_FRAMES = 4 * 32 * 64 * 5 + shards.HEADER_BYTES


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FolderFrames]:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    rows = []
    for index in range(FRAMES):
        rgb_u8 = random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        depth_mm = random.integers(0, 9000, (HEIGHT, WIDTH)).astype(np.uint16)
        Image.fromarray(rgb_u8).save(folder / f"{index}.png")
        Image.fromarray(depth_mm).save(folder / f"{index}_depth.png")
        rows.append(row_of(str(index), ["train", "train", "test", "val", "train"][index % 5], f"room_{index}"))
    with FolderFrames(fetched(write_csv(folder / "list.csv", *rows))) as frames:
        yield frames


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", FOUR_FRAMES)


class HereAtOnce:
    """Does the jobs in this process, until the one whose number is `ends_at`, where an interruption comes."""

    def __init__(self, ends_at: int = -1, ending: BaseException | None = None) -> None:
        self.names: list[str] = []
        self._ends_at, self._ending = ends_at, ending

    def do(self, jobs: Iterator[ShardJob], work: WorkFolder, done: Done, advance: Advance) -> None:
        for number, job in enumerate(jobs):
            if number == self._ends_at:
                assert self._ending is not None
                raise self._ending
            work.save(job, *job.tensors())
            self.names.append(job.name)
            done(job)


def write(source: FolderFrames, folder: Path, work: Path, workers: Workers, recipe: Recipe = RECIPE) -> None:
    write_shards_by_jobs(source, source.splits, folder, recipe, work=work, workers=workers, facts=FACTS)


def streamed(source: FrameSource, splits: dict[str, list[int]], folder: Path, recipe: Recipe) -> dict[str, bytes]:
    write_shards(source, splits, folder, **vars(recipe), facts=FACTS)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("workers", [LocalWorkers(1), LocalWorkers(3), HereAtOnce()], ids=["one", "three", "here"])
def test_bytes_and_index_are_those_of_the_streaming_writer_however_many_work(
    source: FolderFrames, tmp_path: Path, workers: Workers
) -> None:
    expected = streamed(source, source.splits, tmp_path / "streamed", RECIPE)
    write(source, tmp_path / "made", tmp_path / "work" / "key", workers)
    assert len(expected) == 14 + 2 + 2 + 1  # 18 frames with two copies each, 6 and 6, four to a shard
    assert contents(tmp_path / "made") == expected
    verify_shards(tmp_path / "made", ("train", "val", "test"))
    assert not (tmp_path / "work" / "key").exists()


@pytest.mark.parametrize(
    "recipe",
    [
        replace(RECIPE, copies=0),
        replace(RECIPE, augmentation=None),
        replace(RECIPE, border=0, size=(48, 64)),
        replace(RECIPE, copies=5),
    ],
)
def test_so_they_are_for_other_recipes(source: FolderFrames, tmp_path: Path, recipe: Recipe) -> None:
    expected = streamed(source, source.splits, tmp_path / "streamed", recipe)
    write(source, tmp_path / "made", tmp_path / "work", HereAtOnce(), recipe)
    assert contents(tmp_path / "made") == expected


def test_so_they_are_for_frames_in_two_splits_and_splits_in_any_order(source: FolderFrames, tmp_path: Path) -> None:
    splits = use_every_frame(source.splits)
    mixed = {split: indices[::-1] for split, indices in splits.items()}
    expected = streamed(source, splits, tmp_path / "streamed", RECIPE)
    write_shards_by_jobs(
        source, mixed, tmp_path / "made", RECIPE, work=tmp_path / "work", workers=HereAtOnce(), facts=FACTS
    )
    assert contents(tmp_path / "made") == expected


def test_work_goes_on_from_the_shards_that_are_whole(source: FolderFrames, tmp_path: Path) -> None:
    expected = streamed(source, source.splits, tmp_path / "streamed", RECIPE)
    first = HereAtOnce(5, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write(source, tmp_path / "made", tmp_path / "work", first)
    assert not (tmp_path / "made").exists()
    second = HereAtOnce()
    write(source, tmp_path / "made", tmp_path / "work", second)
    assert len(first.names) == 5
    assert sorted(first.names + second.names) == sorted(name for name in expected if name != "index.json")
    assert contents(tmp_path / "made") == expected


def flip_one_bit(shard: Path, note: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)


def cut(shard: Path, note: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-1])


def lose_note(shard: Path, note: Path) -> None:
    note.unlink()


def break_note(shard: Path, note: Path) -> None:
    note.write_text("[]", encoding="utf-8")


def lose_shard(shard: Path, note: Path) -> None:
    shard.unlink()


@pytest.mark.parametrize("damage", [flip_one_bit, cut, lose_note, break_note, lose_shard])
def test_a_shard_is_made_again_unless_it_is_whole(
    source: FolderFrames, tmp_path: Path, damage: Callable[[Path, Path], None]
) -> None:
    expected = streamed(source, source.splits, tmp_path / "streamed", RECIPE)
    with pytest.raises(KeyboardInterrupt):
        write(source, tmp_path / "made", tmp_path / "work", HereAtOnce(5, KeyboardInterrupt()))
    name = "train-00002.safetensors"
    damage(tmp_path / "work" / "shards" / name, tmp_path / "work" / "notes" / f"{name}.json")
    (tmp_path / "work" / "shards" / f".{name}.partial-1").write_bytes(b"what kill -9 left")
    (tmp_path / "work" / "shards" / "index.json").write_text("{}", encoding="utf-8")
    second = HereAtOnce()
    write(source, tmp_path / "made", tmp_path / "work", second)
    assert name in second.names
    assert not {f"train-{number:05d}.safetensors" for number in (0, 1, 3, 4)} & set(second.names)
    assert contents(tmp_path / "made") == expected


def test_a_full_disk_leaves_the_old_set_and_is_gone_on_from(source: FolderFrames, tmp_path: Path) -> None:
    expected = streamed(source, source.splits, tmp_path / "made", replace(RECIPE, copies=0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FOUR_FRAMES // 2, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(source, tmp_path / "made", tmp_path / "work", HereAtOnce())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert contents(tmp_path / "made") == expected
    write(source, tmp_path / "made", tmp_path / "work", HereAtOnce())
    assert contents(tmp_path / "made") == streamed(source, source.splits, tmp_path / "streamed", RECIPE)


def test_of_two_equal_works_at_a_time_the_second_has_a_folder_that_is_not_kept(
    source: FolderFrames, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Beside(HereAtOnce):
        def do(
            self, jobs: Iterator[ShardJob], work: WorkFolder, done: Callable[..., None], advance: Advance
        ) -> None:
            write(source, tmp_path / "second", tmp_path / "work" / "key", HereAtOnce())
            super().do(jobs, work, done, advance)

    write(source, tmp_path / "first", tmp_path / "work" / "key", Beside())
    assert "another process makes the same shards" in capsys.readouterr().err
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["key.lock"]


def test_a_bad_frame_is_named_with_its_line_and_the_other_shards_are_kept(
    source: FolderFrames, tmp_path: Path
) -> None:
    with FolderFrames(copy_of(source, tmp_path)) as broken:
        (tmp_path / "17_depth.png").write_bytes(b"gone bad since")
        with pytest.raises(PipelineError, match=r"list\.csv, line 19: .*17_depth\.png has changed since") as caught:
            write(broken, tmp_path / "made", tmp_path / "work", LocalWorkers(2))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()
    assert not list((tmp_path / "work" / "shards").glob(".*"))


def copy_of(source: FolderFrames, folder: Path) -> Path:
    for index in range(FRAMES):
        row = source.reader([index]).rows[index]
        for path in (row.rgb, row.depth):
            (folder / Path(path).name).write_bytes(Path(path).read_bytes())
    listed = folder / "list.csv"
    listed.write_bytes(Path(row.list).read_bytes())
    return fetched(listed)


class Killing(LocalWorkers):
    """Kills processes of the pool while they work, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__(2)
        self._times = times

    def do(self, jobs: Iterator[ShardJob], work: WorkFolder, done: Done, advance: Advance) -> None:
        def kill(frames: int) -> None:
            if self._times > 0 and any(workers_of_this_process()):
                self._times -= 1
                workers_of_this_process()[0].kill()
            advance(frames)

        super().do(jobs, work, done, kill)


def workers_of_this_process() -> list[psutil.Process]:
    """The children of the fork server, which has no other."""
    servers = [p for p in psutil.Process().children() if "forkserver" in " ".join(p.cmdline())]
    return [worker for server in servers for worker in server.children()]


class SlowFrames(FolderFrames):
    """A frame takes long enough for a process to be found at work."""

    def reader(self, indices: Sequence[int]) -> SlowReader:  # type: ignore[override]
        return SlowReader(super().reader(indices))


class SlowReader:
    def __init__(self, reader: FolderReader) -> None:
        self._reader = reader

    def read(self, index: int) -> Frames:
        time.sleep(0.05)
        return self._reader.read(index)


def test_a_process_that_is_killed_has_its_shard_made_again(
    source: FolderFrames, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = streamed(source, source.splits, tmp_path / "streamed", RECIPE)
    with SlowFrames(source._list_path) as slow:
        write(slow, tmp_path / "made", tmp_path / "work", Killing(1))
    shown = capfd.readouterr().err
    assert "a process ended before its time (killed, or memory is short); its shard is made again" in shown
    assert "Traceback" not in shown
    assert contents(tmp_path / "made") == expected


def test_a_shard_that_is_done_while_others_are_looked_at_is_no_dead_process(
    source: FolderFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow_wait(*arguments: Any) -> Any:
        answer = wait(*arguments)
        time.sleep(0.3)
        return answer

    monkeypatch.setattr("pipeline.data.workers.wait", slow_wait)
    write(source, tmp_path / "made", tmp_path / "work", LocalWorkers(3), replace(RECIPE, copies=0))
    assert "warning" not in capsys.readouterr().err


def test_processes_that_are_killed_again_and_again_end_in_one_line(source: FolderFrames, tmp_path: Path) -> None:
    with (
        SlowFrames(source._list_path) as slow,
        pytest.raises(
            PipelineError, match=r"a process ended before its time while \S+ was made, and again"
        ) as caught,
    ):
        write(slow, tmp_path / "made", tmp_path / "work", Killing(1000))
    assert "\n" not in str(caught.value)
    assert not workers_of_this_process()
    assert not (tmp_path / "made").exists()


def test_a_split_without_a_single_depth_is_refused(source: FolderFrames, tmp_path: Path) -> None:
    copy_of(source, tmp_path)
    for index in source.splits["test"]:
        Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(tmp_path / f"{index}_depth.png")
    with (
        FolderFrames(fetched(tmp_path / "list.csv")) as blind,
        pytest.raises(PipelineError, match="not one pixel of the test frames has a depth: "),
    ):
        write(blind, tmp_path / "made", tmp_path / "work", HereAtOnce())
    assert not (tmp_path / "made").exists()


def test_a_border_that_leaves_nothing_is_refused(source: FolderFrames, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"preprocess\.border is 24"):
        write(source, tmp_path / "made", tmp_path / "work", HereAtOnce(), replace(RECIPE, border=24))


def test_only_sources_of_single_files_are_made_into_jobs() -> None:
    assert issubclass(FolderFrames, RandomAccess) and issubclass(RawSequences, RandomAccess)
    assert not issubclass(NyuFile, RandomAccess)


def test_a_job_carries_no_more_than_its_frames_need(source: FolderFrames, tmp_path: Path) -> None:
    class Weighing(HereAtOnce):
        def do(
            self, jobs: Iterator[ShardJob], work: WorkFolder, done: Callable[..., None], advance: Advance
        ) -> None:
            def weighed() -> Iterator[ShardJob]:
                for job in jobs:
                    assert {index for index, _ in job.frames} == set(job.reader.rows)  # type: ignore[attr-defined]
                    yield job

            super().do(weighed(), work, done, advance)

    write(source, tmp_path / "made", tmp_path / "work", Weighing())
    assert len(ShardSet(tmp_path / "made", "train")) == 18 * 3
    index = json.loads((tmp_path / "made" / "index.json").read_text(encoding="utf-8"))
    assert index["splits"]["train"]["scenes"] == 18
