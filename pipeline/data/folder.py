"""RGB-D frames of one's own: an image and a depth image a frame, in the list that the fetch stage wrote."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from PIL import Image

from pipeline.data.frames import MAX_DEPTH_M, Frames, RandomAccess
from pipeline.errors import PipelineError
from pipeline.files import regular_bytes

SPLITS = ("train", "val", "test")


class FolderRow(NamedTuple):
    """One frame of the written list. Its fields are the columns."""

    # Text, not `Path`, of which 100,000 would take 60 MB.
    rgb: str
    """absolute path"""
    depth: str
    """absolute path"""
    split: str
    scene: str
    scene_type: str
    depth_scale: float
    """units of the depth image per metre"""
    list: str
    """the user's list, for error messages"""
    line: int
    """its line there, counted from 1 as editors do"""
    sha256: str
    """of both files, as `hash_of` makes it"""


class FolderFrames(RandomAccess):
    """Context manager over the frames of a list that the fetch stage wrote. 0 in a depth image is missing."""

    def __init__(self, list_path: Path) -> None:
        self._list_path = list_path

    def __enter__(self) -> Self:
        self._rows = list(_rows(self._list_path))
        if not self._rows:
            raise PipelineError(f"{self._list_path} lists no frames; run the fetch stage again")
        self.scenes = [row.scene for row in self._rows]
        self.scene_types = [row.scene_type for row in self._rows]
        root = os.path.commonpath([os.path.dirname(row.rgb) for row in self._rows])  # noqa: PTH120
        self.names = [os.path.relpath(row.rgb, root) for row in self._rows]
        self.splits = {
            split: [index for index, row in enumerate(self._rows) if row.split == split] for split in SPLITS
        }
        first = self._rows[0]
        with told_with_line(first), opened_image(first.rgb, read_bytes(first.rgb)) as image:
            self.size = (image.height, image.width)
        return self

    def reader(self, indices: Sequence[int]) -> FolderReader:
        return FolderReader({index: self._rows[index] for index in indices}, self.size)


@dataclass(frozen=True)
class FolderReader:
    """Decodes some of the frames, wherever the images can be reached; a `FrameReader`."""

    rows: dict[int, FolderRow]
    """by index of the frame"""
    size: tuple[int, int]
    """(height, width) that all must have"""

    def read(self, index: int) -> Frames:
        """One frame. Raises `PipelineError` with the list's line if it is not as the fetch stage found it."""
        row = self.rows[index]
        with told_with_line(row):
            rgb, depth = read_bytes(row.rgb), read_bytes(row.depth)
            # A tenth of what decoding takes; shards that were left off and gone on with are of one set of images.
            if hash_of(rgb, depth) != row.sha256:
                raise PipelineError(f"{row.rgb} or {row.depth} has changed since; run the fetch stage again")
            with opened_image(row.rgb, rgb) as image:
                rgb_u8 = np.array(image.convert("RGB"))
            with opened_image(row.depth, depth) as image:
                units = np.array(image)
            for path, pixels in ((row.rgb, rgb_u8), (row.depth, units)):
                if pixels.shape[:2] != self.size:
                    raise PipelineError(f"{path} is {pixels.shape[:2]} pixels, the first frame {self.size}")
            depth_m = (units.astype(np.float32) / np.float32(row.depth_scale))[None]
            if (greatest_m := depth_m.max()) > MAX_DEPTH_M:
                raise PipelineError(
                    f"{row.depth} has a depth of {greatest_m:g} m, and {MAX_DEPTH_M:g} m is the most; is "
                    f"fetch.folder.depth_scale right ({row.depth_scale:g} to the metre)?"
                )
        return Frames(rgb_u8[None], depth_m, depth_m)


def write_rows(rows: Sequence[FolderRow], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(FolderRow._fields)
        writer.writerows(rows)


def _rows(path: Path) -> Iterator[FolderRow]:
    if not path.is_file():
        raise PipelineError(f"{path} does not exist; run the fetch stage first")
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            reader = csv.reader(handle)
            if next(reader, None) != list(FolderRow._fields):
                raise ValueError("its columns are others")
            for rgb, depth, split, scene, kind, scale, listed, line, sha256 in reader:
                split, scene, kind, listed = (sys.intern(text) for text in (split, scene, kind, listed))
                yield FolderRow(rgb, depth, split, scene, kind, float(scale), listed, int(line), sha256)
    except (ValueError, csv.Error) as error:
        raise PipelineError(f"{path} is damaged ({error}); run the fetch stage again") from error


@contextlib.contextmanager
def told_with_line(row: FolderRow) -> Iterator[None]:
    """What is wrong with a frame is told with its line in the user's list."""
    try:
        yield
    except PipelineError as error:
        raise PipelineError(f"{row.list}, line {row.line}: {error}") from error


def hash_of(rgb: bytes, depth: bytes) -> str:
    """One hash of a frame's two files."""
    both = hashlib.sha256(rgb).hexdigest() + hashlib.sha256(depth).hexdigest()
    return hashlib.sha256(both.encode()).hexdigest()


def read_bytes(path: str) -> bytes:
    try:
        return regular_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        raise PipelineError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise PipelineError(f"{path} cannot be read: {reason}") from error


@contextlib.contextmanager
def opened_image(path: str, content: bytes) -> Iterator[Image.Image]:
    """Pillow's image, with everything that it raises on a damaged file as a `PipelineError`."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            yield image
    except (PipelineError, MemoryError):
        raise
    except Exception as error:  # its readers of damaged files raise nearly anything
        reason = "it is no image" if isinstance(error, Image.UnidentifiedImageError) else error
        raise PipelineError(f"{path} cannot be read as an image: {reason}") from error
