"""The renderer of rooms against the first version of it in this repository.

That version's code is taken from git's history into a temporary folder. Each rendering is a process of its own that
imports one version or the other and renders a whole set of 480 x 640 frames with two workers: start of the workers,
packing and writing are in the time, imports of the process are not. Both versions take turns. The first version
furnished its rooms otherwise, so the frames are not the same, only as many and from as many scenes.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.entries import Entry
from pipeline import paths
from pipeline.errors import PipelineError

FIRST = "902ea615ee74740046d96a0075e3d2602948e8b4"
"""The commit that brought the renderer, the first whose `render_rooms` works."""
LIMIT = 2.0
WORKERS = 2
_RENDER = """
import json, sys, time
from pathlib import Path
from pipeline.data import rooms

if __name__ == "__main__":
    code, folder, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    if not Path(rooms.__file__).is_relative_to(code):
        sys.exit(f"imported {rooms.__file__} instead of the version in {code}")
    started = time.perf_counter()
    rooms.render_rooms(folder / "rooms.mat", folder / "splits.mat", **settings)
    print(settings["frames"] / (time.perf_counter() - started))
"""


@dataclass(frozen=True)
class Sizes:
    frames: int
    frames_per_scene: int
    stored: tuple[int, int]
    pairs: int


def measure(quick: bool) -> list[Entry]:
    """How many times as many frames a second."""
    sizes = Sizes(2, 1, (48, 64), 1) if quick else Sizes(90, 3, (480, 640), 3)
    root = paths.repository_root()
    speeds: dict[str, list[float]] = {"ours": [], "first": []}
    with TemporaryDirectory(prefix="depth-bench-") as folder:
        first = Path(folder) / "first"
        _check_out_first(root, first)
        for _ in range(sizes.pairs):
            for name, code in (("first", first), ("ours", root)):
                speeds[name].append(_frames_per_s(code, Path(folder) / name, sizes))
    ratios = [ours / peer for ours, peer in zip(speeds["ours"], speeds["first"], strict=True)]
    return [
        Entry(
            "data.rooms",
            statistics.median(ratios),
            "x",
            f"frames/s of the first version ({FIRST[:7]}), {WORKERS} workers; "
            f"pairs from {min(ratios):.2f} to {max(ratios):.2f}",
            limit=LIMIT,
            better="higher",
            details={
                **{f"{name}_frames_per_s": statistics.median(found) for name, found in speeds.items()},
                "pairs": ratios,
                "frames": sizes.frames,
                "stored": list(sizes.stored),
                "workers": WORKERS,
                "first_commit": FIRST,
            },
        )
    ]


def _check_out_first(root: Path, folder: Path) -> None:
    """The first version's `pipeline/` in `folder`. Raises `PipelineError` if git's history does not hold it."""
    try:
        archive = subprocess.run(["git", "archive", FIRST, "pipeline"], cwd=root, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PipelineError(
            f"rooms: the first version of the renderer, commit {FIRST[:7]}, is not in the history of {root}; "
            "run this in a whole clone (git fetch --unshallow)"
        ) from error
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")


def _frames_per_s(code: Path, folder: Path, sizes: Sizes) -> float:
    """Of `render_rooms` of the `pipeline` in `code`."""
    folder.mkdir(exist_ok=True)
    script = folder / "render.py"
    script.write_text(_RENDER, encoding="utf-8")
    height, width = sizes.stored
    settings = {
        "frames": sizes.frames,
        "frames_per_scene": sizes.frames_per_scene,
        "test_fraction": 0.2,
        "seed": 0,
        "height": height,
        "width": width,
        "workers": WORKERS,
    }
    # PYTHONPATH comes before an installed copy. One thread a worker: both have as many processes as cores.
    environment = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(code), str(folder), json.dumps(settings)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise PipelineError(
            f"rooms: rendering with {code} failed: {(done.stderr.strip() or 'killed').splitlines()[-1]}"
        )
    return float(done.stdout)
