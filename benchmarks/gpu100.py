"""A whole training of the size of NYU Depth v2 on a GPU: 100 epochs of 795 frames at 240 x 320, batch 16.

The time is that of all that the train stage does in it: opening the MLflow run, bringing the frames to the GPU,
making graphs, training, logging, saving states and checkpoints, closing the run.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.entries import Entry
from benchmarks.noise import changed, inside, make_working_copy
from benchmarks.step import LoopTimer
from pipeline import paths
from pipeline.params import load_params
from pipeline.training.device import choose_device

LIMIT_S = 10.0
FRAMES, EPOCHS, SIZE = 795, 100, {"height": 240, "width": 320}


def measure(quick: bool) -> list[Entry]:
    """Seconds of the training loop with logging, checkpoints and states; nothing without a GPU."""
    if choose_device("auto").type != "cuda":
        print("gpu100: not measured, PyTorch sees no GPU")
        return []
    epochs = 2 if quick else EPOCHS
    params = changed(load_params(paths.repository_root() / paths.PARAMS), preprocess=SIZE, train={"epochs": epochs})
    with TemporaryDirectory(prefix="depth-bench-") as folder, inside(Path(folder) / "repository") as work:
        make_working_copy(work, params, FRAMES, 0)
        timer = LoopTimer(params)
        seconds, step_ms = [], []
        for _ in range(3):
            started = time.perf_counter()
            step_ms.append(1000 * timer.loop())
            seconds.append(time.perf_counter() - started)
    return [
        Entry(
            "gpu100",
            seconds[0],
            "s",
            "from the opening of the MLflow run to its end, in a new process",
            limit=LIMIT_S,
            device="cuda",
            details={"again_s": seconds[1:], "step_ms": step_ms, "epochs": epochs},
        )
    ]
