"""Shards written from frames and read back, against block means and hashes computed here."""

from __future__ import annotations

import hashlib
import json
import math
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from pipeline.data import shards
from pipeline.data.augment import Augmentation
from pipeline.data.frames import Frames
from pipeline.data.shards import ShardFrame, ShardSet, verify_shards, write_shards
from pipeline.data.splits import use_every_frame
from pipeline.errors import PipelineError

HEIGHT, WIDTH = 32, 40
SIZE = (16, 20)
FRAME_BYTES = 16 * 20 * 5
SPLITS = {"train": [0, 1, 2, 5], "val": [3], "test": [4, 6]}


class MemoryFrames:
    """Seven frames of seven scenes in memory; every sixth depth pixel is a hole."""

    size = (HEIGHT, WIDTH)
    slab_frames = 2
    names = tuple(f"frame{index}" for index in range(7))
    scenes = tuple(f"kitchen_{index:04d}" for index in range(7))
    scene_types = ("kitchen",) * 7

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.rgb_u8 = random.integers(0, 256, (7, HEIGHT, WIDTH, 3), np.uint8)
        self.depth_m = random.uniform(0.5, 10, (7, HEIGHT, WIDTH)).astype(np.float32)
        self.depth_m[random.random(self.depth_m.shape) < 1 / 6] = 0

    def __len__(self) -> int:
        return 7

    def read(self, start: int, stop: int) -> Frames:
        return Frames(self.rgb_u8[start:stop], self.depth_m[start:stop], self.depth_m[start:stop])


def write(folder: Path, source: MemoryFrames | None = None, **changes: Any) -> Path:
    options: dict[str, Any] = {
        "splits": SPLITS,
        "size": SIZE,
        "border": 0,
        "augmentation": None,
        "copies": 0,
        "seed": 3,
        "facts": {"trained_on": "official train split"},
    } | changes
    write_shards(source or MemoryFrames(), options.pop("splits"), folder, **options)
    return folder


def expected_rgb_u8(rgb_u8: np.ndarray) -> np.ndarray:
    """(n, 3, 16, 20): the rounded mean of each 2 x 2 block."""
    means = rgb_u8.astype(np.float64).reshape(-1, 16, 2, 20, 2, 3).mean(axis=(2, 4))
    return np.rint(means).transpose(0, 3, 1, 2)


def expected_depth_mm(depth_m: np.ndarray) -> np.ndarray:
    """(n, 1, 16, 20): the mean of what was measured in each block, where that is half of it or more."""
    blocks = depth_m.astype(np.float64).reshape(-1, 16, 2, 20, 2)
    measured = (blocks > 0).sum(axis=(2, 4))
    mean_m = blocks.sum(axis=(2, 4)) / np.maximum(measured, 1)
    return np.where(measured >= 2, np.rint(1000 * mean_m), 0)[:, None]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_shards_hold_the_resized_frames_of_their_split(tmp_path: Path, split: str) -> None:
    source = MemoryFrames()
    read = ShardSet(write(tmp_path, source), split)
    chosen = SPLITS[split]
    # Where a mean lies on half a step, float32 and float64 may round to either side.
    np.testing.assert_allclose(read.rgb_u8[:].numpy(), expected_rgb_u8(source.rgb_u8[chosen]), atol=1)
    assert np.mean(read.rgb_u8[:].numpy() != expected_rgb_u8(source.rgb_u8[chosen])) < 0.2
    np.testing.assert_allclose(read.depth_mm[:].numpy(), expected_depth_mm(source.depth_m[chosen]), atol=1)
    assert (read.rgb_u8[:].dtype, read.depth_mm[:].dtype) == (torch.uint8, torch.int16)
    assert [frame.frame for frame in read.frames] == [source.names[index] for index in chosen]
    assert [frame.scene for frame in read.frames] == [source.scenes[index] for index in chosen]
    assert len(read) == len(chosen)
    assert read.size == SIZE


def test_the_border_is_repeated_in_rgb_and_missing_in_depth(tmp_path: Path) -> None:
    source = MemoryFrames()
    read = ShardSet(write(tmp_path, source, border=4), "train")
    inside = source.rgb_u8[SPLITS["train"], 4:-4, 4:-4]
    filled = np.pad(inside, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="edge")
    np.testing.assert_allclose(read.rgb_u8[:].numpy(), expected_rgb_u8(filled), atol=1)
    depth_mm = read.depth_mm[:].numpy()
    assert not depth_mm[..., :2, :].any()
    assert not depth_mm[..., -2:].any()
    unbordered = expected_depth_mm(source.depth_m[SPLITS["train"]])[..., 2:-2, 2:-2]
    np.testing.assert_array_equal(depth_mm[..., 2:-2, 2:-2] > 0, unbordered > 0)


def test_depth_that_is_not_finite_is_missing_and_spoils_no_neighbour(tmp_path: Path) -> None:
    source, holed = MemoryFrames(), MemoryFrames()
    source.depth_m[0, :2, :2] = [[math.nan, 2], [math.inf, 2]]
    holed.depth_m[0, :2, :2] = [[0, 2], [0, 2]]
    first, second = (ShardSet(write(tmp_path / str(i), s), "train") for i, s in enumerate((source, holed)))
    assert torch.equal(first.depth_mm[0], second.depth_mm[0])
    assert int(first.depth_mm[0][0, 0, 0]) == 2000


def test_each_clean_training_frame_is_followed_by_its_copies(tmp_path: Path) -> None:
    write(tmp_path, augmentation=Augmentation(flip=0.5, noise_std=0.05), copies=2)
    frames = ShardSet(tmp_path, "train").frames
    assert frames == [
        ShardFrame(f"frame{index}", f"kitchen_{index:04d}", "kitchen", copy)
        for index in SPLITS["train"]
        for copy in (0, 1, 2)
    ]
    assert [frame.copy for frame in ShardSet(tmp_path, "val").frames] == [0]
    assert [frame.copy for frame in ShardSet(tmp_path, "test").frames] == [0, 0]


def test_a_flipped_copy_is_the_mirror_image_of_its_clean_frame(tmp_path: Path) -> None:
    write(tmp_path, augmentation=Augmentation(flip=1.0, noise_std=0.0), copies=1)
    read = ShardSet(tmp_path, "train")
    assert torch.equal(read.rgb_u8[1::2], read.rgb_u8[::2].flip(-1))
    assert torch.equal(read.depth_mm[1::2], read.depth_mm[::2].flip(-1))


def test_a_noisy_copy_keeps_its_depth_and_has_the_spread_that_was_asked_for(tmp_path: Path) -> None:
    source = MemoryFrames()
    source.rgb_u8 = np.full_like(source.rgb_u8, 128)
    write(tmp_path, source, augmentation=Augmentation(flip=0.0, noise_std=0.1), copies=1)
    read = ShardSet(tmp_path, "train")
    assert torch.equal(read.depth_mm[1::2], read.depth_mm[::2])
    noise = (read.rgb_u8[1::2].double() - read.rgb_u8[::2].double()) / 255
    assert float(noise.std()) == pytest.approx(0.1, rel=0.05)
    assert abs(float(noise.mean())) < 0.01


def test_a_zoomed_copy_has_depths_of_its_clean_frame_divided_by_one_factor(tmp_path: Path) -> None:
    source = MemoryFrames()
    source.depth_m = np.full_like(source.depth_m, 2.0)
    write(tmp_path, source, augmentation=Augmentation(0.0, 0.0, zoom=1.3), copies=1)
    for copy_mm in ShardSet(tmp_path, "train").depth_mm[1::2]:
        (depth_mm,) = copy_mm[copy_mm > 0].unique().tolist()
        assert 2000 / 1.3 - 1 <= depth_mm <= 2000 * 1.3 + 1
        assert depth_mm != 2000


def test_a_copy_does_not_depend_on_the_other_frames(tmp_path: Path) -> None:
    augmentation = Augmentation(flip=0.5, noise_std=0.05)
    write(tmp_path / "all", augmentation=augmentation, copies=2)
    write(
        tmp_path / "one",
        splits={"train": [5], "val": [], "test": [0]},
        augmentation=augmentation,
        copies=3,
    )
    together, alone = ShardSet(tmp_path / "all", "train"), ShardSet(tmp_path / "one", "train")
    assert [frame.frame for frame in together.frames[9:]] == ["frame5"] * 3
    assert torch.equal(together.rgb_u8[9:], alone.rgb_u8[:3])
    assert torch.equal(together.depth_mm[9:], alone.depth_mm[:3])


def test_copies_differ_from_each_other_and_with_the_seed(tmp_path: Path) -> None:
    augmentation = Augmentation(flip=0.0, noise_std=0.05)
    first, second = (
        ShardSet(write(tmp_path / str(seed), augmentation=augmentation, copies=2, seed=seed), "train")
        for seed in (0, 1)
    )
    assert not torch.equal(first.rgb_u8[1], first.rgb_u8[2])
    assert not torch.equal(first.rgb_u8[1], second.rgb_u8[1])
    assert torch.equal(first.rgb_u8[0], second.rgb_u8[0])


def test_training_on_every_frame_keeps_the_test_frames_for_testing_too(tmp_path: Path) -> None:
    write(tmp_path, splits=use_every_frame(SPLITS))
    train, val, test = (ShardSet(tmp_path, split) for split in ("train", "val", "test"))
    assert [frame.frame for frame in train.frames] == [f"frame{index}" for index in range(7)]
    assert len(val) == 0
    assert val.rgb_u8.shape == (0, 3, *SIZE)
    assert torch.equal(test.rgb_u8[:], train.rgb_u8[[4, 6]])


def test_a_small_limit_gives_several_shards_within_it_and_the_same_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ShardSet(write(tmp_path / "whole"), "train")
    limit = 3 * FRAME_BYTES
    monkeypatch.setattr(shards, "SHARD_BYTES", limit)
    parted = ShardSet(write(tmp_path / "parted"), "train")
    files = sorted((tmp_path / "parted").glob("train-*.safetensors"))
    assert [file.name for file in files] == ["train-00000.safetensors", "train-00001.safetensors"]
    assert all(file.stat().st_size <= limit for file in files)
    assert torch.equal(parted.rgb_u8[:], whole.rgb_u8[:])
    assert torch.equal(parted.depth_mm[:], whole.depth_mm[:])


def test_frames_that_cannot_be_read_leave_no_shard_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Damaged(MemoryFrames):
        def read(self, start: int, stop: int) -> Frames:
            if stop > 5:
                raise PipelineError("frame 5 is damaged")
            return super().read(start, stop)

    monkeypatch.setattr(shards, "SHARD_BYTES", FRAME_BYTES)
    with pytest.raises(PipelineError, match="frame 5 is damaged"):
        write(tmp_path, Damaged())
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_leaves_no_shard_behind(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * FRAME_BYTES, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_the_index_tells_size_and_hash_of_every_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 3 * FRAME_BYTES)
    write(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text(encoding="utf-8"))
    listed = [shard for split in index["splits"].values() for shard in split["shards"]]
    assert {shard["file"] for shard in listed} == {path.name for path in tmp_path.glob("*.safetensors")}
    for shard in listed:
        content = (tmp_path / shard["file"]).read_bytes()
        assert shard["bytes"] == len(content)
        assert shard["sha256"] == hashlib.sha256(content).hexdigest()
    assert {split: content["frames"] for split, content in index["splits"].items()} == {
        "train": 4,
        "val": 1,
        "test": 2,
    }
    assert index["trained_on"] == "official train split"
    assert (index["height"], index["width"], index["border"]) == (*SIZE, 0)


def test_the_fingerprint_changes_with_one_pixel_and_with_nothing_else(tmp_path: Path) -> None:
    def fingerprint(folder: str, source: MemoryFrames) -> str:
        return str(ShardSet(write(tmp_path / folder, source), "train").index["fingerprint"])

    other_rgb, other_depth = MemoryFrames(), MemoryFrames()
    other_rgb.rgb_u8[3, 10, 10, 0] ^= 64
    other_depth.depth_m[6, 10, 10] += 0.01
    first = fingerprint("first", MemoryFrames())
    assert fingerprint("again", MemoryFrames()) == first
    assert len({first, fingerprint("rgb", other_rgb), fingerprint("depth", other_depth)}) == 3


@pytest.fixture
def parted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardSet:
    """Seven training frames in shards of two, two, two and one."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 3 * FRAME_BYTES)
    return ShardSet(write(tmp_path, splits=use_every_frame(SPLITS)), "train")


def joined(tmp_path: Path, name: str) -> np.ndarray:
    """What lies in the training shards, read by the format's own reader."""
    return np.concatenate([load_file(path)[name] for path in sorted(tmp_path.glob("train-*"))])


@pytest.mark.parametrize(
    "key",
    [
        0,
        -1,
        6,
        slice(None),
        slice(1, 6, 2),
        slice(5, None, -2),
        slice(4, 2),
        [3, 3, 0, 6],
        [-1, 0, -7],
        [],
        torch.tensor([2, 5]),
        np.array([6, 1, 2]),
    ],
    ids=str,
)
def test_several_shards_are_indexed_as_their_concatenation(tmp_path: Path, parted: ShardSet, key: Any) -> None:
    # numpy indexes backwards, which torch does not
    numpy_key = np.array(key, int) if isinstance(key, list) else key
    np.testing.assert_array_equal(parted.rgb_u8[key].numpy(), joined(tmp_path, "rgb_u8")[numpy_key])
    np.testing.assert_array_equal(parted.depth_mm[key].numpy(), joined(tmp_path, "depth_mm")[numpy_key])


@pytest.mark.parametrize("key", [7, -8, [0, 7], [-8]], ids=str)
def test_an_index_outside_raises_instead_of_giving_another_frame(parted: ShardSet, key: Any) -> None:
    with pytest.raises(IndexError):
        parted.rgb_u8[key]


def test_what_was_read_can_be_written_to_and_the_shard_stays(parted: ShardSet) -> None:
    before = parted.rgb_u8[:].clone()
    parted.rgb_u8[:].zero_()
    parted.rgb_u8[2].zero_()
    assert torch.equal(parted.rgb_u8[:], before)


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="the kernel does not tell what is resident")
def test_frames_that_were_read_leave_nothing_of_their_files_in_memory(tmp_path: Path, parted: ShardSet) -> None:
    parted.rgb_u8[:], parted.depth_mm[:], parted.rgb_u8[4], parted.depth_mm[[0, 6]]
    assert resident_kb_of_maps(tmp_path) == [0, 0, 0, 0]


def resident_kb_of_maps(folder: Path) -> list[int]:
    """Of each file in the folder that this process maps, what of it counts as its memory."""
    found, inside = [], False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.split(" ", 1)[0]:
            inside = str(folder) in line
        elif inside and line.startswith("Rss:"):
            found.append(int(line.split()[1]))
    return found


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def drop_the_last_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip_one_bit, "another hash"),
        (drop_the_last_byte, r"\d+ bytes instead of \d+"),
        (lengthen, r"\d+ bytes instead of \d+"),
        (Path.unlink, "No such file"),
    ],
)
@pytest.mark.parametrize("name", ["train-00001", "val-00000"])
def test_verification_names_the_file_that_is_not_as_it_was_written(
    tmp_path: Path, parted: ShardSet, name: str, damage: Any, told: str
) -> None:
    write(tmp_path)
    damage(tmp_path / f"{name}.safetensors")
    with pytest.raises(PipelineError, match=rf"{name}\.safetensors is damaged \(.*{told}") as caught:
        verify_shards(tmp_path, ("train", "val"))
    assert "run `dvc repro --single-item --force preprocess`" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_verification_passes_over_whole_shards_and_over_splits_that_were_not_asked_for(tmp_path: Path) -> None:
    verify_shards(write(tmp_path), ("train", "val", "test"))
    flip_one_bit(tmp_path / "test-00000.safetensors")
    verify_shards(tmp_path, ("train", "val"))


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


def forget_depth(path: Path) -> None:
    save_file({"rgb_u8": load_file(path)["rgb_u8"]}, path)


@pytest.mark.parametrize("damage", [cut_in_half, empty, overwrite, forget_depth, Path.unlink])
def test_a_damaged_shard_is_named_in_one_line(tmp_path: Path, damage: Any) -> None:
    path = write(tmp_path) / "train-00000.safetensors"
    damage(path)
    with pytest.raises(PipelineError, match=r"train-00000\.safetensors is damaged.*preprocess") as caught:
        ShardSet(tmp_path, "train")
    assert "\n" not in str(caught.value)


def test_a_folder_without_index_asks_for_the_stage_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"index\.json does not exist; run the preprocess stage"):
        ShardSet(tmp_path, "train")


def test_an_index_that_is_no_json_is_named_in_one_line(tmp_path: Path) -> None:
    cut_in_half(write(tmp_path) / "index.json")
    with pytest.raises(PipelineError, match=r"index\.json is damaged") as caught:
        ShardSet(tmp_path, "train")
    assert "\n" not in str(caught.value)


def test_an_unknown_split_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no split 'validation'; it has train, val, test"):
        ShardSet(write(tmp_path), "validation")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_a_single_depth_is_refused_and_leaves_nothing(tmp_path: Path, split: str) -> None:
    source = MemoryFrames()
    source.depth_m[SPLITS[split][:-1]] = 0
    write(tmp_path / "one frame is enough", source)
    source.depth_m[SPLITS[split]] = 0
    with pytest.raises(PipelineError, match=f"not one pixel of the {split} frames has a depth: ") as caught:
        write(tmp_path / "shards", source)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "shards").iterdir())
