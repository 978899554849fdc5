"""A whole training of the size of NYU Depth v2 on a GPU: 100 epochs of 795 frames at 240 x 320, batch 16.

The time of the loop is by the times of the losses that it logs, so the first ten steps are left out, in which
CUDA's libraries are loaded; the ends of all epochs but the last, logging, states and checkpoints are in it. There
are no validation frames. `stage_s` tells what the whole took: opening the run, bringing the frames to the GPU,
training, sending the rest, closing the run; that of the first training also holds what a new process loads.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.entries import Entry
from benchmarks.noise import changed, inside, make_working_copy, original
from benchmarks.step import LoopTimer
from pipeline.training.device import choose_device

LIMIT_S = 10.0
TRAININGS = 3
FRAMES, EPOCHS, SIZE = 795, 100, {"height": 240, "width": 320}


def measure(quick: bool) -> list[Entry]:
    """Seconds of the training loop with logging, checkpoints and states; nothing without a GPU."""
    if choose_device("auto").type != "cuda":
        print("gpu100: not measured, PyTorch sees no GPU")
        return []
    epochs = 2 if quick else EPOCHS
    params = changed(original(), preprocess=SIZE, train={"epochs": epochs})
    with TemporaryDirectory(prefix="depth-bench-") as folder, inside(Path(folder) / "repository") as work:
        make_working_copy(work, params, FRAMES, 0)
        timer = LoopTimer(params)
        loop_s, stage_s = [], []
        for _ in range(TRAININGS):
            started = time.perf_counter()
            loop_s.append(timer.loop() * epochs * -(-FRAMES // params.train.batch_size))
            stage_s.append(time.perf_counter() - started)
    return [
        Entry(
            "gpu100",
            statistics.median(loop_s),
            "s",
            f"the train loop with its logging; {min(loop_s):.2f} to {max(loop_s):.2f} s",
            limit=LIMIT_S,
            device="cuda",
            details={"loop_s": loop_s, "stage_s": stage_s, "epochs": epochs},
        )
    ]
