"""Lists of one's own images in three layouts, and a look at every image before anything is made of them.

- Header: a CSV with the columns `rgb,depth,split,scene[,scene_type]`.
- Pairs, as DenseDepth's `nyu2_train.csv`: `data/nyu2_train/SCENE_out/1.jpg,data/nyu2_train/SCENE_out/1.png`.
- Text, as the lists of BTS: `/SCENE/rgb_00045.jpg /SCENE/sync_depth_00045.png 518.8579`; the last is not used.

The first line tells which it is. Only a header names splits: a list without is all for training or all for testing.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.data.folder import SPLITS, FolderRow, hash_of, opened_image, read_bytes, write_rows
from pipeline.data.splits import location_of, scene_type_of
from pipeline.errors import PipelineError
from pipeline.files import regular_bytes, written_whole
from pipeline.progress import progress_bar

REQUIRED_COLUMNS = ("rgb", "depth", "split", "scene")
OPTIONAL_COLUMNS = ("scene_type",)
IMAGES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
EIGHT_BIT_SCALE = 255 / 10
"""Units per metre of DenseDepth's 8-bit depth images, in which 255 stands for 10 m."""
NO_DEPTH = "None"
"""Stands for the depth image in BTS's eigen lists where there is none."""
THREADS = 16
"""Disks and file servers answer several at once. Hashes, and most of the reading, need no lock of Python's."""
BATCH = 32


class Problem(NamedTuple):
    """Something that is wrong with a line. Its fields are the columns of the list of problems."""

    list: str
    line: int
    file: str
    reason: str

    def __str__(self) -> str:
        told = f"{self.file} {self.reason}" if self.file else self.reason
        return f"{self.list}, line {self.line}: {told}"


class _Listed(NamedTuple):
    list: str
    line: int
    rgb: str
    depth: str
    split: str
    scene: str
    scene_type: str
    may_have_8_bits: bool

    def problem(self, reason: str, file: str = "") -> Problem:
        return Problem(self.list, self.line, file, reason.removeprefix(f"{file} "))


class _Found(NamedTuple):
    """What a look at a frame's two files has found."""

    problems: list[Problem]
    size: tuple[int, int]
    """(width, height)"""
    depth_scale: float
    sha256: str


class _Bad(Exception):
    """What is wrong with one line."""


def write_list(
    list_path: Path,
    target: Path,
    *,
    problems: Path,
    test_list: Path | None = None,
    root: Path | None = None,
    depth_scale: float = 1000.0,
) -> None:
    """Check one list, or one for training and one for testing, and write them to `target` as one.

    The written list has absolute paths, and for each frame a hash of its two files, so that it changes when one of
    them does; the images stay where they are. root: the folder that paths count from, each list's own if None.
    depth_scale: units of 16-bit depth images per metre.

    Raises one `PipelineError` that names the line, the file and what is wrong for the first problem, and says how
    many more there are; the file `problems` then lists them all.
    """
    with contextlib.suppress(OSError):  # told below, if there is something to write
        problems.unlink()
    paths = [list_path] if test_list is None else [list_path, test_list]
    rows: list[_Listed] = []
    wrong: list[Problem] = []
    for path, split in zip(paths, ("train", "test"), strict=False):
        parsed, bad = _parse(path, split, root or path.absolute().parent, alone=test_list is None)
        rows += parsed
        wrong += bad
    images, bad = _look_at_all(rows, depth_scale)
    wrong += [*bad, *_list_problems(rows)]
    _refuse(wrong, problems, str(list_path), rows)
    for split in ("train", "test"):
        if not any(row.split == split for row in rows):
            hint = "; name a list of test frames in fetch.folder.test_list" if split == "test" else ""
            raise PipelineError(
                f"{list_path} has no {split} rows; train and test need at least one frame each{hint}"
            )
    with written_whole(target) as partial:
        write_rows([_row(listed, found) for listed, found in zip(rows, images, strict=True)], partial)


def _row(listed: _Listed, found: _Found) -> FolderRow:
    return FolderRow(
        listed.rgb,
        listed.depth,
        listed.split,
        listed.scene,
        listed.scene_type,
        found.depth_scale,
        listed.list,
        listed.line,
        found.sha256,
    )


def _parse(path: Path, split: str, root: Path, *, alone: bool) -> tuple[list[_Listed], list[Problem]]:
    """Rows with all fields given, and what is wrong with the others. No image is opened.

    split: of a list whose lines name none. alone: it is the only list, so it may name the splits itself.
    """
    lines = _lines(path)
    first = next((line for line in lines if line.strip()), "")
    rows: list[_Listed] = []
    problems: list[Problem] = []
    without_depth = 0
    for number, fields in _records(path, lines, first, alone):
        try:
            if fields.get("depth") == NO_DEPTH:
                without_depth += 1
                continue
            rows.append(_listed(str(path), number, fields, split, root))
        except _Bad as error:
            problems.append(Problem(str(path), number, "", str(error)))
    if without_depth:
        print(f"note: {path}: {without_depth} lines without depth ({NO_DEPTH}) are left out", file=sys.stderr)
    return rows, problems


def _lines(path: Path) -> list[str]:
    """With their ends, which a quoted field may hold."""
    try:
        # Spreadsheets put a byte-order mark in front.
        return list(io.StringIO(regular_bytes(path).decode("utf-8-sig"), newline=None))
    except FileNotFoundError:
        raise PipelineError(f"{path} does not exist; {_LAYOUTS}") from None
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path} is no UTF-8 text: {error}; {_LAYOUTS}") from error


_LAYOUTS = (
    f"a list is a CSV with the header {','.join(REQUIRED_COLUMNS)}, or has lines `RGB,DEPTH`, or `RGB DEPTH FOCAL`"
)


def _records(path: Path, lines: list[str], first: str, alone: bool) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, fields by column) of each record, whatever the layout. What is wrong with one comes under `bad`."""
    if _are_images(first.split(",")):
        for number, line in _filled(lines):
            fields = [field.strip() for field in line.split(",")]
            yield number, _pair(fields, "two file names, separated by a comma", (2,)) | {"layout": "pairs"}
    elif _are_images(first.split()[:2]) and len(first.split()) in (2, 3):
        for number, line in _filled(lines):
            fields = line.split()
            yield number, _pair(fields, "RGB DEPTH FOCAL, separated by spaces", (2, 3)) | {"layout": "text"}
    elif alone:
        yield from _header_records(path, lines)
    else:
        raise PipelineError(
            f"{path}: with fetch.folder.test_list each list has lines `RGB,DEPTH` or `RGB DEPTH FOCAL`; a CSV with "
            "header names the splits itself, so set fetch.folder.test_list to null"
        )


def _are_images(names: Sequence[str]) -> bool:
    """Whether they are an image and its depth image, by their names."""
    return len(names) == 2 and all(
        PurePosixPath(name.strip()).suffix.lower() in IMAGES or name == NO_DEPTH for name in names
    )


def _filled(lines: list[str]) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _pair(fields: list[str], form: str, lengths: tuple[int, ...]) -> dict[str, str]:
    if len(fields) not in lengths:
        return {"bad": f"it has {len(fields)} fields; a line is {form}"}
    return {"rgb": fields[0], "depth": fields[1]}


def _header_records(path: Path, lines: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        reader = csv.DictReader(lines, skipinitialspace=True, restval="")
        columns = [name.strip() for name in reader.fieldnames or ()]
        _check_header(path, columns)
        reader.fieldnames = columns
        for record in reader:
            beyond = record.pop(None, None)
            fields = {name: value.strip() for name, value in record.items()}
            missing = [name for name in REQUIRED_COLUMNS if not fields.get(name)]
            if beyond is not None:
                fields["bad"] = "it has more fields than the header"
            elif missing:
                fields["bad"] = f"{missing[0]} is empty"
            elif fields["split"] not in SPLITS:
                fields["bad"] = f"split is '{fields['split']}', not one of {', '.join(SPLITS)}"
            yield reader.line_num, fields
    except csv.Error as error:
        raise PipelineError(f"{path} has no comma-separated values: {error}") from error


def _check_header(path: Path, columns: Sequence[str]) -> None:
    known = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
    if set(REQUIRED_COLUMNS) - set(columns) or set(columns) - set(known) or len(set(columns)) < len(columns):
        shown = " ".join(",".join(columns).split())
        raise PipelineError(
            f"{path}: the header is '{shown if len(shown) < 200 else shown[:200] + '…'}'; it must be "
            f"'{','.join(REQUIRED_COLUMNS)}', with scene_type as a further column if wanted; or there is none, and "
            "lines name two images each, as `RGB,DEPTH` or `RGB DEPTH FOCAL`"
        )


def _listed(path: str, line: int, fields: dict[str, str], split: str, root: Path) -> _Listed:
    if "bad" in fields:
        raise _Bad(fields["bad"])
    layout = fields.get("layout", "header")
    rgb, depth = fields["rgb"], fields["depth"]
    if layout == "header":
        split, scene = fields["split"], fields["scene"]
        kind = fields.get("scene_type") or scene.rsplit("_", 1)[0]
    else:
        # BTS appends its paths to the root, though they begin with a slash.
        rgb, depth = (name.lstrip("/") if layout == "text" else name for name in (rgb, depth))
        folder = PurePosixPath(rgb).parent.name.removesuffix("_out")
        scene, kind = location_of(folder), scene_type_of(folder)
        if not scene:
            raise _Bad(f"{rgb} lies in no folder, whose name would be its scene")
    return _Listed(
        path, line, _full(root, rgb), _full(root, depth), split, scene, kind, may_have_8_bits=layout == "pairs"
    )


def _full(root: Path, name: str) -> str:
    """Absolute and the same for every way to write it. The system is asked only where it must: 30 µs a name."""
    if "\0" in name:
        raise _Bad("it has a null character")
    joined = os.path.join(root.absolute(), name)  # noqa: PTH118
    return os.path.realpath(joined) if ".." in joined else os.path.normpath(joined)


def _look_at_all(rows: Sequence[_Listed], depth_scale: float) -> tuple[list[_Found], list[Problem]]:
    """Each frame's size, depth scale and hash, and all that is wrong with images, in the order of the rows."""
    found: list[_Found] = []
    problems: list[Problem] = []
    expected: tuple[int, int] | None = None
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    with progress_bar(len(rows), "check images", "frame") as bar, ThreadPoolExecutor(THREADS) as pool:
        try:
            for batch, looks in zip(
                batches, pool.map(lambda batch: [_look_at(row, depth_scale) for row in batch], batches), strict=True
            ):
                for row, look in zip(batch, looks, strict=True):
                    found.append(look)
                    problems += look.problems
                    if look.problems:
                        continue
                    expected = expected or look.size
                    if look.size != expected:
                        reason = (
                            f"is {_text(look.size)}, the frames before it {_text(expected)}; all must have one size"
                        )
                        problems.append(row.problem(reason, row.rgb))
                bar.update(len(batch))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found, problems


def _look_at(row: _Listed, depth_scale: float) -> _Found:
    """Read both files once. Headers, and what shows that a file is cut short; pixels are not decoded."""
    problems: list[Problem] = []
    contents: list[bytes] = []
    sizes: list[tuple[int, int]] = []
    scale = depth_scale
    for path, is_depth in ((row.rgb, False), (row.depth, True)):
        try:
            contents.append(read_bytes(path))
            mode, size = _header(path, contents[-1])
            sizes.append(size)
        except PipelineError as error:
            problems.append(row.problem(str(error), path))
            continue
        if is_depth and row.may_have_8_bits and mode == "L":
            scale = EIGHT_BIT_SCALE
        elif is_depth and not mode.startswith("I;16"):
            problems.append(row.problem(f"has mode {mode}; depth must be a 16-bit grey PNG", path))
        elif not is_depth and mode.startswith(("I", "F")):
            problems.append(row.problem(f"has mode {mode}; rgb must be an image of 8 bits a channel", path))
    if problems:
        return _Found(problems, (0, 0), scale, "")
    if sizes[0] != sizes[1]:
        reason = f"is {_text(sizes[1])}, its image {row.rgb} {_text(sizes[0])}; both must have one size"
        problems.append(row.problem(reason, row.depth))
    return _Found(problems, sizes[0], scale, hash_of(*contents))


def _header(path: str, content: bytes) -> tuple[str, tuple[int, int]]:
    """Pillow's mode, and (width, height). Raises `PipelineError` if the file is damaged, as far as that is quick.

    A file that a copy has left half done has a good header. The chunks of a PNG have check sums (0.7 ms for 600 kB,
    a twentieth of what decoding takes); a JPEG's last scan is followed by an end marker; Pillow looks
    through a WEBP when it opens it. What has no such thing (BMP, PPM, TIFF) is decoded.
    """
    with opened_image(path, content) as image:
        mode, size, kind = image.mode, image.size, image.format
        if kind == "PNG":
            image.verify()
        elif kind not in ("JPEG", "MPO", "WEBP"):
            image.load()
    if kind in ("JPEG", "MPO") and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
        raise PipelineError(f"{path} cannot be read as an image: it is cut short")
    return mode, size


def _list_problems(rows: Iterable[_Listed]) -> Iterator[Problem]:
    """Files listed twice, and scenes that stand in two splits: their frames are near copies of each other."""
    first_of_file: dict[str, _Listed] = {}
    first_of_scene: dict[str, _Listed] = {}
    for row in rows:
        for path in (row.rgb, row.depth):
            earlier = first_of_file.setdefault(path, row)
            if earlier is not row:
                yield row.problem(f"is listed already on {_line_of(earlier, row)}", path)
        first = first_of_scene.setdefault(row.scene, row)
        if first.split != row.split:
            yield row.problem(
                f"scene '{row.scene}' is in {row.split} here and in {first.split} on {_line_of(first, row)}; "
                "a scene belongs to one split"
            )


def _line_of(row: _Listed, seen_from: _Listed) -> str:
    return f"line {row.line}" if row.list == seen_from.list else f"line {row.line} of {row.list}"


def _text(width_height: Sequence[int]) -> str:
    return "{} x {}".format(*width_height)


def _refuse(problems: list[Problem], target: Path, first_list: str, rows: Sequence[_Listed]) -> None:
    if not problems:
        return
    problems = sorted(problems, key=lambda problem: (problem.list != first_list, problem.line))
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    try:
        with written_whole(target) as partial, partial.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(Problem._fields)
            writer.writerows(problems)
        told = f"; {target} lists all" if more else ""
    except OSError as error:
        told = f"; they could not be listed in {target}: {error.strerror}" if more else ""
    images = {row.rgb for row in rows}
    missing = {problem.file for problem in problems if problem.reason == "does not exist"}
    hint = ""
    if images and images <= missing:
        hint = "; no image is there: fetch.folder.root names the folder that paths count from"
    first = " ".join(str(problems[0]).split())  # a quoted name can have line ends
    raise PipelineError(f"{first}{more}{told}{hint}")
