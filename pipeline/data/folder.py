"""RGB-D frames of one's own: an image and a 16-bit depth PNG a frame, listed in a CSV."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from PIL import Image
from tqdm import tqdm

from pipeline.data.frames import Frames
from pipeline.errors import PipelineError
from pipeline.files import sha256_of, written_whole

SPLITS = ("train", "val", "test")
REQUIRED_COLUMNS = ("rgb", "depth", "split", "scene")
OPTIONAL_COLUMNS = ("scene_type", "sha256")


class FolderRow(NamedTuple):
    """One frame of the list."""

    line: int
    """Line of the CSV on which it stands, counted from 1 as editors do"""
    rgb: Path
    depth: Path
    split: str
    scene: str
    scene_type: str


class _Problem(NamedTuple):
    line: int
    text: str


def check_folder(csv_path: Path) -> list[FolderRow]:
    """The rows of a list whose every image has been looked at.

    Raises one `PipelineError` that names the line, the file and what is wrong for the first problem, and
    says how many more there are.
    """
    rows, problems = _parse(csv_path)
    problems += [*_image_problems(rows), *_list_problems(rows)]
    _refuse(csv_path, problems)
    for split in ("train", "test"):
        if not any(row.split == split for row in rows):
            raise PipelineError(f"{csv_path} has no {split} rows; train and test need at least one frame each")
    return rows


def write_list(csv_path: Path, target: Path) -> None:
    """Check a list and write it to `target` with absolute paths and a hash of each frame's two files.

    The images stay where they are; the hashes make the written list change when one of them does.
    """
    rows = check_folder(csv_path)
    with written_whole(target) as partial, partial.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS])
        for row in tqdm(rows, desc="hash images", unit="frame"):
            both = sha256_of(row.rgb) + sha256_of(row.depth)
            writer.writerow([*row[1:], hashlib.sha256(both.encode()).hexdigest()])


class FolderFrames:
    """Context manager over the frames of a list that `write_list` wrote; a `FrameSource`.

    `depth_scale` is how many units of the depth PNG make one metre, 1000 for millimetres; 0 is missing.
    """

    slab_frames = 1

    def __init__(self, list_path: Path, depth_scale: float) -> None:
        self._list_path = list_path
        self._depth_scale = depth_scale

    def __enter__(self) -> Self:
        self._rows, problems = _parse(self._list_path)
        _refuse(self._list_path, problems)
        if not self._rows:
            raise PipelineError(f"{self._list_path} lists no frames")
        self.scenes = [row.scene for row in self._rows]
        self.scene_types = [row.scene_type for row in self._rows]
        root = os.path.commonpath([row.rgb.parent for row in self._rows])
        self.names = [row.rgb.relative_to(root).as_posix() for row in self._rows]
        self.splits = {
            split: [index for index, row in enumerate(self._rows) if row.split == split] for split in SPLITS
        }
        _, (width, height) = _header(self._rows[0].rgb)
        self.size = (height, width)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass  # nothing stays open between reads

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, start: int, stop: int) -> Frames:
        """Frames `start` to `stop` (exclusive). There is no second depth map, so raw is the same array."""
        rows = self._rows[start:stop]
        rgb_u8 = np.stack([self._of_one_size(row.rgb, _read_rgb(row.rgb)) for row in rows])
        units = np.stack([self._of_one_size(row.depth, _read_depth(row.depth)) for row in rows])
        depth_m = units.astype(np.float32) / np.float32(self._depth_scale)
        return Frames(rgb_u8, depth_m, depth_m)

    def _of_one_size(self, path: Path, pixels: np.ndarray) -> np.ndarray:
        if pixels.shape[:2] != self.size:
            raise PipelineError(
                f"{path} is {_text(pixels.shape[1::-1])} and no longer {_text(self.size[::-1])}; "
                "run the fetch stage again"
            )
        return pixels


def _parse(csv_path: Path) -> tuple[list[FolderRow], list[_Problem]]:
    """Rows with all fields given, and what is wrong with the others. No image is opened."""
    rows, problems = [], []
    for line, fields in _records(csv_path):
        missing = [name for name in REQUIRED_COLUMNS if not fields.get(name)]
        if None in fields:
            problems.append(_Problem(line, "has more fields than the header"))
        elif missing:
            problems.append(_Problem(line, f"{missing[0]} is empty"))
        elif fields["split"] not in SPLITS:
            problems.append(_Problem(line, f"split is '{fields['split']}', not one of {', '.join(SPLITS)}"))
        else:
            scene = fields["scene"]
            rows.append(
                FolderRow(
                    line,
                    (csv_path.parent / fields["rgb"]).resolve(),
                    (csv_path.parent / fields["depth"]).resolve(),
                    fields["split"],
                    scene,
                    fields.get("scene_type") or scene.rsplit("_", 1)[0],
                )
            )
    return rows, problems


def _records(csv_path: Path) -> Iterator[tuple[int, dict[str | None, str]]]:
    """(line, fields by column) of each record; fields beyond the header come under None."""
    if not csv_path.is_file():
        raise PipelineError(f"{csv_path} does not exist; name a CSV with the header {','.join(REQUIRED_COLUMNS)}")
    try:
        # Spreadsheets put a byte-order mark in front.
        with csv_path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle, skipinitialspace=True, restval="")
            columns = [name.strip() for name in reader.fieldnames or ()]
            _check_header(csv_path, columns)
            reader.fieldnames = columns
            for record in reader:
                yield (
                    reader.line_num,
                    {name: value.strip() if isinstance(value, str) else "" for name, value in record.items()},
                )
    except (UnicodeDecodeError, csv.Error) as error:
        raise PipelineError(f"{csv_path} is no UTF-8 text with comma-separated values: {error}") from error


def _check_header(csv_path: Path, columns: Sequence[str]) -> None:
    known = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
    if set(REQUIRED_COLUMNS) - set(columns) or set(columns) - set(known) or len(set(columns)) < len(columns):
        raise PipelineError(
            f"{csv_path}: the header is '{','.join(columns)}'; it must be '{','.join(REQUIRED_COLUMNS)}', "
            "with scene_type as a further column if wanted"
        )


def _list_problems(rows: Sequence[FolderRow]) -> Iterator[_Problem]:
    """Files listed twice, and scenes that stand in two splits: their frames are near copies of each other."""
    first_line: dict[Path, int] = {}
    first_of_scene: dict[str, FolderRow] = {}
    for row in rows:
        for path in (row.rgb, row.depth):
            earlier = first_line.setdefault(path, row.line)
            if earlier != row.line:
                yield _Problem(row.line, f"{path} is listed already on line {earlier}")
        first = first_of_scene.setdefault(row.scene, row)
        if first.split != row.split:
            yield _Problem(
                row.line,
                f"scene '{row.scene}' is in {row.split} here and in {first.split} on line {first.line}; "
                "a scene belongs to one split",
            )


def _image_problems(rows: Sequence[FolderRow]) -> Iterator[_Problem]:
    """Images that are missing, of a kind or a size that will not do. Reads their headers only."""
    expected: tuple[int, int] | None = None
    for row in tqdm(rows, desc="check images", unit="frame"):
        try:
            size = _checked_size(row.rgb, row.depth)
            expected = expected or size
            if size != expected:
                raise PipelineError(
                    f"{row.rgb} is {_text(size)}, the frames before it {_text(expected)}; "
                    "all frames must have one size"
                )
        except PipelineError as error:
            yield _Problem(row.line, str(error))


def _checked_size(rgb: Path, depth: Path) -> tuple[int, int]:
    """(width, height) that an 8-bit image and its 16-bit depth map share."""
    rgb_mode, rgb_size = _header(rgb)
    depth_mode, depth_size = _header(depth)
    if rgb_mode.startswith(("I", "F")):
        raise PipelineError(f"{rgb} has mode {rgb_mode}; rgb must be an image of 8 bits a channel")
    _require_depth_mode(depth, depth_mode)
    if rgb_size != depth_size:
        raise PipelineError(
            f"{depth} is {_text(depth_size)}, its image {rgb} {_text(rgb_size)}; both must have one size"
        )
    return rgb_size


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    """Pillow's mode, and (width, height)."""
    with _opened(path) as image:
        return image.mode, image.size


def _read_rgb(path: Path) -> np.ndarray:
    """(H, W, 3) uint8"""
    with _opened(path) as image:
        return np.array(image.convert("RGB"))


def _read_depth(path: Path) -> np.ndarray:
    """(H, W) uint16"""
    with _opened(path) as image:
        _require_depth_mode(path, image.mode)
        return np.array(image)


def _require_depth_mode(path: Path, mode: str) -> None:
    if not mode.startswith("I;16"):
        raise PipelineError(f"{path} has mode {mode}; depth must be a 16-bit grey PNG")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Pillow's image, with everything that it raises on a damaged file as a `PipelineError`."""
    if not path.is_file():
        raise PipelineError(f"{path} does not exist")
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PipelineError(f"{path} cannot be read as an image: {error}") from error


def _text(width_height: Sequence[int]) -> str:
    return "{} x {}".format(*width_height)


def _refuse(csv_path: Path, problems: Sequence[_Problem]) -> None:
    if problems:
        first = min(problems)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise PipelineError(f"{csv_path}, line {first.line}: {first.text}{more}")
