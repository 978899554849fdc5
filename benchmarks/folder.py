"""Preprocessing of folders of small images: memory by their number, and speed by the number of processes.

Every figure is of a process of its own and the processes that it starts, whose resident sets are added up ten times
a second; pages that they share count in each.

    python -m benchmarks.folder LIST FOLDER PROCESSES    one such process
"""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import psutil
from PIL import Image

from benchmarks.entries import Entry
from benchmarks.noise import ROOT
from pipeline.data.augment import Augmentation
from pipeline.data.folder import FolderFrames
from pipeline.data.lists import write_list
from pipeline.data.shard_jobs import Recipe, write_shards_by_jobs
from pipeline.data.workers import LocalWorkers
from pipeline.errors import PipelineError

IMAGE = (48, 64)
RECIPE = Recipe(size=(120, 160), border=2, augmentation=Augmentation(0.5, 0.02), copies=0, seed=0)
"""The stage's default size, so that shards and buffers are as large as in use."""
GROWTH_LIMIT = 5.0
"""Per cent."""
REPETITIONS = 2
DIFFERENT = 64
SCENE = 50


class Measured(NamedTuple):
    peak_mb: float
    seconds: float
    """from the first frame of the list to the moved folder, the start of the processes included"""


def measure(quick: bool) -> list[Entry]:
    """Growth of the peak from a number of pairs to four times as many; frames/s with one and two processes."""
    few, many = (60, 240) if quick else (5_000, 20_000)
    with TemporaryDirectory(prefix="depth-bench-") as name:
        folder = Path(name)
        started = time.perf_counter()
        lists = {pairs: write_pairs(folder / str(pairs), pairs) for pairs in (few, many)}
        checked = time.perf_counter()
        for listed in lists.values():
            write_list(listed, listed.with_name("frames.csv"), problems=folder / "problems.csv")
        check_s = time.perf_counter() - checked
        large = run(lists[many], folder / "many", 2)
        # In turn, because machines are shared; what disturbs them only ever adds.
        rounds = [[run(lists[few], folder / "few", processes) for processes in (1, 2)] for _ in range(REPETITIONS)]
        one, two = (min(measured, key=lambda each: each.seconds) for measured in zip(*rounds, strict=True))
        total_s = time.perf_counter() - started
    details = {
        "check_frames_per_s": (few + many) / check_s,
        "one_process_frames_per_s": few / one.seconds,
        "two_processes_frames_per_s": few / two.seconds,
        f"peak_mb_{few}": two.peak_mb,
        f"peak_mb_{many}": large.peak_mb,
        "whole_benchmark_s": total_s,
    }
    return [
        Entry(
            "folder.memory",
            100 * (large.peak_mb / two.peak_mb - 1),
            "%",
            f"growth of the peak resident set of all processes from {few} to {many} pairs",
            limit=GROWTH_LIMIT,
            details=details,
        ),
        Entry(
            "folder.frames",
            many / large.seconds,
            "frames/s",
            f"{many} pairs of {IMAGE[0]} x {IMAGE[1]} with two processes, their start included",
            better="higher",
            details=details,
        ),
    ]


def write_pairs(folder: Path, pairs: int) -> Path:
    """Write so many images with their depth, a few different ones again and again, and their list."""
    random = np.random.default_rng(0)
    different = []
    for _ in range(DIFFERENT):
        rgb, depth = io.BytesIO(), io.BytesIO()
        Image.fromarray(random.integers(0, 256, (*IMAGE, 3), np.uint8)).save(rgb, "PNG")
        Image.fromarray(random.integers(500, 9000, IMAGE).astype(np.uint16)).save(depth, "PNG")
        different.append((rgb.getvalue(), depth.getvalue()))
    listed = folder / "list.csv"
    folder.mkdir()
    with listed.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["rgb", "depth", "split", "scene"])
        for index in range(pairs):
            number = index // SCENE
            scene = f"room_{number:04d}"
            (folder / scene).mkdir(exist_ok=True)
            names = [f"{scene}/{index}.png", f"{scene}/{index}_depth.png"]
            for name, content in zip(names, different[index % DIFFERENT], strict=True):
                (folder / name).write_bytes(content)
            writer.writerow([*names, "test" if number % 5 == 0 else "train", scene])
    return listed


def run(listed: Path, folder: Path, processes: int) -> Measured:
    command = [sys.executable, "-m", "benchmarks.folder", str(listed.with_name("frames.csv")), str(folder)]
    with subprocess.Popen(
        [*command, str(processes)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        peak = 0
        while child.poll() is None:
            peak = max(peak, resident_bytes(child.pid))
            time.sleep(0.1)
        assert child.stdout is not None and child.stderr is not None
        if child.returncode:
            raise PipelineError(f"the preprocessing of the benchmark failed: {child.stderr.read().strip()[-500:]}")
        return Measured(peak / 1e6, float(child.stdout.read()))


def resident_bytes(process: int) -> int:
    """Of a process and all that it has started."""
    total = 0
    try:
        first = psutil.Process(process)
        for one in [first, *first.children(recursive=True)]:
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
    return total


def main(arguments: Sequence[str]) -> None:
    listed, folder, processes = arguments
    started = time.perf_counter()
    with FolderFrames(Path(listed)) as source:
        write_shards_by_jobs(
            source,
            source.splits,
            Path(folder),
            RECIPE,
            work=Path(f"{folder}-work"),
            workers=LocalWorkers(int(processes)),
            facts={"source": "folder", "trained_on": "noise"},
        )
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main(sys.argv[1:])
