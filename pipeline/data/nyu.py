"""The official labelled file of NYU Depth v2 and its splits, read and written.

MATLAB v7.3 is HDF5 with the axes reversed: (N, 3, W, H) images, (N, W, H) depths, strings as references to
columns of UTF-16 code units.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import h5py
import numpy as np
from isal import isal_zlib
from scipy.io import savemat

from pipeline.data.chunks import UNREADABLE, ChunkedRows, UnreadableRows, finish
from pipeline.data.frames import MAX_DEPTH_M, Frames, check_scenes, check_splits, cores
from pipeline.data.mat5 import MOST_BYTES, Mat5Error, read_numbers
from pipeline.errors import PipelineError
from pipeline.files import regular_bytes

HEIGHT, WIDTH = 480, 640
FRAME_BYTES = 3 + 4 + 4
"""Of a pixel: image and two depth maps."""
SLAB_FRAMES = 8
"""Frames read at once where a chunk spans fewer; 8 frames are 27 MB, enough to hide the cost of a call."""
MAX_SLAB_FRAMES = 64
"""216 MB of NYU's. A chunk may span all; datasets with such chunks are unpacked once into a temporary file."""
MAX_SLAB_BYTES = MAX_SLAB_FRAMES * HEIGHT * WIDTH * FRAME_BYTES
"""Of larger frames fewer: 9 of 1080 x 1920."""
LONGEST_NAME = 1000
"""Characters of a scene's name. A damaged reference can lead to terabytes of them."""

_HEADER_TEXT_BYTES = 116
_HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Thu Jan  1 00:00:00 1970 HDF5 schema 1.00 ."
_SPLITS_HEADER = b"MATLAB 5.0 MAT-file, Platform: GLNXA64, Created on: Thu Jan  1 00:00:00 1970"


def frames_per_slab(chunk_frames: Sequence[int], size: tuple[int, int] = (HEIGHT, WIDTH)) -> int:
    """How many frames of (height, width) to read at once, given how many a chunk of each chunked dataset spans.

    A multiple of all the spans that a slab may hold (`MAX_SLAB_FRAMES`, `MAX_SLAB_BYTES`), so that every such chunk
    is inflated once, unless their least common multiple exceeds that: then of the greatest.
    """
    most = max(1, min(MAX_SLAB_FRAMES, MAX_SLAB_BYTES // (math.prod(size) * FRAME_BYTES)))
    spans = [span for span in chunk_frames if span <= most]
    common = math.lcm(*spans)  # 1 where there is none
    if common > most:
        common = max(spans)
    return common * max(1, min(SLAB_FRAMES, most) // common)


class NyuFile:
    """Context manager over `nyu_depth_v2_labeled.mat` or any file of that layout.

    raw_depth: False leaves `rawDepths` unread, for those who want no sensor's maps; they are then the filled ones,
        as in a file that has none.
    stored_order: True leaves the pixels in the file's order of axes. The arrays have the same shapes, but other
        strides: for those who make the frames smaller, which need not turn 16 times the pixels first.

    Reads may come from several threads. Raises `PipelineError` if the file is not HDF5, lacks a dataset or has one
    of another shape; when frames are read, if they are damaged or their depths no depths.
    """

    def __init__(self, path: str | Path, *, raw_depth: bool = True, stored_order: bool = False) -> None:
        self.path = Path(path)
        self._raw_wanted = raw_depth
        self._stored_order = stored_order

    def __enter__(self) -> Self:
        try:
            if not self.path.is_file():
                raise PipelineError(f"{self.path} does not exist; run the fetch stage first")
            instead = _kind_of(self.path)
        except OSError as error:
            raise PipelineError(f"{self.path} cannot be read: {error.strerror or error}") from error
        with self._told(f"{self.path} is not a readable MATLAB v7.3 (HDF5) file{instead}"):
            self._file = h5py.File(self.path, "r")
        self._pool = ThreadPoolExecutor(cores(), thread_name_prefix="chunks")
        try:
            with self._told(f"{self.path} cannot be read"):
                self._open()
        except BaseException:
            self._close()
            raise
        return self

    def _open(self) -> None:
        images = self._dataset("images", ndim=4, dtype=np.uint8)
        frames, channels, width, height = images.shape
        if channels != 3 or (width, height) == (HEIGHT, WIDTH):
            raise PipelineError(
                f"{self.path}: images has shape {images.shape} with {channels} channels, expected "
                "(frames, 3, width, height); its axes are not MATLAB's as HDF5 shows them"
            )
        if not images.size:
            raise PipelineError(f"{self.path}: images has shape {images.shape}, which holds no pixels")
        # Only the official file has the sensor's own maps; a set without holes may leave them out.
        names = ["depths", "rawDepths"] if self._raw_wanted and "rawDepths" in self._file else ["depths"]
        datasets = {"images": images} | {name: self._dataset(name, ndim=3, dtype=np.float32) for name in names}
        for name in names:
            self._check_depth_shape(name, datasets[name].shape, (frames, width, height))
        self.size = (int(height), int(width))
        self.scenes = self._strings("scenes", frames)
        self.scene_types = (
            self._strings("sceneTypes", frames)
            if "sceneTypes" in self._file
            else [scene.rsplit("_", 1)[0] for scene in self.scenes]
        )
        self.names = [f"{index:05d}" for index in range(frames)]
        spans = {name: dataset.chunks[0] for name, dataset in datasets.items() if dataset.chunks}
        self.slab_frames = frames_per_slab(list(spans.values()), self.size)
        with self._rows_told():
            self._rows = {
                name: ChunkedRows(dataset, self._pool, unpacked=self.slab_frames % spans.get(name, 1) != 0)
                for name, dataset in datasets.items()
            }

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        # What is on its way is done first: threads that read would wait for ever for what is cancelled.
        self._pool.shutdown()
        self._file.close()

    def __len__(self) -> int:
        return len(self.scenes)

    def read(self, start: int, stop: int) -> Frames:
        """Frames `start` to `stop` (exclusive)."""
        start, stop, _ = slice(start, stop).indices(len(self))
        count, (height, width) = max(0, stop - start), self.size
        rgb_u8 = self._empty((count, height, width, 3), np.uint8)
        maps = {name: self._empty((count, height, width), np.float32) for name in self._rows if name != "images"}
        work = []
        with self._rows_told():
            try:
                work += self._rows["images"].begin(start, stop, rgb_u8.transpose(0, 3, 2, 1))
                for name, depth_m in maps.items():
                    work += self._rows[name].begin(start, stop, depth_m.transpose(0, 2, 1))
            finally:
                finish(work)
        self._check_depths(start, maps["depths"])
        return Frames(rgb_u8, maps["depths"], maps.get("rawDepths", maps["depths"]))

    def _empty(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        if not self._stored_order:
            return np.empty(shape, dtype)
        return np.empty((shape[0], *reversed(shape[1:])), dtype).transpose(0, *range(len(shape) - 1, 0, -1))

    def _check_depths(self, start: int, depth_m: np.ndarray) -> None:
        """Depths are metres from 0 (missing) to `MAX_DEPTH_M`; anything else is no measurement, but a mistake."""
        for index, frame_m in enumerate(depth_m, start):
            least, greatest = frame_m.min(), frame_m.max()  # both NaN if a single depth is
            if not (least >= 0 and greatest <= MAX_DEPTH_M):
                wrong = frame_m[~((frame_m >= 0) & (frame_m <= MAX_DEPTH_M))]
                raise PipelineError(
                    f"{self.path}: depths, frame {index} (from 0): {wrong[0]:g} m is no depth, at {len(wrong)} of "
                    f"{frame_m.size} pixels something like it; depths are 0 (missing) to {MAX_DEPTH_M:g} m"
                )

    def _check_depth_shape(self, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if found == expected:
            return
        if found[1:] == expected[1:]:
            raise PipelineError(f"{self.path}: {name} has {found[0]} frames, images has {expected[0]}")
        turned = "; its axes are not MATLAB's as HDF5 shows them" if sorted(found) == sorted(expected) else ""
        raise PipelineError(f"{self.path}: {name} has shape {found}, images needs {expected}{turned}")

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn whatever a damaged file makes h5py raise into one line."""
        try:
            yield
        except PipelineError:
            raise
        except UNREADABLE as error:
            raise PipelineError(f"{what}: {error}") from error

    @contextlib.contextmanager
    def _rows_told(self) -> Iterator[None]:
        """Turn errors of the chunks into one line that names dataset and frames."""
        try:
            yield
        except UnreadableRows as error:
            frames = f"frames {error.start}..{error.stop - 1} (from 0)"
            raise PipelineError(f"{self.path}: {error.name}, {frames} cannot be read: {error}") from error

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
        with self._told(f"{self.path}: {name} cannot be read"):
            references = cell[()].ravel()
        strings = []
        for index, reference in enumerate(references):
            try:
                strings.append(self._string(reference))
            except UNREADABLE as error:
                where = f"{self.path}: {name}, frame {index} (from 0)"
                raise PipelineError(f"{where} cannot be read as a string: {error}") from error
        return strings

    def _string(self, reference: h5py.Reference) -> str:
        if not reference:
            raise ValueError("it refers to nothing")
        # h5py's own objects take three times as long, 0.3 s for the official file.
        characters = h5py.h5r.dereference(reference, self._file.id)
        # An empty string is stored as its two dimensions, of 64 bits.
        if characters.dtype.kind != "u" or characters.dtype.itemsize > 2:
            raise ValueError(f"it is empty or no text, but {characters.dtype}")
        if not 1 <= math.prod(characters.shape) <= LONGEST_NAME:
            raise ValueError(f"it has {math.prod(characters.shape)} characters")
        units = np.empty(characters.shape, characters.dtype)
        characters.read(h5py.h5s.ALL, h5py.h5s.ALL, units)
        return units.astype("<u2").tobytes().decode("utf-16-le")


def _kind_of(path: Path) -> str:
    """What the file is instead, where its beginning tells."""
    with path.open("rb") as file:
        beginning = file.read(512)
    if beginning.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return " but a web page, perhaps a server's error; download it again"
    if beginning.startswith(b"MATLAB 5.0"):
        return " but one of MATLAB v5; save it with -v7.3"
    return ""


def read_splits(path: Path, frames: int, scenes: Sequence[str] = ()) -> dict[str, list[int]]:
    """0-based frame indices of `train` and `test` from the official `splits.mat` (MAT v5, 1-based).

    With the frames' `scenes` none may be on both sides: its frames are near copies of each other.
    """
    names = {split: f"{split}Ndxs" for split in ("train", "test")}
    try:
        numbers = read_numbers(regular_bytes(path, MOST_BYTES + 1), names.values())
        if missing := [name for name in names.values() if name not in numbers]:
            raise Mat5Error(f"it has no numbers {missing[0]}")
    except (Mat5Error, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PipelineError(f"{path} is no splits.mat with trainNdxs and testNdxs: {reason}") from error
    splits = {split: _indices(numbers[name], f"{path}: {name}") for split, name in names.items()}
    check_splits(splits, frames, str(path))
    for split, indices in splits.items():
        if not indices:
            raise PipelineError(f"{path} names no {split} frames; training and testing need at least one each")
    if scenes:
        check_scenes(splits, scenes, str(path))
    return splits


def _indices(numbers: np.ndarray, where: str) -> list[int]:
    """Counted from 0, in ascending order, of numbers that are counted from 1."""
    whole = np.isfinite(numbers) & (np.trunc(numbers) == numbers)
    if not whole.all():
        raise PipelineError(f"{where} has the number {numbers[~whole][0]:g}, which is no frame's")
    return sorted(int(number) - 1 for number in numbers.flat)


def write_splits(path: Path, splits: dict[str, list[int]]) -> None:
    """Write 0-based `train` and `test` indices as the official `splits.mat`; equal splits, equal bytes."""
    numbers = {split: np.array([index + 1 for index in splits[split]], np.uint32) for split in ("train", "test")}
    greatest = max(array.max(initial=0) for array in numbers.values())
    dtype = np.uint16 if greatest <= 65_535 else np.uint32
    savemat(path, {f"{split}Ndxs": array.astype(dtype).reshape(-1, 1) for split, array in numbers.items()})
    with path.open("r+b") as handle:
        handle.write(_SPLITS_HEADER.ljust(_HEADER_TEXT_BYTES))  # scipy puts the time of day here


class PackedFrame(NamedTuple):
    """One frame as the three deflated HDF5 chunks that the file stores."""

    image: bytes
    depth: bytes
    raw_depth: bytes


def pack_frame(rgb_u8: np.ndarray, depth_m: np.ndarray, raw_depth_m: np.ndarray, level: int = 2) -> PackedFrame:
    """Deflate one (H, W, 3) image and its two (H, W) float32 depth maps.

    A free function of plain arrays, so that worker processes pack while one process writes. A rendered frame takes
    isal 9 ms and 1.36 MB at level 2, zlib 51 ms and 1.32 MB at level 1.
    """
    return PackedFrame(
        isal_zlib.compress(np.ascontiguousarray(rgb_u8.transpose(2, 1, 0)), level),
        isal_zlib.compress(np.ascontiguousarray(depth_m.T, np.float32), level),
        isal_zlib.compress(np.ascontiguousarray(raw_depth_m.T, np.float32), level),
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
                write_strings(self._file, "scenes", self._scenes)
                write_strings(self._file, "sceneTypes", self._scene_types)
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


def write_strings(file: h5py.File, name: str, values: Sequence[str]) -> None:
    """Write a MATLAB cell array of char rows."""
    cell = file.create_dataset(name, (1, len(values)), dtype=h5py.ref_dtype, track_times=False)
    cell.attrs["MATLAB_class"] = np.bytes_("cell")
    for column, value in enumerate(values):
        units = np.frombuffer(value.encode("utf-16-le"), np.uint16)[:, None]
        characters = file["#refs#"].create_dataset(f"{name}_{column}", data=units, track_times=False)
        characters.attrs["MATLAB_class"] = np.bytes_("char")
        cell[0, column] = characters.ref
