"""Batches of real shards: which frames, in which order, in which units."""

from __future__ import annotations

import sys
import threading
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.data import batches as batches_module
from pipeline.data import shards as shards_module
from pipeline.data.augment import Augmentation
from pipeline.data.batches import Batches, free_memory
from pipeline.data.frames import Frames
from pipeline.data.shards import ShardSet, write_shards
from pipeline.errors import PipelineError

FRAMES = 11
SIZE = (32, 40)
FRAME_BYTES = 32 * 40 * 5
CPU = torch.device("cpu")
DEVICES = [
    CPU,
    pytest.param(
        torch.device("cuda"), marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    ),
]
AUGMENTATION = Augmentation(flip=0.5, noise_std=0.1)


class NumberedFrames:
    """Frame k has RGB 20 k on its left half and 0 on its right, and a depth of k + 1 metres."""

    size = SIZE
    slab_frames = 4
    names = tuple(str(index) for index in range(FRAMES))
    scenes = names
    scene_types = names

    def __len__(self) -> int:
        return FRAMES

    def read(self, start: int, stop: int) -> Frames:
        numbers = np.arange(start, stop)
        rgb_u8 = np.zeros((len(numbers), *SIZE, 3), np.uint8)
        rgb_u8[:, :, :20] = 20 * numbers[:, None, None, None]
        depth_m = np.ones((len(numbers), *SIZE), np.float32) * (numbers[:, None, None] + 1)
        return Frames(rgb_u8, depth_m, depth_m)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of four, four and three frames."""
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(shards_module, "SHARD_BYTES", 5 * FRAME_BYTES)
        write_shards(
            NumberedFrames(),
            {"train": list(range(FRAMES)), "val": [], "test": []},
            folder,
            size=SIZE,
            border=0,
            augmentation=None,
            copies=0,
            seed=0,
            facts={},
        )
    return folder


@pytest.fixture
def shards(folder: Path) -> ShardSet:
    return ShardSet(folder, "train")


def visited(batches: Batches, epoch: int) -> list[list[int]]:
    """Numbers of the frames in each batch, told by their depth."""
    return [(depth_m[:, 0, 0, 0].round().int() - 1).tolist() for _, depth_m in batches.epoch(epoch)]


@pytest.mark.parametrize("resident", ["always", "never"])
@pytest.mark.parametrize("seed", [None, 0, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 11, 50])
def test_each_epoch_visits_each_frame_once(
    shards: ShardSet, seed: int | None, batch_size: int, resident: Any
) -> None:
    batches = Batches(shards, batch_size, CPU, shuffle_seed=seed, resident=resident)
    for epoch in (1, 2):
        found = visited(batches, epoch)
        assert sorted(chain.from_iterable(found)) == list(range(FRAMES))
        assert len(found) == len(batches)
        assert [len(batch) for batch in found[:-1]] == [batch_size] * (len(found) - 1)
        assert [len(batch) for batch in found] == [batches.size(step) for step in range(len(batches))]
    assert batches.frames == FRAMES


def test_without_a_seed_the_frames_come_in_their_order(shards: ShardSet) -> None:
    assert list(chain.from_iterable(visited(Batches(shards, 4, CPU), 3))) == list(range(FRAMES))


def test_the_order_depends_on_the_seed_and_the_epoch_and_nothing_else(shards: ShardSet) -> None:
    batches = Batches(shards, 3, CPU, shuffle_seed=1)
    third = visited(batches, 3)
    assert visited(batches, 4) != third
    torch.manual_seed(99)
    np.random.default_rng(99)
    assert visited(batches, 3) == third
    assert visited(Batches(shards, 3, CPU, shuffle_seed=1), 3) == third
    assert visited(Batches(shards, 3, CPU, shuffle_seed=2), 3) != third


def test_rgb_lies_in_0_to_1_and_depth_is_in_metres(shards: ShardSet) -> None:
    (rgb, depth_m), *rest = Batches(shards, FRAMES, CPU).epoch()
    assert not rest
    assert rgb.shape == (FRAMES, 3, *SIZE)
    assert depth_m.shape == (FRAMES, 1, *SIZE)
    assert (rgb.dtype, depth_m.dtype) == (torch.float32, torch.float32)
    numbers = np.arange(FRAMES, dtype=np.float64)
    np.testing.assert_allclose(rgb[:, 2, 5, 0].numpy(), 20 * numbers / 255, atol=1e-6)
    np.testing.assert_allclose(depth_m[:, 0, 5, 39].numpy(), numbers + 1, atol=1e-6)


def test_frames_are_augmented_only_when_they_are_shuffled(shards: ShardSet) -> None:
    augmentation = Augmentation(flip=1.0, noise_std=0.0)
    for seed, bright in ((None, slice(0, 20)), (0, slice(20, 40))):
        batches = Batches(shards, FRAMES, CPU, shuffle_seed=seed, augmentation=augmentation)
        ((rgb, depth_m),) = batches.epoch(1)
        number = depth_m[:, :, :1, :1] - 1
        torch.testing.assert_close(rgb[..., bright], (20 * number / 255).expand(-1, 3, 32, 20))
        rgb[..., bright] = 0
        assert not rgb.any()


def test_the_draws_of_augmentation_repeat_with_the_epoch_and_differ_between_epochs(shards: ShardSet) -> None:
    def noisy(seed: int, epoch: int) -> torch.Tensor:
        batches = Batches(shards, 4, CPU, shuffle_seed=seed, augmentation=Augmentation(flip=0.0, noise_std=0.1))
        rgb, depth_m = (torch.cat(parts) for parts in zip(*batches.epoch(epoch), strict=True))
        return rgb[depth_m[:, 0, 0, 0].argsort()]

    first = noisy(0, 1)
    assert torch.equal(noisy(0, 1), first)
    assert not torch.equal(noisy(0, 2), first)
    assert not torch.equal(noisy(1, 1), first)


def test_every_step_has_draws_of_its_own(shards: ShardSet) -> None:
    batches = Batches(shards, 1, CPU, shuffle_seed=0, augmentation=Augmentation(flip=0.0, noise_std=0.1))
    # Each frame is one colour on its left half, so what differs from pixel to pixel is noise.
    noise = torch.stack([rgb[0, :, :, :20].flatten() for rgb, depth_m in batches.epoch() if depth_m.mean() > 4])
    alike = torch.corrcoef(noise).fill_diagonal_(0)
    assert float(alike.abs().max()) < 0.1


Batch = tuple[Tensor, Tensor]


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    """To the bit, and on the same device."""
    for (rgb, depth_m), (expected_rgb, expected_depth_m) in zip(found, expected, strict=True):
        assert rgb.device == expected_rgb.device
        assert torch.equal(rgb, expected_rgb)
        assert torch.equal(depth_m, expected_depth_m)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("augmentation", [None, AUGMENTATION], ids=["clean", "augmented"])
@pytest.mark.parametrize("seed", [None, 3])
def test_batches_are_the_same_from_memory_and_from_the_shards(
    shards: ShardSet, device: torch.device, seed: int | None, augmentation: Augmentation | None
) -> None:
    kept, streamed = (
        Batches(shards, 4, device, shuffle_seed=seed, augmentation=augmentation, resident=resident)
        for resident in ("always", "never")
    )
    assert kept.resident
    assert not streamed.resident
    for epoch in (1, 2):
        assert_equal(list(streamed.epoch(epoch)), list(kept.epoch(epoch)))


@pytest.mark.parametrize("resident", ["always", "never"])
def test_an_epoch_that_begins_in_its_midst_goes_on_as_the_whole_one_does(shards: ShardSet, resident: Any) -> None:
    batches = Batches(shards, 3, CPU, shuffle_seed=1, augmentation=AUGMENTATION, resident=resident)
    whole = list(batches.epoch(2))
    assert len(whole) == 4
    for start in range(6):
        assert_equal(list(batches.epoch(2, start)), whole[start:])


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("resident", ["always", "never"])
@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("world", [2, 3, 5])
def test_the_parts_of_the_ranks_put_together_are_the_batches_of_one(
    shards: ShardSet, world: int, seed: int | None, resident: Any, device: torch.device
) -> None:
    options: dict[str, Any] = {"shuffle_seed": seed, "augmentation": AUGMENTATION, "resident": resident}
    alone = Batches(shards, 8, device, **options)
    ranks = [Batches(shards, 8, device, **options, rank=rank, world=world) for rank in range(world)]
    assert {len(rank) for rank in ranks} == {len(alone)}
    assert {rank.frames for rank in ranks} == {FRAMES}
    parts = [list(rank.epoch(1, start=0)) for rank in ranks]
    steps = list(zip(*parts, strict=True))
    together = [
        (torch.cat([rgb for rgb, _ in step]), torch.cat([depth_m for _, depth_m in step])) for step in steps
    ]
    assert_equal(together, list(alone.epoch(1)))
    for step in steps:
        sizes = [len(rgb) for rgb, _ in step]
        assert max(sizes) - min(sizes) <= 1
    assert_equal(list(ranks[-1].epoch(1, start=1)), parts[-1][1:])


@pytest.mark.parametrize("resident", ["always", "never"])
def test_a_rank_for_which_no_frame_of_the_last_batch_is_left_gets_an_empty_one(
    shards: ShardSet, resident: Any
) -> None:
    batches = Batches(shards, 10, CPU, shuffle_seed=0, augmentation=AUGMENTATION, resident=resident, world=4)
    rgb, depth_m = list(batches.epoch())[-1]
    assert rgb.shape == (0, 3, *SIZE)
    assert depth_m.shape == (0, 1, *SIZE)


@pytest.mark.parametrize(("spare", "world", "resident"), [(0, 1, True), (-1, 1, False), (0, 2, False)])
def test_auto_keeps_frames_that_fit_into_half_of_the_free_memory(
    shards: ShardSet, monkeypatch: pytest.MonkeyPatch, spare: int, world: int, resident: bool
) -> None:
    monkeypatch.setattr(batches_module, "free_memory", lambda _: 2 * FRAMES * FRAME_BYTES + spare)
    batches = Batches(shards, 4, CPU, world=world)
    assert sum(len(rgb) for rgb, _ in batches.epoch()) > 0
    assert batches.resident is resident


def test_frames_that_are_to_be_kept_and_do_not_fit_are_told_in_one_line(
    shards: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "free_memory", lambda _: FRAMES * FRAME_BYTES - 1)
    with pytest.raises(PipelineError, match=r"'train' frames take .* set train\.resident to auto") as caught:
        next(Batches(shards, 4, CPU, resident="always").epoch())
    assert "\n" not in str(caught.value)


def test_free_memory_is_told_without_psutil_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with_psutil = free_memory(CPU)
    monkeypatch.setitem(sys.modules, "psutil", None)
    without = free_memory(CPU)
    assert 2**20 < without <= 1.5 * with_psutil


class Reads:
    """A tensor of the shards that counts how often it was read, and fails at one of the times."""

    def __init__(self, tensor: Any, failing: int | None = None) -> None:
        self._tensor, self._failing = tensor, failing
        self.shape, self.dtype = tensor.shape, tensor.dtype
        self.count = 0

    def gather(self, *arguments: Any, **options: Any) -> Tensor:
        self.count += 1
        if self.count == self._failing:
            raise OSError("the disk is gone")
        found: Tensor = self._tensor.gather(*arguments, **options)
        return found


def test_an_error_while_reading_reaches_the_caller_after_the_batches_before_it(shards: ShardSet) -> None:
    shards.rgb_u8 = Reads(shards.rgb_u8, failing=3)  # type: ignore[assignment]
    got, threads = 0, threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        for _ in Batches(shards, 2, CPU, resident="never").epoch():
            got += 1
    assert got == 2
    assert threading.active_count() == threads


def test_an_epoch_that_is_left_reads_two_batches_ahead_at_most_and_leaves_no_thread(shards: ShardSet) -> None:
    shards.rgb_u8 = reads = Reads(shards.rgb_u8)  # type: ignore[assignment]
    threads = threading.active_count()
    epoch = Batches(shards, 1, CPU, resident="never").epoch()
    next(epoch)
    assert threading.active_count() == threads + 1
    epoch.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads
    assert reads.count <= 3


def test_an_epoch_that_the_caller_s_error_ends_leaves_no_thread(shards: ShardSet) -> None:
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        for _ in Batches(shards, 1, CPU, resident="never").epoch():
            raise ZeroDivisionError
    assert threading.active_count() == threads


def test_no_frames_make_no_batches(shards: ShardSet, tmp_path: Path) -> None:
    write_shards(
        NumberedFrames(),
        {"train": [0], "val": [], "test": []},
        tmp_path,
        size=SIZE,
        border=0,
        augmentation=None,
        copies=0,
        seed=0,
        facts={},
    )
    for resident in ("always", "never"):
        batches = Batches(ShardSet(tmp_path, "val"), 4, CPU, resident=resident)
        assert (len(batches), batches.frames, list(batches.epoch())) == (0, 0, [])
