"""How the memory of a training grows with its frames, kept in memory and streamed from the shards.

Every figure is the peak resident set of a process of its own, which goes through an epoch and makes its training
steps at the end of it: whatever has gathered by then comes on top of what a step needs.

    python -m benchmarks.memory FOLDER always|never STEPS    the peak of one such process, in MB
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.entries import Entry
from benchmarks.noise import ROOT, NoiseFrames, original
from pipeline.data.batches import Batches
from pipeline.data.shards import ShardSet, write_shards
from pipeline.errors import PipelineError
from pipeline.model.losses import DepthLoss
from pipeline.model.network import build_network

STREAMING_LIMIT = 2.0
"""Per cent: what two equal processes differ by."""
RESIDENT_LIMIT = 1.05
TIMES = 4
"""As many frames in the larger set as in the smaller."""


@dataclass(frozen=True)
class Sizes:
    size: tuple[int, int]
    frames: int
    steps: int
    repetitions: int


def measure(quick: bool) -> list[Entry]:
    """Growth of the peak from a number of frames to four times as many."""
    sizes = Sizes((32, 64), 48, 1, 1) if quick else Sizes((240, 320), 795, 4, 5)
    with TemporaryDirectory(prefix="depth-bench-") as folder:
        sets = {times: Path(folder) / f"{times}x" for times in (1, TIMES)}
        for times, shards in sets.items():
            _write(shards, sizes.size, times * sizes.frames)
        peaks: dict[tuple[str, int], list[float]] = {}
        for _ in range(sizes.repetitions):
            for times, shards in sets.items():
                for resident in ("never", "always"):
                    peaks.setdefault((resident, times), []).append(_peak_mb(shards, resident, sizes.steps))
    medians = {case: statistics.median(found) for case, found in peaks.items()}
    growth_mb = {resident: medians[resident, TIMES] - medians[resident, 1] for resident in ("never", "always")}
    added_mb = (TIMES - 1) * sizes.frames * sizes.size[0] * sizes.size[1] * 5 / 1e6
    told = f"{sizes.frames} frames of {sizes.size[0]} x {sizes.size[1]}"
    details = {
        f"{'streaming' if resident == 'never' else 'resident'}_{times}x_mb": peak
        for (resident, times), peak in medians.items()
    }
    return [
        Entry(
            "memory.streaming",
            100 * growth_mb["never"] / medians["never", 1],
            "%",
            f"growth of the peak resident set from {told} to {TIMES} times as many",
            limit=STREAMING_LIMIT,
            details=details | {f"each_{times}x_mb": peaks["never", times] for times in sets},
        ),
        Entry(
            "memory.resident",
            growth_mb["always"] / added_mb,
            "x",
            f"the {added_mb:.0f} MB that {TIMES} times {told} have more, in memory once",
            limit=RESIDENT_LIMIT,
            details=details | {f"each_{times}x_mb": peaks["always", times] for times in sets},
        ),
    ]


def _write(folder: Path, size: tuple[int, int], frames: int) -> None:
    write_shards(
        NoiseFrames(size, frames),
        {"train": list(range(frames)), "val": [], "test": []},
        folder,
        size=size,
        border=0,
        augmentation=None,
        copies=0,
        seed=0,
        facts={"source": "noise", "trained_on": "noise"},
    )


def _peak_mb(shards: Path, resident: str, steps: int) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", str(shards), resident, str(steps)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise PipelineError(f"the training of the benchmark failed: {done.stderr.strip()[-500:]}")
    return float(done.stdout)


def main() -> None:
    folder, resident, steps = sys.argv[1:]
    params = original()
    network = build_network(**params.network.model_dump())
    optimizer = torch.optim.AdamW(network.parameters(), lr=params.train.learning_rate)
    loss = DepthLoss(**params.loss.model_dump())
    batches = Batches(
        ShardSet(folder, "train"),
        params.train.batch_size,
        torch.device("cpu"),
        shuffle_seed=0,
        resident="always" if resident == "always" else "never",
    )
    for step, (rgb, depth_m) in enumerate(batches.epoch()):
        if step >= len(batches) - int(steps):
            optimizer.zero_grad(set_to_none=True)
            loss(network(rgb), depth_m, depth_m > 0)["total"].backward()
            optimizer.step()
    print(peak_kb() / 1000)


def peak_kb() -> int:
    """Of this program. What `getrusage` tells is no less than the peak of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
