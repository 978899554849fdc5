"""A whole training of the size of NYU Depth v2 on a GPU: 100 epochs of 795 frames at 240 x 320, batch 16."""

from __future__ import annotations

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
        seconds = [timer.loop() * epochs * -(-FRAMES // params.train.batch_size) for _ in range(2)]
    return [
        Entry(
            "gpu100",
            min(seconds),
            "s",
            "a training that a person waits for",
            limit=LIMIT_S,
            device="cuda",
            details={"first_s": seconds[0], "second_s": seconds[1], "epochs": epochs},
        )
    ]
