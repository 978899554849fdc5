"""Training frames as tensor shards: `{split}-NNNNN.safetensors` and `index.json` in one folder.

A shard holds `rgb_u8` (n, 3, H, W) uint8 and `depth_mm` (n, 1, H, W) int16 millimetres, 0 = missing. The index
names every frame with its scene and copy, and every shard with its size and hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.data.augment import Augmentation, seed_from
from pipeline.data.frames import Frames, FrameSource, map_slabs
from pipeline.data.pixels import from_millimetres, to_millimetres, to_u8, training_depth, training_rgb
from pipeline.errors import PipelineError
from pipeline.files import read_json, sha256_of, write_json, written_whole
from pipeline.progress import progress_bar

SHARD_BYTES = 16 * 2**20
"""Limit of a shard's size. Three shards, one a split, are buffered at a time, which bounds the memory."""
HEADER_BYTES = 1024
"""More than a shard's header of two tensors takes."""
SPLITS = ("train", "val", "test")
INDEX = "index.json"


@dataclass(frozen=True)
class ShardFrame:
    """One frame of a shard and where it came from."""

    frame: str
    scene: str
    scene_type: str
    copy: int
    """0 for the clean frame, 1 and up for its augmented copies"""


def shard_capacity(size: tuple[int, int]) -> int:
    """How many frames of (height, width) a shard holds."""
    height, width = size
    return max(1, (SHARD_BYTES - HEADER_BYTES) // (height * width * 5))


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.safetensors"


def save_shard(path: Path, rgb_u8: Tensor, depth_mm: Tensor) -> dict[str, Any]:
    """Write a shard; return its entry in the index."""
    with written_whole(path) as partial:
        save_file({"rgb_u8": rgb_u8, "depth_mm": depth_mm}, partial)
    return shard_entry(path, len(rgb_u8))


def shard_entry(path: Path, frames: int) -> dict[str, Any]:
    return {"file": path.name, "frames": frames, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


class _SplitWriter:
    """Collects the frames of one split and writes a shard whenever the next frame would exceed the limit."""

    def __init__(self, folder: Path, split: str, size: tuple[int, int]) -> None:
        height, width = size
        self._folder, self._split = folder, split
        capacity = shard_capacity(size)
        self._rgb_u8 = torch.empty((capacity, 3, height, width), dtype=torch.uint8)
        self._depth_mm = torch.empty((capacity, 1, height, width), dtype=torch.int16)
        self._filled = 0
        self.frames: list[ShardFrame] = []
        self.shards: list[dict[str, Any]] = []

    def add(self, rgb_u8: Tensor, depth_mm: Tensor, frame: ShardFrame) -> None:
        if self._filled == len(self._rgb_u8):
            self.flush()
        self._rgb_u8[self._filled] = rgb_u8
        self._depth_mm[self._filled] = depth_mm
        self._filled += 1
        self.frames.append(frame)

    def flush(self) -> None:
        if self._filled == 0:
            return
        path = self._folder / shard_name(self._split, len(self.shards))
        self.shards.append(save_shard(path, self._rgb_u8[: self._filled], self._depth_mm[: self._filled]))
        self._filled = 0


def write_shards(
    source: FrameSource,
    splits: dict[str, list[int]],
    folder: Path,
    *,
    size: tuple[int, int],
    border: int,
    augmentation: Augmentation | None,
    copies: int,
    seed: int,
    facts: dict[str, Any],
) -> None:
    """Resize the frames of `source`, augment those of the train split, and write shards and index.

    `size` is (height, width); `border` pixels at each edge are kept out of training. Each training frame is
    followed by `copies` copies made by `augmentation`, drawn from `seed`, frame and copy alone, so that a copy does
    not depend on what else is written. `facts` are added to the index. The index is written last: a folder
    that has one is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    check_border(border, source.size)
    # A frame can belong to two splits: when every frame is trained on, the test frames are too.
    memberships: dict[int, list[str]] = {}
    for split in SPLITS:
        for index in splits[split]:
            memberships.setdefault(index, []).append(split)
    writers = {split: _SplitWriter(folder, split, size) for split in SPLITS}

    def prepare(indices: list[int], frames: Frames) -> list[tuple[int, list[tuple[Tensor, Tensor]]]]:
        """Each frame's index, and what becomes of it: the clean frame, then its copies."""
        torch.set_num_threads(1)  # of this thread, one of as many as there are cores
        rgb, depth_mm = _training_tensors(frames, size, border)
        copied = [augmentation is not None and "train" in memberships[index] for index in indices]
        return [
            (
                index,
                list(_stored(rgb[[at]], depth_mm[[at]], range(1 + copies * copied[at]), augmentation, seed, index)),
            )
            for at, index in enumerate(indices)
        ]

    # As much as a shard may wait while one is written.
    slab_bytes = source.slab_frames * math.prod(size) * 5 * (1 + copies)
    with _nothing_partial(folder), progress_bar(len(memberships), "preprocess", "frame") as progress:
        for slab in map_slabs(source, memberships, prepare, ahead=max(1, SHARD_BYTES // slab_bytes)):
            for index, variants in slab:
                name, scene, kind = source.names[index], source.scenes[index], source.scene_types[index]
                for split in memberships[index]:
                    for copy, (rgb_u8, depth_mm) in enumerate(variants if split == "train" else variants[:1]):
                        writers[split].add(rgb_u8, depth_mm, ShardFrame(name, scene, kind, copy))
            progress.update(len(slab))
        for writer in writers.values():
            writer.flush()
        write_index(
            folder,
            {split: writer.shards for split, writer in writers.items()},
            {split: writer.frames for split, writer in writers.items()},
            size=size,
            border=border,
            source_size=source.size,
            facts=facts,
        )


def check_border(border: int, source_size: tuple[int, int]) -> None:
    if 2 * border >= min(source_size):
        raise PipelineError(
            f"preprocess.border is {border}, which leaves nothing of frames of {source_size} pixels"
        )


def write_index(
    folder: Path,
    shards: Mapping[str, list[dict[str, Any]]],
    frames: Mapping[str, Iterable[ShardFrame]],
    *,
    size: tuple[int, int],
    border: int,
    source_size: tuple[int, int],
    facts: dict[str, Any],
) -> None:
    """Write the index of a set of shards; shards and frames by split, in their order.

    Raises `PipelineError` if there is nothing to learn from, or nothing to measure with: a split without any depth.
    """
    for split in SPLITS:
        files = [folder / shard["file"] for shard in shards[split]]
        if files and not any(map(_has_depth, files)):
            raise PipelineError(
                f"not one pixel of the {split} frames has a depth: all are missing (0), lie in preprocess.border, "
                "or have another unit than fetch.folder.depth_scale tells"
            )
    height, width = size
    contents = {split: [asdict(frame) for frame in frames[split]] for split in SPLITS}
    write_json(
        folder / INDEX,
        {
            **facts,
            "height": height,
            "width": width,
            "border": math.ceil(max(border * new / old for new, old in zip(size, source_size, strict=True))),
            "fingerprint": _fingerprint(shard for split in SPLITS for shard in shards[split]),
            "splits": {
                split: {
                    "frames": len(contents[split]),
                    "scenes": len({frame["scene"] for frame in contents[split]}),
                    "shards": shards[split],
                    "contents": contents[split],
                }
                for split in SPLITS
            },
        },
    )


def _has_depth(shard: Path) -> bool:
    """Whether a single pixel of it is measured. Nearly always the first frame tells."""
    with safe_open(shard, "np") as file:
        depth_mm = file.get_slice("depth_mm")
        return any(depth_mm[index].any() for index in range(depth_mm.get_shape()[0]))


@contextlib.contextmanager
def _nothing_partial(folder: Path) -> Iterator[None]:
    """Remove the shards from `folder` if the block fails: without an index they are of no use to anyone."""
    try:
        yield
    except BaseException:
        for split in SPLITS:
            for path in folder.glob(f"{split}-*.safetensors"):
                path.unlink()
        raise


def frame_copies(
    frame: Frames,
    index: int,
    copies: Iterable[int],
    *,
    size: tuple[int, int],
    border: int,
    augmentation: Augmentation | None,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(3, h, w) uint8 and (1, h, w) int16 mm of some copies of one frame, whose number in the source is `index`."""
    yield from _stored(*_training_tensors(frame, size, border), copies, augmentation, seed, index)


def _stored(
    rgb: Tensor, depth_mm: Tensor, copies: Iterable[int], augmentation: Augmentation | None, seed: int, index: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(3, h, w) uint8 and (1, h, w) int16 mm of a frame's copies, drawn from seed, frame and copy alone.

    `rgb` (1, 3, h, w) in [0, 1] and `depth_mm` (1, 1, h, w) are the frame; copy 0 is itself.
    """
    for copy in copies:
        if copy == 0:
            yield to_u8(rgb[0]), depth_mm[0]
        else:
            assert augmentation is not None
            generator = torch.Generator().manual_seed(seed_from(seed, index, copy))
            copy_rgb, copy_m = augmentation(rgb, from_millimetres(depth_mm), generator)
            yield to_u8(copy_rgb[0]), to_millimetres(copy_m[0])


def _training_tensors(frames: Frames, size: tuple[int, int], border: int) -> tuple[Tensor, Tensor]:
    """RGB (n, 3, h, w) in [0, 1] and int16 millimetres (n, 1, h, w) of frames at their own resolution."""
    return training_rgb(frames.rgb_u8, size, border), to_millimetres(training_depth(frames.depth_m, size, border))


def _fingerprint(shards: Iterable[dict[str, Any]]) -> str:
    """One hash that changes with any pixel or depth of the data."""
    return hashlib.sha256("".join(shard["sha256"] for shard in shards).encode()).hexdigest()


class ShardTensor:
    """A tensor that lies in several mapped shards, as one along the first axis, without joining them in memory.

    Indexing with an integer, a slice or a 1-D tensor or array of indices gives an ordinary tensor.
    """

    def __init__(self, parts: Sequence[_MappedArray], shape: Sequence[int], dtype: torch.dtype) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part.array) for part in parts)])
        self.shape = torch.Size((int(self._starts[-1]), *shape))
        self.dtype = dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice | Tensor | np.ndarray | Sequence[int]) -> Tensor:
        if isinstance(key, int):
            return self[[range(len(self))[key]]][0]
        return self.gather(key)

    def gather(self, key: slice | Tensor | np.ndarray | Sequence[int], *, pinned: bool = False) -> Tensor:
        """What indexing with `key` gives; `pinned` in memory from which a GPU copies without the processor."""
        # Through arange: negative indices count from the end, and those outside raise.
        indices = np.arange(len(self))[key if isinstance(key, slice) else np.asarray(key, dtype=np.int64)]
        gathered = torch.empty((len(indices), *self.shape[1:]), dtype=self.dtype, pin_memory=pinned)
        frames = gathered.numpy()
        owner = np.searchsorted(self._starts, indices, side="right") - 1
        for position, (index, part) in enumerate(zip(indices, owner, strict=True)):
            frames[position] = self._parts[part].array[index - self._starts[part]]
            # After each: the kernel may map 2 MB around every frame, 60 MB for a batch.
            self._parts[part].forget_pages()
        return gathered


class ShardSet:
    """The memory-mapped shards of one split.

    `rgb_u8` (N, 3, H, W) uint8 and `depth_mm` (N, 1, H, W) int16 read from disk what is indexed, and keep nothing
    of it in memory; `frames` tells where each came from. Raises `PipelineError` if the folder holds no complete
    set of shards.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        folder = Path(folder)
        self.index = read_index(folder)
        content = _content_of(self.index, folder, split)
        self.split = split
        self.size: tuple[int, int] = (self.index["height"], self.index["width"])
        self.frames = [ShardFrame(**frame) for frame in content["contents"]]
        parts = [_map_shard(folder / shard["file"]) for shard in content["shards"]]
        self.rgb_u8 = ShardTensor([rgb for rgb, _ in parts], (3, *self.size), torch.uint8)
        self.depth_mm = ShardTensor([depth for _, depth in parts], (1, *self.size), torch.int16)

    def __len__(self) -> int:
        return len(self.frames)


def read_index(folder: Path) -> dict[str, Any]:
    """The content of the folder's index."""
    if not (folder / INDEX).is_file():
        raise PipelineError(f"{folder / INDEX} does not exist; run the preprocess stage first")
    index: dict[str, Any] = read_json(folder / INDEX)
    return index


def verify_shards(folder: str | Path, splits: Iterable[str]) -> None:
    """Read every byte of the splits' shards and compare size and hash with the index.

    Raises `PipelineError` naming the first file that is missing or not as it was written.
    """
    folder = Path(folder)
    index = read_index(folder)
    shards = [shard for split in splits for shard in _content_of(index, folder, split)["shards"]]
    with ThreadPoolExecutor() as pool:
        for shard, fault in zip(shards, pool.map(lambda shard: _fault_of(shard, folder), shards), strict=True):
            if fault:
                raise _damaged(folder / shard["file"], fault)


def _fault_of(shard: dict[str, Any], folder: Path) -> str:
    """What is wrong with the shard's file; empty if nothing."""
    path = folder / shard["file"]
    try:
        size = path.stat().st_size
        if size != shard["bytes"]:
            return f"{size} bytes instead of {shard['bytes']}"
        return "" if sha256_of(path) == shard["sha256"] else f"its content has another hash than in {INDEX}"
    except OSError as error:
        return error.strerror or str(error)


def _content_of(index: dict[str, Any], folder: Path, split: str) -> dict[str, Any]:
    if split not in index["splits"]:
        raise PipelineError(f"{folder / INDEX} has no split '{split}'; it has {', '.join(SPLITS)}")
    content: dict[str, Any] = index["splits"][split]
    return content


def _damaged(path: Path, fault: object) -> PipelineError:
    return PipelineError(f"{path} is damaged ({fault}); run `dvc repro --single-item --force preprocess`")


@dataclass(frozen=True)
class _MappedArray:
    """An array in a mapped file."""

    array: np.ndarray
    file: mmap.mmap

    def forget_pages(self) -> None:
        """Take the file's pages out of this process's resident set. They stay in the system's cache."""
        self.file.madvise(mmap.MADV_DONTNEED)


def _map_shard(path: Path) -> tuple[_MappedArray, _MappedArray]:
    """`rgb_u8` and `depth_mm` of a shard.

    The format's own reader checks the header against the file; but its map keeps every page that was ever read in
    the resident set.
    """
    try:
        with safe_open(path, framework="np") as shard:
            for name in ("rgb_u8", "depth_mm"):
                shard.get_slice(name)
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes))
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error

    def array(name: str, dtype: type[np.generic]) -> _MappedArray:
        shape, (start, _) = header[name]["shape"], header[name]["data_offsets"]
        flat = np.frombuffer(mapped, dtype, math.prod(shape), 8 + header_bytes + start)
        return _MappedArray(flat.reshape(shape), mapped)

    return array("rgb_u8", np.uint8), array("depth_mm", np.int16)
