"""Damaged files, read in a process of their own: `python -m tests.data.damage KIND FOLDER COUNT SEED`.

A damaged file may end the process that reads it, or keep it for ever; a test has to outlive that. The process
writes each case to FOLDER/case before it reads it, and at the end prints how many there were of each outcome.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from pipeline.data.kinect import decode_disparity, project_to_rgb, undistort_rgb
from pipeline.data.nyu import NyuFile, NyuWriter, pack_frame, read_splits, write_splits
from pipeline.data.raw_sequences import RawSequences, read_frames, write_pairs
from pipeline.errors import PipelineError

LONGEST_S = 20
"""For one case; they take milliseconds."""


def outcomes(kind: str, folder: Path, count: int, seed: int) -> Counter[str]:
    """How many cases of which outcome there were. Raises `AssertionError` with what became of the last case."""
    command = [sys.executable, "-m", "tests.data.damage", kind, str(folder), str(count), str(seed)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert run.returncode == 0, f"{kind}, seed {seed}: status {run.returncode}\n{run.stderr[-3000:]}"
    return Counter(json.loads(run.stdout))


def damaged(content: bytes, chance: random.Random, important: int) -> tuple[bytes, set[int]]:
    """A file that is cut, has lost or gained a piece, or has up to five other bytes; and which bytes are others.

    important: how many bytes at the beginning are hit as often as all others.
    """
    length = len(content)
    place = chance.randrange(chance.choice([min(important, length), length]))
    how = chance.random()
    if how < 0.1:
        return content[:place], set(range(place, length))
    if how < 0.2:
        piece = b"" if chance.random() < 0.5 else chance.randbytes(8)
        return content[:place] + piece + content[place + 4 * (not piece) :], set(range(place, length + 8))
    changed = bytearray(content)
    places = set()
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        place = chance.randrange(chance.choice([min(important, length), length]))
        changed[place] = chance.choice(
            [0, 255, 128, chance.randrange(256), content[place] ^ 1 << chance.randrange(8)]
        )
        places.add(place)
    return bytes(changed), {place for place in places if changed[place] != content[place]}


def plainly(path: Path) -> list[np.ndarray]:
    """Images, depths and raw depths, or depths again where there are none, as h5py reads them."""
    with h5py.File(path) as file:
        names = ["images", "depths", "rawDepths" if "rawDepths" in file else "depths"]
        return [array.transpose(0, *range(array.ndim - 1, 0, -1)) for array in (file[name][()] for name in names)]


def of_labeled_files(folder: Path, chance: random.Random) -> Callable[[], str]:
    """NYU's labelled file: what plain h5py reads, or an error. (What h5py refuses has to be what was written.)"""
    noise = np.random.default_rng(0)
    depth_m = noise.uniform(1, 9, (3, 32, 48)).astype(np.float32)
    with NyuWriter(folder / "whole.mat", 3, (32, 48)) as writer:
        for frame_m in depth_m:
            rgb_u8 = noise.integers(0, 256, (32, 48, 3), np.uint8)
            writer.append(pack_frame(rgb_u8, frame_m, frame_m), "kitchen_0001", "kitchen")
    whole = (folder / "whole.mat").read_bytes()

    def check() -> str:
        content, _ = damaged(whole, chance, 6000)
        (folder / "case").write_bytes(content)
        with NyuFile(folder / "case") as file:
            found = file.read(0, len(file))
        try:
            expected = plainly(folder / "case")
        except (OSError, RuntimeError, KeyError, ValueError):
            expected = plainly(folder / "whole.mat")
        for array, stored in zip(found, expected, strict=True):
            np.testing.assert_array_equal(array, stored)
        return "read"

    return check


def of_splits(folder: Path, chance: random.Random) -> Callable[[], str]:
    """splits.mat: the numbers that were written, unless they themselves are hit, or an error."""
    write_splits(folder / "whole.mat", {"train": [0, 1, 2, 3, 4], "test": [5, 6, 7]})
    whole = (folder / "whole.mat").read_bytes()
    train, test = (np.array(numbers, "<u2").tobytes() for numbers in (range(1, 6), range(6, 9)))
    numbers = {whole.index(part) + at for part in (train, test) for at in range(len(part))}

    def check() -> str:
        content, changed = damaged(whole, chance, len(whole))
        (folder / "case").write_bytes(content)
        splits = read_splits(folder / "case", 8)
        assert set(splits) == {"train", "test"}
        if not changed & numbers:
            assert splits == {"train": [0, 1, 2, 3, 4], "test": [5, 6, 7]}
        return "read"

    return check


def of_indices(folder: Path, chance: random.Random) -> Callable[[], str]:
    """INDEX.txt: frames that it names and that are there, by time."""
    scene = folder / "kitchen_0001a"
    scene.mkdir()
    kinds = {"r": "ppm", "d": "pgm"}
    names = [f"{kind}-12948863{at:02d}.{at:06d}-{at}.{end}" for at in range(8) for kind, end in kinds.items()]
    for name in names:
        with (scene / name).open("wb") as file:
            file.truncate(640 * 480 * 3 + 15)
    whole = ("\n".join([*names, "a-1294886362.011060-3164794231.dump"]) + "\n").encode()

    def check() -> str:
        content, _ = damaged(whole, chance, len(whole))
        if chance.random() < 0.3:
            digits = str(chance.randrange(10)).encode() * chance.choice([13, 400, 5000])
            content = content.replace(chance.choice([b"-1", b".", b"r-"]), digits, 3)
        (folder / "case").write_bytes(content)
        (scene / "INDEX.txt").write_bytes(content)
        images, disparities, _ = read_frames(scene)
        listed = set(content.decode("latin-1").split()) & set(names) or set(names)
        for kind, found in (("r", images), ("d", disparities)):
            assert [frame.name for frame in found] == sorted(name for name in listed if name[0] == kind)
        return "read" if listed != set(names) else "same"

    return check


def of_raw_images(folder: Path, chance: random.Random) -> Callable[[], str]:
    """PPM and PGM: what their last bytes hold, or an error, or no such pair."""
    noise = np.random.default_rng(0)
    scenes = [folder / "raw" / name for name in ("kitchen_0001", "office_0001")]
    disparities = noise.integers(400, 1093, 640 * 480).astype("<u2")
    wholes = {
        "r-1294886362.000000-1.ppm": b"P6 640 480 255\n" + noise.bytes(640 * 480 * 3),
        "d-1294886362.010000-1.pgm": b"P5 640 480 65535\n" + disparities.tobytes(),
    }
    for scene in scenes:
        scene.mkdir(parents=True)
        for name, whole in wholes.items():
            (scene / name).write_bytes(whole)

    def check() -> str:
        for whole_name, whole in wholes.items():
            (scenes[0] / whole_name).write_bytes(whole)
        name = chance.choice(list(wholes))
        content, _ = damaged(wholes[name], chance, 20)
        for path in (folder / "case", scenes[0] / name):
            path.write_bytes(content)
        write_pairs(folder / "raw", folder / "pairs.csv", every=1, max_gap_s=0.05, test={"office_0001"})
        with RawSequences(folder / "pairs.csv") as source:
            found = source.read(0, 1)
        rgb, disparity = (
            (scenes[0] / name).read_bytes()[-640 * 480 * size :] for name, size in zip(wholes, (3, 2), strict=True)
        )
        image = np.frombuffer(rgb, np.uint8).reshape(480, 640, 3)
        np.testing.assert_array_equal(found.rgb_u8[0], undistort_rgb(image))
        values = np.frombuffer(disparity, "<u2").reshape(480, 640)
        np.testing.assert_array_equal(found.depth_m[0], project_to_rgb(decode_disparity(values)))
        return "read"

    return check


KINDS = {"labeled": of_labeled_files, "splits": of_splits, "index": of_indices, "raw images": of_raw_images}


def main(kind: str, folder: Path, count: int, seed: int) -> None:
    os.environ["HDF5_PLUGIN_PATH"] = "::"
    check = KINDS[kind](folder, random.Random(seed))
    found: Counter[str] = Counter()
    for number in range(count):
        faulthandler.dump_traceback_later(LONGEST_S, exit=True)
        try:
            found[check()] += 1
        except PipelineError as error:
            assert "\n" not in str(error)
            found["told"] += 1
        except BaseException:
            print(f"case {number}", file=sys.stderr)
            raise
        faulthandler.cancel_dump_traceback_later()
    print(json.dumps(found))


if __name__ == "__main__":
    faulthandler.enable()
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
