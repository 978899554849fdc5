"""Batches of real shards: which frames, in which order, in which units."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.augment import Augmentation
from pipeline.data.batches import Batches
from pipeline.data.frames import Frames
from pipeline.data.shards import ShardSet, write_shards

FRAMES = 11
SIZE = (32, 40)
CPU = torch.device("cpu")


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
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("shards")
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
    return ShardSet(folder, "train")


def visited(batches: Batches, epoch: int) -> list[list[int]]:
    """Numbers of the frames in each batch, told by their depth."""
    return [(depth_m[:, 0, 0, 0].round().int() - 1).tolist() for _, depth_m in batches.epoch(epoch)]


@pytest.mark.parametrize("seed", [None, 0, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 11, 50])
def test_each_epoch_visits_each_frame_once(shards: ShardSet, seed: int | None, batch_size: int) -> None:
    batches = Batches(shards, batch_size, CPU, shuffle_seed=seed)
    for epoch in (1, 2):
        found = visited(batches, epoch)
        assert sorted(chain.from_iterable(found)) == list(range(FRAMES))
        assert len(found) == len(batches)
        assert [len(batch) for batch in found[:-1]] == [batch_size] * (len(found) - 1)
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
    batches = Batches(ShardSet(tmp_path, "val"), 4, CPU)
    assert (len(batches), batches.frames, list(batches.epoch())) == (0, 0, [])
