"""Reading the labelled file and preprocessing it, against h5py and against what inflating alone takes; rendering.

The file has the layout that `shared/nyu/build_mat.py` gives it, chunks of four frames deflated at level 3. Its
frames are real ones where that script lies beside the repository, else drawn: some dozen that recur, since how long
a frame takes does not depend on whether it came before.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np

from benchmarks import rooms
from benchmarks.entries import Entry
from benchmarks.loader import Drawn, ImageFiles
from benchmarks.loader import Sizes as ImageSizes
from benchmarks.noise import ROOT, inside, make_working_copy, original
from pipeline import paths
from pipeline.data.augment import Augmentation
from pipeline.data.chunks import inflate
from pipeline.data.frames import Frames, cores
from pipeline.data.nyu import HEIGHT, WIDTH, NyuFile, read_splits, write_splits, write_strings
from pipeline.data.shards import write_shards
from pipeline.data.source import describe_source
from pipeline.data.splits import carve_validation
from pipeline.errors import PipelineError
from pipeline.params import Params

READ_LIMIT, FRAMES_LIMIT, PREPROCESS_LIMIT = 2.2, 7.0, 1.4
PEAK_LIMIT_MB, GROWTH_LIMIT = 700.0, 5.0
SPAN = 4
"""Frames in a chunk."""
READ_FRAMES = 96
REAL = ROOT.parent / "shared" / "nyu" / "build_mat.py"
STAGE = """
import runpy
runpy.run_module("stages.preprocess", run_name="__main__")
from benchmarks.memory import peak_kb
print(peak_kb() / 1000)
"""
"""The stage as DVC starts it, and its peak of memory in MB as the last line."""


@dataclass(frozen=True)
class Sizes:
    distinct: int
    few: int
    many: int
    repetitions: int


def measure(quick: bool) -> list[Entry]:
    sizes = Sizes(4, 8, 16, 1) if quick else Sizes(48, 250, 1000, 3)
    params = original()
    with TemporaryDirectory(prefix="depth-bench-") as name:
        folder = Path(name)
        frames, kind = _distinct_frames(folder, sizes.distinct)
        files = {count: write_labelled(folder / str(count), frames, count) for count in (sizes.few, sizes.many)}
        return [
            *_reading(files[sizes.few], sizes, kind),
            *_preprocessing(files, folder, params, sizes, kind),
            *_rendering(quick),
        ]


def _rendering(quick: bool) -> list[Entry]:
    """The renderer against its first version; nothing in a clone whose history does not hold that."""
    try:
        return rooms.measure(quick)
    except PipelineError as error:
        print(f"warning: {error}", file=sys.stderr)
        return []


def _reading(path: Path, sizes: Sizes, kind: str) -> list[Entry]:
    """Frames/s of the reader against h5py's."""
    count = min(sizes.few, READ_FRAMES)
    few = min(count, READ_FRAMES // 2)
    told = f"{count} {kind} frames"
    cases: dict[str, Callable[[], float]] = {
        "ours": lambda: _ours_s(path, count) / count,
        "h5py_slabs": lambda: _h5py_s(path, count, 2 * SPAN) / count,
        "h5py_frames": lambda: _h5py_s(path, few, 1) / few,
    }
    found: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(2 * sizes.repetitions):
        for case, seconds in cases.items():
            found[case].append(seconds())
    details = {f"{case}_frames_per_s": 1 / statistics.median(each) for case, each in found.items()}
    ratios = {
        case: [other / ours for other, ours in zip(found[case], found["ours"], strict=True)] for case in found
    }
    return [
        Entry(
            name,
            statistics.median(ratios[case]),
            "x",
            f"h5py reading {told} {how}; pairs from {min(ratios[case]):.2f} to {max(ratios[case]):.2f}",
            limit=limit,
            better="higher",
            details=details | {"pairs": ratios[case]},
        )
        for name, case, how, limit in (
            ("data.read", "h5py_slabs", f"{2 * SPAN} at a time, axes as they are", READ_LIMIT),
            ("data.read.frames", "h5py_frames", "one at a time", FRAMES_LIMIT),
        )
    ]


def _ours_s(path: Path, count: int) -> float:
    with NyuFile(path) as file:
        started = time.perf_counter()
        for start in range(0, count, file.slab_frames):
            file.read(start, min(start + file.slab_frames, count))
        return time.perf_counter() - started


def _h5py_s(path: Path, count: int, step: int) -> float:
    with h5py.File(path, "r") as file:
        datasets = [file[name] for name in ("images", "depths", "rawDepths")]
        started = time.perf_counter()
        for start in range(0, count, step):
            for dataset in datasets:
                dataset[start : start + step]
        return time.perf_counter() - started


def _preprocessing(files: dict[int, Path], folder: Path, params: Params, sizes: Sizes, kind: str) -> list[Entry]:
    """Time and memory of the stage, and of its work alone in this process."""
    path = files[sizes.many]
    stage_s, work_s, limit_s = [], [], []
    peaks_mb: dict[int, list[float]] = {count: [] for count in files}
    with inside(folder / "repository") as work:
        make_working_copy(work, params, 2, 2)
        _run_stage(work, files[sizes.few])  # makes the store and warms the files
        for _ in range(sizes.repetitions):
            _, peak_mb = _run_stage(work, files[sizes.few])
            peaks_mb[sizes.few].append(peak_mb)
            seconds, peak_mb = _run_stage(work, path)
            peaks_mb[sizes.many].append(peak_mb)
            stage_s.append(seconds)
            limit_s.append(_limit_s(path, work / paths.SHARDS, folder))
            work_s.append(_work_s(path, params, folder / "shards"))
    peaks = {count: statistics.median(each) for count, each in peaks_mb.items()}
    against = (
        f"inflating the images and depths of {sizes.many} {kind} frames on all cores and writing as many bytes"
    )
    details = {
        "stage_s": stage_s,
        "work_s": work_s,
        "limit_s": limit_s,
        "frames_per_s": sizes.many / statistics.median(stage_s),
    }
    entries = []
    for name, each_s, what, limit in (
        ("data.preprocess", stage_s, "the stage with its start", PREPROCESS_LIMIT),
        ("data.preprocess.work", work_s, "from opening the file to the index", None),
    ):
        ratios = [mine / least for mine, least in zip(each_s, limit_s, strict=True)]
        told = f"{against} ({what}); pairs from {min(ratios):.2f} to {max(ratios):.2f}"
        entries.append(Entry(name, statistics.median(ratios), "x", told, limit=limit, details=details))
    growth = 100 * (peaks[sizes.many] / peaks[sizes.few] - 1)
    told = f"{sizes.few} to {sizes.many} frames"
    return [
        *entries,
        Entry(
            "data.memory",
            max(peaks.values()),
            "MB",
            f"peak resident set of the preprocess stage, {told}",
            limit=PEAK_LIMIT_MB,
            details={"peaks_mb": peaks},
        ),
        Entry(
            "data.memory.growth",
            growth,
            "%",
            f"growth of the stage's peak resident set from {told}",
            limit=GROWTH_LIMIT,
            details={"peaks_mb": peaks, "each_mb": peaks_mb},
        ),
    ]


def _run_stage(work: Path, labelled: Path) -> tuple[float, float]:
    """Seconds from the start of the process to its end, and its peak of memory in MB."""
    raw = work / paths.RAW
    raw.mkdir(parents=True, exist_ok=True)
    for target, source in ((paths.RAW_MAT, labelled), (paths.RAW_SPLITS, labelled.with_name("splits.mat"))):
        (work / target).unlink(missing_ok=True)
        (work / target).symlink_to(source)
    describe_source(work / paths.RAW_SOURCE, "file")
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", STAGE],
        env=os.environ | {"DVC_EXP_NAME": "preprocess", "DVC_STAGE": "preprocess", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise PipelineError(f"the preprocess stage of the benchmark failed: {done.stderr.strip()[-500:]}")
    return seconds, float(done.stdout.split()[-1])


def _work_s(path: Path, params: Params, shards: Path) -> float:
    started = time.perf_counter()
    settings, augment = params.preprocess, params.augment
    with NyuFile(path, raw_depth=False, stored_order=True) as file:
        splits = read_splits(path.with_name("splits.mat"), len(file), file.scenes)
        write_shards(
            file,
            carve_validation(splits, file.scenes, settings.val_fraction),
            shards,
            size=(settings.height, settings.width),
            border=settings.border,
            augmentation=Augmentation.of(augment.model_dump()),
            copies=augment.copies,
            seed=params.seed,
            facts={},
        )
    return time.perf_counter() - started


def _limit_s(path: Path, shards: Path, folder: Path) -> float:
    """Inflate what preprocessing reads, on all cores, and write files as long as the shards, as durably."""
    lengths = [shard.stat().st_size for shard in shards.glob("*.safetensors")]
    content = np.random.default_rng(0).bytes(max(lengths))
    started = time.perf_counter()
    with h5py.File(path, "r") as file, ThreadPoolExecutor(cores()) as pool:
        for dataset in (file["images"], file["depths"]):
            size = int(np.prod(dataset.chunks)) * dataset.dtype.itemsize

            def unpack(corner: tuple[int, ...], dataset: h5py.Dataset = dataset, size: int = size) -> int:
                return len(inflate(dataset.id.read_direct_chunk(corner)[1], size, 1))

            corners: list[tuple[int, ...]] = []
            dataset.id.chunk_iter(lambda chunk, corners=corners: corners.append(chunk.chunk_offset))
            list(pool.map(unpack, corners))
    for length in lengths:
        with (folder / "limit").open("wb") as out:
            out.write(content[:length])
            out.flush()
            os.fsync(out.fileno())
    return time.perf_counter() - started


def _distinct_frames(folder: Path, count: int) -> tuple[Frames, str]:
    """Frames of 480 x 640 and what they are."""
    if REAL.is_file():
        train, test = count - count // 4, count // 4
        command = [sys.executable, str(REAL), str(folder / "real"), "--train", str(train), "--test", str(test)]
        subprocess.run(command, check=True, capture_output=True)
        with NyuFile(folder / "real" / "nyu_depth_v2_labeled.mat") as file:
            return file.read(0, count), "real"
    images = ImageFiles(folder / "drawn", ImageSizes((HEIGHT, WIDTH), (HEIGHT, WIDTH), count, 1))
    return Drawn(images).read(0, count), "drawn"


def write_labelled(folder: Path, frames: Frames, count: int) -> Path:
    """A labelled file of `count` frames, those given over and over, and its splits: 3 of 4 scenes to train on."""
    folder.mkdir()
    path = folder / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_group("#refs#")
        for name, stored in (
            ("images", frames.rgb_u8.transpose(0, 3, 2, 1)),
            ("depths", frames.depth_m.transpose(0, 2, 1)),
            ("rawDepths", frames.raw_depth_m.transpose(0, 2, 1)),
        ):
            planes = (1,) * (stored.ndim - 3)
            chunk = (SPAN, *planes, stored.shape[-2] // 2, stored.shape[-1] // 2)
            dataset = file.create_dataset(
                name, (count, *stored.shape[1:]), stored.dtype, chunks=chunk, compression="gzip", compression_opts=3
            )
            for corner in np.ndindex(*(side // part for side, part in zip(stored.shape, chunk, strict=True))):
                first = [index * part for index, part in zip(corner, chunk, strict=True)]
                block = stored[tuple(slice(low, low + part) for low, part in zip(first, chunk, strict=True))]
                packed = zlib.compress(block.tobytes(), 3)
                for frame in range(first[0], count, len(stored)):
                    dataset.id.write_direct_chunk((frame, *first[1:]), packed)
        scenes = [f"room_{index // SPAN:04d}" for index in range(count)]
        write_strings(file, "scenes", scenes)
    testing = [index for index in range(count) if index // SPAN % 4 == 1]
    training = [index for index in range(count) if index // SPAN % 4 != 1]
    write_splits(folder / "splits.mat", {"train": training, "test": testing})
    return path
