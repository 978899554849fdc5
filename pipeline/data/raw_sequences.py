"""The raw sequences of NYU Depth v2: one folder a scene, as libfreenect's recorder wrote it.

A scene holds `r-TIME-TICKS.ppm` images and `d-TIME-TICKS.pgm` disparities of 640 x 480, taken at 20 to 30 a second
by cameras that know nothing of each other, and `INDEX.txt`, which names them as they came. The recorder was ended
by a signal: last files are often cut short, some are empty, and last lines of the index end in the middle of a
name.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from pipeline.data.folder import hash_of
from pipeline.data.frames import Frames, RandomAccess
from pipeline.data.kinect import HEIGHT, WIDTH, decode_disparity, project_to_rgb, undistort_rgb
from pipeline.data.splits import location_of, scene_type_of
from pipeline.errors import PipelineError
from pipeline.files import regular_bytes, written_whole
from pipeline.progress import progress_bar

INDEX = "INDEX.txt"
COLUMNS = ("rgb", "depth", "split", "scene", "scene_type", "sha256")

_FRAME_NAME = re.compile(r"([rd])-(\d{1,12})\.(\d{1,6})-(\d{1,12})\.(?:ppm|pgm)")
_OTHER_NAME = re.compile(r"a-[\d.]+-\d+\.dump")
"""Accelerometer; nothing here needs it."""
_HEADER = re.compile(rb"P([56])\s+(\d+)\s+(\d+)\s+(\d+)\s")
_CHANNEL_BYTES = {"r": 3, "d": 2}


class RawFrame(NamedTuple):
    """One file; they sort by time."""

    time_us: int
    """Microseconds of the recording machine's clock"""
    ticks: int
    """of the camera's own clock, which the two cameras do not share"""
    name: str


class Gathered(NamedTuple):
    """What `write_pairs` found, by split, and how much it left out, by reason."""

    pairs: Counter[str]
    left_out: Counter[str]
    empty_scenes: list[str]

    def told(self) -> str:
        """One line for a person."""
        by_split = ", ".join(f"{self.pairs[split]} {split}" for split in ("train", "test"))
        reasons = [f"{count} {reason}" for reason, count in sorted(self.left_out.items()) if count]
        if self.empty_scenes:
            more = f" and {len(self.empty_scenes) - 3} more" if len(self.empty_scenes) > 3 else ""
            reasons.append(f"scenes without a pair: {', '.join(self.empty_scenes[:3])}{more}")
        return f"{self.pairs.total()} pairs ({by_split})" + (f"; left out: {'; '.join(reasons)}" if reasons else "")


def find_scenes(directory: Path) -> list[Path]:
    """The scene folders in `directory` or deeper, such as `basements/basement_0001a`, by name.

    A scene is a folder with an INDEX.txt or with frames; none is looked for inside it. Raises `PipelineError` if
    there is none, or if two have one name.
    """
    if not directory.is_dir():
        raise PipelineError(f"{directory} is no folder; name the one that holds the raw sequences")
    scenes: dict[str, Path] = {}
    for scene in _scenes_below(directory.resolve()):
        if scene.name in scenes:
            raise PipelineError(f"scene {scene.name} is both {scenes[scene.name]} and {scene}; keep one of them")
        scenes[scene.name] = scene
    if not scenes:
        raise PipelineError(
            f"{directory} holds no raw sequences, which are folders such as kitchen_0001a with {INDEX}, "
            "r-*.ppm and d-*.pgm"
        )
    return [scenes[name] for name in sorted(scenes)]


def _scenes_below(folder: Path, levels: int = 3) -> Iterator[Path]:
    if (folder / INDEX).is_file():
        yield folder
        return
    deeper = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _FRAME_NAME.fullmatch(entry.name):
                yield folder
                return
            if levels > 0 and entry.is_dir():  # links may lead in circles
                deeper.append(entry.path)
    for path in sorted(deeper):
        yield from _scenes_below(Path(path), levels - 1)


def read_frames(scene: Path) -> tuple[list[RawFrame], list[RawFrame], Counter[str]]:
    """(images, disparities) of a scene by time, and how many were left out for what.

    They are those that INDEX.txt names, in whatever order and however often. If it is missing or names none, they
    are those in the folder. Files that are gone, or too short to hold a frame, are left out.
    """
    left_out: Counter[str] = Counter()
    names, damaged = _indexed_names(scene / INDEX)
    if names:
        left_out["damaged lines of INDEX.txt"] = damaged
    else:
        names = {path.name for path in scene.iterdir()}
    frames: dict[str, list[RawFrame]] = {"r": [], "d": []}
    for name in names:
        found = _FRAME_NAME.fullmatch(name)
        if found is None:
            continue
        kind, seconds, fraction, ticks = found.groups()
        try:
            size = (scene / name).stat().st_size
        except FileNotFoundError:
            left_out["files that INDEX.txt names and that are not there"] += 1
            continue
        if size < HEIGHT * WIDTH * _CHANNEL_BYTES[kind]:
            left_out["empty or cut files"] += 1
            continue
        time_us = int(seconds) * 1_000_000 + int(fraction.ljust(6, "0"))
        frames[kind].append(RawFrame(time_us, int(ticks), name))
    return sorted(frames["r"]), sorted(frames["d"]), left_out


def _indexed_names(index: Path) -> tuple[set[str], int]:
    """The frames that an INDEX.txt names, and how many of its lines are no file's name."""
    names: set[str] = set()
    damaged = 0
    try:
        lines = regular_bytes(index).decode("latin-1").split()  # any byte is a character, so damage raises nothing
    except FileNotFoundError:
        return names, damaged
    except OSError as error:
        raise PipelineError(f"{index} cannot be read: {error.strerror}") from error
    for line in lines:
        if _FRAME_NAME.fullmatch(line):
            names.add(line)
        elif not _OTHER_NAME.fullmatch(line):
            damaged += 1
    return names, damaged


def nearest_in_time(wanted_us: np.ndarray, given_us: np.ndarray) -> np.ndarray:
    """For each of `wanted_us` the index of the nearest of the ascending `given_us`, of equals the first."""
    first, unique = np.unique(given_us, return_index=True)[::-1]
    after = np.searchsorted(unique, wanted_us).clip(max=len(unique) - 1)
    before = (after - 1).clip(min=0)
    is_after = np.abs(unique[after] - wanted_us) < np.abs(wanted_us - unique[before])
    return first[np.where(is_after, after, before)]


def pair_frames(
    images: Sequence[RawFrame], disparities: Sequence[RawFrame], max_gap_s: float
) -> list[tuple[RawFrame, RawFrame]]:
    """(image, disparity) for every disparity frame that has an image within `max_gap_s`, by time.

    The nearest image is taken, as by the toolbox's get_synched_frames.m, so one may serve several disparity frames
    and others none. The toolbox has no largest gap: where a camera dropped frames it pairs what does not belong
    together.
    """
    if not images or not disparities:
        return []
    image_us = np.array([frame.time_us for frame in images])
    depth_us = np.array([frame.time_us for frame in disparities])
    nearest = nearest_in_time(depth_us, image_us)
    close = np.abs(image_us[nearest] - depth_us) <= round(max_gap_s * 1e6)
    return [
        (images[image], disparity)
        for image, disparity, paired in zip(nearest.tolist(), disparities, close, strict=True)
        if paired
    ]


def choose_test_locations(locations: Collection[str], fraction: float) -> set[str]:
    """About `fraction` of the locations, at least one and not all, in the order of their names' hashes.

    Arbitrary, the same on every machine, and nearly the same when others are added.
    """
    ordered = sorted(set(locations), key=lambda name: hashlib.sha256(name.encode()).digest())
    return set(ordered[: min(max(round(fraction * len(ordered)), 1), len(ordered) - 1)])


def write_pairs(
    directory: Path, target: Path, *, every: int, max_gap_s: float, test: Collection[str] | float
) -> Gathered:
    """List every `every`-th pair of each scene in `directory`, with a hash of its two files, in the CSV `target`.

    `test` names the locations whose frames are for testing only, or tells the share of all locations that are taken
    for it. The frames stay where they are; the hashes make the list change when one of them does. One scene is in
    memory at a time. A scene without a pair is told and left out; raises `PipelineError` where a split is left
    without any.
    """
    scenes = find_scenes(directory)
    if isinstance(test, float):
        test = choose_test_locations([location_of(scene.name) for scene in scenes], test)
    gathered = Gathered(Counter(), Counter(), [])
    with (
        written_whole(target) as partial,
        partial.open("w", newline="", encoding="utf-8") as handle,
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress_bar(len(scenes), "list raw sequences", "scene") as bar,
    ):
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(COLUMNS)
        for scene in scenes:
            images, disparities, left_out = read_frames(scene)
            pairs = pair_frames(images, disparities, max_gap_s)
            left_out["depth frames without an image near in time"] += len(disparities) - len(pairs)
            location = location_of(scene.name)
            split = "test" if location in test else "train"
            listed = 0
            paths = [(scene / image.name, scene / disparity.name) for image, disparity in pairs[::every]]
            for (rgb, depth), digest in zip(paths, pool.map(_hash_of_pair, paths), strict=True):
                if digest is None:
                    left_out["empty or cut files"] += 1
                    continue
                writer.writerow([rgb, depth, split, location, scene_type_of(scene.name), digest])
                listed += 1
            gathered.pairs[split] += listed
            gathered.left_out.update(left_out)
            if not listed:
                gathered.empty_scenes.append(scene.name)
            bar.update()
        for split in ("train", "test"):
            if not gathered.pairs[split]:
                raise PipelineError(
                    f"{directory} gives no {split} frames, and each split needs rooms of its own: {gathered.told()}"
                )
    return gathered


def _hash_of_pair(pair: tuple[Path, Path]) -> str | None:
    """A hash of both files, None if one of them is no whole frame."""
    rgb, depth = (regular_bytes(path) for path in pair)
    try:
        for path, content in zip(pair, (rgb, depth), strict=True):
            _pixels(path, content)
    except _NoFrame:
        return None
    return hash_of(rgb, depth)


class RawSequences(RandomAccess):
    """Context manager over the pairs of a list that `write_pairs` wrote.

    Scenes are locations, so that all recordings of a room stay on one side of every split. Frames are as the RGB
    camera would see them without distortion. Holes of the depth are not filled.
    """

    size = (HEIGHT, WIDTH)

    def __init__(self, list_path: Path) -> None:
        self._list_path = list_path

    def __enter__(self) -> Self:
        self._pairs: list[tuple[str, str, str]] = []
        self.names: list[str] = []
        self.scenes: list[str] = []
        self.scene_types: list[str] = []
        self.splits: dict[str, list[int]] = {"train": [], "test": []}
        try:
            with self._list_path.open(newline="", encoding="utf-8") as handle:
                for index, row in enumerate(csv.DictReader(handle)):
                    self._pairs.append((row["rgb"], row["depth"], row["sha256"]))
                    depth = Path(row["depth"])
                    self.names.append(f"{depth.parent.name}/{depth.stem}")
                    self.scenes.append(row["scene"])
                    self.scene_types.append(row["scene_type"])
                    self.splits[row["split"]].append(index)
        except FileNotFoundError:
            raise PipelineError(f"{self._list_path} does not exist; run the fetch stage first") from None
        except (KeyError, TypeError, UnicodeDecodeError, csv.Error) as error:
            raise PipelineError(f"{self._list_path} is damaged ({error!r}); run the fetch stage again") from error
        if not self._pairs:
            raise PipelineError(f"{self._list_path} lists no frames; run the fetch stage again")
        return self

    def reader(self, indices: Sequence[int]) -> PairReader:
        return PairReader({index: self._pairs[index] for index in indices})


@dataclass(frozen=True)
class PairReader:
    """Decodes some of the pairs, wherever their files can be reached; a `FrameReader`."""

    pairs: dict[int, tuple[str, str, str]]
    """(image, disparity, hash of both as `hash_of` makes it) by index of the frame"""

    def read(self, index: int) -> Frames:
        """One frame, as the RGB camera would see it. Raises `PipelineError` if it is not as it was fetched."""
        *paths, sha256 = self.pairs[index]
        contents = [_read(path) for path in paths]
        try:
            rgb, disparity = (_pixels(Path(path), content) for path, content in zip(paths, contents, strict=True))
        except _NoFrame as error:
            raise PipelineError(f"{error}; run the fetch stage again") from error
        if hash_of(*contents) != sha256:
            raise PipelineError(f"{' or '.join(paths)} has changed since; run the fetch stage again")
        depth_m = project_to_rgb(decode_disparity(disparity))[None]
        return Frames(undistort_rgb(rgb)[None], depth_m, depth_m)


class _NoFrame(PipelineError):
    """The file holds no whole frame."""


def _read(path: str) -> bytes:
    try:
        return regular_bytes(path)
    except FileNotFoundError:
        raise PipelineError(f"{path} is not there any more; run the fetch stage again") from None
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}") from error


def _pixels(path: Path, content: bytes) -> np.ndarray:
    """(480, 640, 3) uint8 of an image, (480, 640) uint16 of disparities, in the machine's byte order.

    The recorder wrote 16-bit values as its processor had them, low byte first, where the PGM format has the high
    byte first: hence the swapbytes of the toolbox. The bytes are taken as they lie: 0.1 ms a pair, where Pillow
    takes 2.
    """
    kind = path.name[0]
    format_, most = (b"6", 255) if kind == "r" else (b"5", 65535)
    header = _HEADER.match(content[:64])
    if header is None or header[1] != format_:
        raise _NoFrame(f"{path} is damaged: it does not begin as a {'colour PPM' if kind == 'r' else 'PGM'} does")
    if tuple(map(int, header.groups()[1:])) != (WIDTH, HEIGHT, most):
        width, height, levels = (int(number) for number in header.groups()[1:])
        raise PipelineError(
            f"{path} is {width} x {height} with values up to {levels}; "
            f"a Kinect's frame is {WIDTH} x {HEIGHT} with values up to {most}"
        )
    payload = memoryview(content)[header.end() :]
    if len(payload) != HEIGHT * WIDTH * _CHANNEL_BYTES[kind]:
        raise _NoFrame(f"{path} is cut: {len(payload)} bytes of {HEIGHT * WIDTH * _CHANNEL_BYTES[kind]}")
    if kind == "r":
        return np.frombuffer(payload, np.uint8).reshape(HEIGHT, WIDTH, 3)
    return np.frombuffer(payload, "<u2").reshape(HEIGHT, WIDTH)
