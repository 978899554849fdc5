"""The official labelled file of NYU Depth v2 and its splits, read and written.

MATLAB v7.3 is HDF5 with the axes reversed: (N, 3, W, H) images, (N, W, H) depths, strings as references to
columns of UTF-16 code units.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import h5py
import numpy as np
from scipy.io import loadmat, savemat

from pipeline.data.frames import Frames, check_splits
from pipeline.errors import PipelineError

HEIGHT, WIDTH = 480, 640
SLAB_FRAMES = 8
"""Frames read at once where a chunk spans fewer; 8 frames are 27 MB, enough to hide the cost of a call."""
MAX_SLAB_FRAMES = 64
"""A chunk may span the whole file; beyond 64 frames (216 MB) flat memory matters more than inflating once."""

_HEADER_TEXT_BYTES = 116
_HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Thu Jan  1 00:00:00 1970 HDF5 schema 1.00 ."
_SPLITS_HEADER = b"MATLAB 5.0 MAT-file, Platform: GLNXA64, Created on: Thu Jan  1 00:00:00 1970"


def frames_per_slab(chunk_frames: Sequence[int]) -> int:
    """How many frames to read at once, given how many a chunk of each chunked dataset spans.

    A multiple of all the spans, so that every chunk is inflated once, unless that exceeds `MAX_SLAB_FRAMES`.
    """
    span = math.lcm(*chunk_frames)  # 1 where every dataset is contiguous
    if span > MAX_SLAB_FRAMES:
        span = min(max(chunk_frames), MAX_SLAB_FRAMES)
    return span * max(1, SLAB_FRAMES // span)


class NyuFile:
    """Context manager over `nyu_depth_v2_labeled.mat` or any file of that layout.

    Raises `PipelineError` if the file is not HDF5, lacks a dataset or has one of another shape.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __enter__(self) -> Self:
        if not self.path.is_file():
            raise PipelineError(f"{self.path} does not exist; run the fetch stage first")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise PipelineError(f"{self.path} is not a readable MATLAB v7.3 (HDF5) file: {error}") from error
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise
        return self

    def _open(self) -> None:
        self._images = self._dataset("images", ndim=4, dtype=np.uint8)
        frames, channels, width, height = self._images.shape
        if channels != 3:
            raise PipelineError(f"{self.path}: images has {channels} channels instead of 3 (N, 3, W, H)")
        self._depths = self._dataset("depths", ndim=3, dtype=np.float32)
        # Only the official file has the sensor's own maps; a set without holes may leave them out.
        self._raw = self._dataset("rawDepths", ndim=3, dtype=np.float32) if "rawDepths" in self._file else None
        for name, dataset in (("depths", self._depths), ("rawDepths", self._raw)):
            if dataset is not None and dataset.shape != (frames, width, height):
                raise PipelineError(
                    f"{self.path}: {name} has shape {dataset.shape}, images needs {(frames, width, height)}"
                )
        self.size = (int(height), int(width))
        self.scenes = self._strings("scenes", frames)
        self.scene_types = (
            self._strings("sceneTypes", frames)
            if "sceneTypes" in self._file
            else [scene.rsplit("_", 1)[0] for scene in self.scenes]
        )
        self.names = [f"{index:05d}" for index in range(frames)]
        datasets = [dataset for dataset in (self._images, self._depths, self._raw) if dataset is not None]
        self.slab_frames = frames_per_slab([dataset.chunks[0] for dataset in datasets if dataset.chunks])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return int(self._images.shape[0])

    def read(self, start: int, stop: int) -> Frames:
        """Frames `start` to `stop` (exclusive)."""
        try:
            rgb_u8 = self._images[start:stop].transpose(0, 3, 2, 1)
            depth_m = self._depths[start:stop].transpose(0, 2, 1)
            raw_depth_m = depth_m if self._raw is None else self._raw[start:stop].transpose(0, 2, 1)
        except OSError as error:
            raise PipelineError(f"{self.path}: frames {start}..{stop - 1} cannot be read: {error}") from error
        return Frames(*(np.ascontiguousarray(array) for array in (rgb_u8, depth_m, raw_depth_m)))

    def _dataset(self, name: str, ndim: int, dtype: type) -> h5py.Dataset:
        found = self._file.get(name)
        if not isinstance(found, h5py.Dataset):
            raise PipelineError(f"{self.path} has no dataset '{name}'; is it the labelled NYU file?")
        if found.ndim != ndim or found.dtype != dtype:
            raise PipelineError(
                f"{self.path}: {name} is {found.ndim}-dimensional {found.dtype}, "
                f"expected {ndim}-dimensional {np.dtype(dtype)}"
            )
        return found

    def _strings(self, name: str, frames: int) -> list[str]:
        """A MATLAB cell array of char rows."""
        cell = self._file.get(name)
        if not isinstance(cell, h5py.Dataset) or h5py.check_ref_dtype(cell.dtype) is not h5py.Reference:
            raise PipelineError(f"{self.path} has no cell array of strings '{name}'")
        if cell.size != frames:
            raise PipelineError(f"{self.path}: {name} has {cell.size} entries for {frames} frames")
        try:
            characters = [self._file[reference][()] for reference in cell[()].ravel()]
            return [units.astype("<u2").tobytes().decode("utf-16-le") for units in characters]
        except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise PipelineError(f"{self.path}: {name} cannot be read as strings: {error}") from error


def read_splits(path: Path, frames: int) -> dict[str, list[int]]:
    """0-based frame indices of `train` and `test` from the official `splits.mat` (MAT v5, 1-based)."""
    try:
        content = loadmat(path)
        splits = {
            split: sorted(int(number) - 1 for number in content[f"{split}Ndxs"].ravel())
            for split in ("train", "test")
        }
    except Exception as error:  # scipy answers a damaged file with whatever breaks first, IndexError included
        raise PipelineError(f"{path} is no splits.mat with trainNdxs and testNdxs: {error}") from error
    check_splits(splits, frames, str(path))
    for split, indices in splits.items():
        if not indices:
            raise PipelineError(f"{path} names no {split} frames; training and testing need at least one each")
    return splits


def write_splits(path: Path, splits: dict[str, list[int]]) -> None:
    """Write 0-based `train` and `test` indices as the official `splits.mat`; equal splits, equal bytes."""
    savemat(
        path,
        {
            f"{split}Ndxs": np.array([index + 1 for index in splits[split]], np.uint16).reshape(-1, 1)
            for split in ("train", "test")
        },
    )
    with path.open("r+b") as handle:
        handle.write(_SPLITS_HEADER.ljust(_HEADER_TEXT_BYTES))  # scipy puts the time of day here


class PackedFrame(NamedTuple):
    """One frame as the three deflated HDF5 chunks that the file stores."""

    image: bytes
    depth: bytes
    raw_depth: bytes


def pack_frame(rgb_u8: np.ndarray, depth_m: np.ndarray, raw_depth_m: np.ndarray, level: int = 1) -> PackedFrame:
    """Deflate one (H, W, 3) image and its two (H, W) float32 depth maps.

    A free function of plain arrays, so that worker processes pack while one process writes.
    """
    return PackedFrame(
        zlib.compress(rgb_u8.transpose(2, 1, 0).tobytes(), level),
        zlib.compress(depth_m.T.astype(np.float32).tobytes(), level),
        zlib.compress(raw_depth_m.T.astype(np.float32).tobytes(), level),
    )


class NyuWriter:
    """Context manager that writes a file of the official layout frame by frame, one chunk a frame."""

    def __init__(self, path: Path, frames: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
        self._path = path
        self._frames = frames
        self._size = size
        self._scenes: list[str] = []
        self._scene_types: list[str] = []

    def __enter__(self) -> Self:
        height, width = self._size
        self._file = h5py.File(self._path, "w", userblock_size=512)
        self._file.create_group("#refs#")
        self._datasets = [
            self._create("images", (3, width, height), np.uint8, "uint8"),
            self._create("depths", (width, height), np.float32, "single"),
            self._create("rawDepths", (width, height), np.float32, "single"),
        ]
        return self

    def append(self, packed: PackedFrame, scene: str, scene_type: str) -> None:
        index = len(self._scenes)
        for dataset, chunk in zip(self._datasets, packed, strict=True):
            dataset.id.write_direct_chunk((index, *[0] * (dataset.ndim - 1)), chunk)
        self._scenes.append(scene)
        self._scene_types.append(scene_type)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._write_strings("scenes", self._scenes)
                self._write_strings("sceneTypes", self._scene_types)
        finally:
            self._file.close()
        if kind is None:
            with self._path.open("r+b") as handle:
                handle.write(_HEADER.ljust(_HEADER_TEXT_BYTES) + bytes(8) + b"\x00\x02IM")

    def _create(self, name: str, shape: tuple[int, ...], dtype: type, matlab_class: str) -> h5py.Dataset:
        dataset = self._file.create_dataset(
            name,
            (self._frames, *shape),
            dtype,
            chunks=(1, *shape),
            compression="gzip",
            compression_opts=1,
            track_times=False,  # time stamps would make two equal renderings different files
        )
        dataset.attrs["MATLAB_class"] = np.bytes_(matlab_class)
        return dataset

    def _write_strings(self, name: str, values: list[str]) -> None:
        cell = self._file.create_dataset(name, (1, len(values)), dtype=h5py.ref_dtype, track_times=False)
        cell.attrs["MATLAB_class"] = np.bytes_("cell")
        for column, value in enumerate(values):
            units = np.frombuffer(value.encode("utf-16-le"), np.uint16)[:, None]
            characters = self._file["#refs#"].create_dataset(f"{name}_{column}", data=units, track_times=False)
            characters.attrs["MATLAB_class"] = np.bytes_("char")
            cell[0, column] = characters.ref
