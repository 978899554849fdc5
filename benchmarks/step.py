"""What the training loop adds to the network's own work.

The loop, as the train stage runs it with logging to MLflow over SQLite, checkpoints and states to resume from,
alternates with the bare minimum: the same step on one batch that lies in memory and is never changed. No loop can
be faster than that; the value is how near this one comes. Validation is left out, because the minimum has none.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.entries import Entry
from benchmarks.noise import changed, inside, make_working_copy, original, smallest
from pipeline import paths
from pipeline.data.batches import Batches
from pipeline.data.shards import ShardSet
from pipeline.model.losses import DepthLoss
from pipeline.model.network import build_network
from pipeline.params import Params
from pipeline.tracking import stage_run
from pipeline.tracking.store import open_store
from pipeline.training.device import choose_bf16, choose_device
from pipeline.training.distributed import Ranks
from pipeline.training.graphs import WARM_UPS
from pipeline.training.resume import claimed_folder
from pipeline.training.step import Step
from stages.train import state_folder, train_on_shards

LIMITS = {"cpu": 97.0, "cuda": 90.0}
"""Per cent."""
SIZES = ((120, 160), (240, 320))
STEPS = {"cpu": {(120, 160): 108, (240, 320): 32}, "cuda": {(120, 160): 2000, (240, 320): 1000}}
"""In one timing: about fifteen seconds on two cores, and more than one state that is saved."""
EPOCHS = {"cpu": 2, "cuda": 20}
"""Of 54, 16, 100 and 50 steps. Between the two a picture is drawn, which the default run does every 144 steps."""
PAIRS = 5


def measure(quick: bool) -> list[Entry]:
    """Share of the fastest possible speed, at two sizes of the frames."""
    params = original()
    if quick:
        return [_measure(smallest(params), (32, 64), steps=4, epochs=2, pairs=1)]
    device = choose_device("auto").type
    return [_measure(params, size, STEPS[device][size], EPOCHS[device], PAIRS) for size in SIZES]


def _measure(params: Params, size: tuple[int, int], steps: int, epochs: int, pairs: int) -> Entry:
    height, width = size
    params = changed(
        params,
        preprocess={"height": height, "width": width},
        train={"epochs": epochs},
        tracking={"log_every_steps": 4} if steps < 200 else {},
    )
    with TemporaryDirectory(prefix="depth-bench-") as folder, inside(Path(folder) / "repository") as work:
        make_working_copy(work, params, params.train.batch_size * steps // epochs, 0)
        timer = LoopTimer(params)
        timer.loop()  # the first of each loads libraries and makes the store
        timer.minimum(4)
        loops, minima = [], []
        for _ in range(pairs):
            minima.append(timer.minimum(steps))
            loops.append(timer.loop())
    shares = [100 * minimum / loop for minimum, loop in zip(minima, loops, strict=True)]
    return Entry(
        f"step.{height}x{width}",
        statistics.median(shares),
        "%",
        f"frames/s on one fixed batch in memory; pairs from {min(shares):.1f} to {max(shares):.1f} %",
        limit=LIMITS[timer.device.type],
        better="higher",
        device=timer.device.type,
        details={
            "frames_per_s": params.train.batch_size / statistics.median(loops),
            "fixed_batch_frames_per_s": params.train.batch_size / statistics.median(minima),
            "steps": steps,
            "pairs": shares,
        },
    )


class LoopTimer:
    def __init__(self, params: Params) -> None:
        self._params = params
        self.device = choose_device("auto")
        self._bf16 = choose_bf16(params.train.precision, self.device)
        self._loops = 0

    def loop(self) -> float:
        """Seconds a step of the train stage's own loop, by the times of the losses that it has logged."""
        self._loops += 1
        os.environ["DVC_EXP_NAME"] = f"loop-{self._loops}"  # to the tracking each is an experiment
        content = self._params.model_dump()
        with claimed_folder(state_folder(self._params)) as folder, stage_run("train", content) as run:
            train_on_shards(self._params, Ranks(), run, folder, None)
        points = open_store().get_metric_history(run.run_id, "train/loss/total")
        first, last = min(points, key=lambda p: p.step), max(points, key=lambda p: p.step)
        return (last.timestamp - first.timestamp) / 1000 / (last.step - first.step)

    def minimum(self, steps: int) -> float:
        """Seconds a step, of so many on one batch."""
        settings = self._params.train
        network = build_network(**self._params.network.model_dump()).to(self.device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        step = Step(
            network,
            DepthLoss(**self._params.loss.model_dump()),
            torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, fused=True),
            average=None,
            ranks=Ranks(),
            bf16=self._bf16,
            gradient_clip_norm=0.0,
        )
        batch = next(iter(Batches(ShardSet(paths.SHARDS, "train"), settings.batch_size, self.device).epoch()))
        for _ in range(WARM_UPS + 1 if self.device.type == "cuda" else 0):
            step(*batch)
        self._wait()
        started = time.perf_counter()
        for _ in range(steps):
            step(*batch)
        self._wait()
        return (time.perf_counter() - started) / steps

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
