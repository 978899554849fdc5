"""What logging to MLflow costs the default run: over its SQLite file, and over a server on loopback.

Trainings of the default run's shape alternate: with a tracker that keeps nothing, with the real one over SQLite,
with the real one over HTTP, each in a process of its own. Two figures come of it.

The share adds up everything that only tracking needs: seconds that the training's calls were kept waiting,
processor time of the threads that send and that sample the machine's load, sample pictures, and opening and
closing of the run. Opening and closing do not grow with the epochs, so they are spread over those of the default
run (`train.epochs`), not over the few that are run here. Left out, and told beside it: the import of mlflow, which
a stage pays before its training, and the tables of a new store, which are made once in a repository's life.

The ratio is the training loop's time with the tracker over that without, the median over pairs. It contains
what no clock inside sees, such as threads that get in each other's way; but a machine shared with others makes it
uncertain by several per cent, which is why the range of the pairs stands beside it. Crowding also stretches the
training time that the share is divided by, while a thread's processor time stays: figures count where
`cores_that_a_training_got` is near the number of cores.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import yaml

from benchmarks.entries import Entry
from pipeline import paths
from pipeline.data.frames import Frames
from pipeline.data.shards import write_shards
from pipeline.errors import PipelineError
from pipeline.params import Params, load_params
from pipeline.ui import answers, mlflow_server

SHARE_LIMITS = {"sqlite": 1.0, "http": 2.0}
"""Per cent of the training time."""
PAIRS = 3
EPOCHS = 4
"""With the sample picture before training: one in four epochs, as in the default run, which has five in 20."""
TRAIN_FRAMES, VAL_FRAMES = 576, 32
"""Of the default run: 36 steps of 16."""


@dataclass(frozen=True)
class Sizes:
    train_frames: int
    val_frames: int
    epochs: int
    pairs: int
    """0 for only the first training of each kind"""


def measure(quick: bool) -> list[Entry]:
    """Shares and ratios over SQLite and over HTTP."""
    params = load_params(paths.repository_root() / paths.PARAMS)
    sizes = Sizes(TRAIN_FRAMES, VAL_FRAMES, EPOCHS, PAIRS)
    if quick:
        params, sizes = _smallest(params), Sizes(12, 2, 2, 0)
    with TemporaryDirectory(prefix="depth-bench-") as folder, contextlib.ExitStack() as stack:
        work = Path(folder) / "repository"
        _make_repository(work, params, sizes)
        stores: dict[str, str | None] = {
            "none": None,
            "sqlite": f"sqlite:///{work / 'mlflow.db'}",
            "http": stack.enter_context(_server(Path(folder))),
        }
        # The first of each makes the store's tables and warms the files; it counts for nothing else.
        first = {
            kind: _train(work, uri, sizes.epochs if quick else 1, f"first-{kind}") for kind, uri in stores.items()
        }
        trainings: dict[str, list[dict[str, float]]] = {kind: [] for kind in stores}
        for pair in range(sizes.pairs):
            order = list(stores)[pair % 3 :] + list(stores)[: pair % 3]
            for kind in order:
                trainings[kind].append(_train(work, stores[kind], sizes.epochs, f"{kind}-{pair}"))
    measured = {kind: trainings[kind] or [first[kind]] for kind in stores}
    untracked_s = [times["loop_s"] for times in measured["none"]]
    return [
        entry
        for kind, limit in SHARE_LIMITS.items()
        for entry in _entries(
            kind, limit, first[kind], measured[kind], untracked_s, sizes.epochs, params.train.epochs
        )
    ]


def _entries(
    kind: str,
    limit: float,
    first: dict[str, float],
    tracked: Sequence[dict[str, float]],
    untracked_s: Sequence[float],
    epochs: int,
    default_epochs: int,
) -> list[Entry]:
    def median(key: str) -> float:
        return statistics.median(times[key] for times in tracked)

    def mean(key: str) -> float:
        return statistics.mean(times[key] for times in tracked)

    run_s = statistics.median(untracked_s) / epochs * default_epochs
    # The threads' first epoch holds what comes once: parameters, tags, code that is loaded when first needed.
    later_s = (mean("threads_s") - mean("threads_first_s")) / (epochs - 1)
    parts = {
        "callers_s": 100 * mean("callers_s") / epochs * default_epochs / run_s,
        "threads_s": 100 * (mean("threads_first_s") + later_s * (default_epochs - 1)) / run_s,
        "pictures_s": 100 * mean("pictures_s") / epochs * default_epochs / run_s,
    }
    fixed = 100 * (median("open_s") + median("close_s")) / run_s
    ratios = [times["loop_s"] / other for times, other in zip(tracked, untracked_s, strict=True)]
    return [
        Entry(
            f"tracking.{kind}",
            sum(parts.values()) + fixed,
            "%",
            f"training time of the default run, {default_epochs} epochs in {run_s:.0f} s without a tracker",
            limit=limit,
            details={
                "share_callers_waiting": parts["callers_s"],
                "share_threads": parts["threads_s"],
                "share_pictures": parts["pictures_s"],
                "share_opening_and_closing": fixed,
                "opening_s": median("open_s"),
                "closing_s": median("close_s"),
                "mlflow_import_s": median("import_s"),
                "first_opening_of_a_new_store_s": first["open_s"],
                "cores_that_a_training_got": statistics.median(t["processor_s"] / t["loop_s"] for t in tracked),
                "epochs_run": epochs,
                "trainings": len(tracked),
            },
        ),
        Entry(
            f"tracking.{kind}.ratio",
            statistics.median(ratios),
            "x",
            f"the same loop without a tracker; pairs from {min(ratios):.3f} to {max(ratios):.3f}",
            details={
                "pairs": ratios,
                "untracked_s": list(untracked_s),
                "tracked_s": [t["loop_s"] for t in tracked],
            },
        ),
    ]


def _train(work: Path, uri: str | None, epochs: int, name: str) -> dict[str, float]:
    """The times of one training in a new process, as `dvc exp run` would start it."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_"))}
    root = str(Path(__file__).resolve().parents[1])
    ours |= {"DVC_ROOT": str(work), "DVC_EXP_NAME": name, "DVC_EXP_BASELINE_REV": "0" * 40, "PYTHONPATH": root}
    if uri is not None:
        ours["MLFLOW_TRACKING_URI"] = uri
    command = [sys.executable, "-m", "benchmarks.tracked_training", str(epochs), "tracked" if uri else "untracked"]
    done = subprocess.run(command, cwd=work, env=ours, capture_output=True, text=True)
    if done.returncode:
        raise PipelineError(f"the training of the benchmark failed: {done.stderr.strip()[-500:]}")
    if "warning:" in done.stderr:
        raise PipelineError(f"the store was not reached, so nothing was measured: {done.stderr.strip()[-500:]}")
    times: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return times


def _smallest(params: Params) -> Params:
    content = params.model_dump()
    content["preprocess"] |= {"height": 32, "width": 64}
    content["network"] |= {"width": 4}
    content["train"] |= {"batch_size": 2}
    return Params.model_validate(content)


class _RandomFrames:
    """Frames of noise: how long a step takes does not depend on what is seen."""

    def __init__(self, size: tuple[int, int], frames: int) -> None:
        self.size = size
        self.names = [str(number) for number in range(frames)]
        self.scenes = self.scene_types = ["noise"] * frames
        self.slab_frames = 64

    def __len__(self) -> int:
        return len(self.names)

    def read(self, start: int, stop: int) -> Frames:
        random = np.random.default_rng(start)
        depth_m = random.uniform(1.0, 9.0, (stop - start, *self.size)).astype(np.float32)
        return Frames(random.integers(0, 256, (stop - start, *self.size, 3), np.uint8), depth_m, depth_m)


def _make_repository(work: Path, params: Params, sizes: Sizes) -> None:
    work.mkdir()
    (work / paths.PARAMS).write_text(yaml.safe_dump(params.model_dump()), encoding="utf-8")
    size = (params.preprocess.height, params.preprocess.width)
    frames = sizes.train_frames + sizes.val_frames
    numbers = list(range(frames))
    write_shards(
        _RandomFrames(size, frames),
        {"train": numbers[: sizes.train_frames], "val": numbers[sizes.train_frames :], "test": []},
        work / paths.SHARDS,
        size=size,
        border=0,
        augmentation=None,
        copies=0,
        seed=0,
        facts={"source": "noise", "trained_on": "noise"},
    )


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[str]:
    """`mlflow server` on loopback over an SQLite file of its own; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "server.log"
    with mlflow_server(port, f"sqlite:///{folder / 'server.db'}", folder / "artifacts", log) as server:
        if not answers(server, port):
            raise PipelineError(f"mlflow server does not start: {log.read_text(encoding='utf-8')[-500:]}")
        yield f"http://127.0.0.1:{port}"
