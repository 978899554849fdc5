"""What logging to MLflow costs the default run: over its SQLite file, and over a server on loopback.

Trainings of the default run's shape alternate: with a tracker that keeps nothing, with the real one over SQLite,
with the real one over HTTP, each in a process of its own as a stage is. Two figures come of it.

The share adds up everything that only tracking needs.
- Opening: how much later a training could begin than without a tracker, from the start of its process. A process
  beside it imports MLflow and opens the run, during imports that the training needs itself; what remains is what
  it waits for that process, what it imports for its pictures, and what two processes that start at once take from
  each other. It is the difference of medians over starts that do nothing else.
- Closing: seconds that the end of the training waited until everything was sent and the other process gone.
  Opening and closing do not grow with the epochs, so they are spread over those of the default run.
- Processor time of that other process while the training runs: sending, and sampling the machine's load; and of
  the training's threads that speak to it. On a machine whose cores all train it is time taken from them.
- Seconds that the calls of the tracker took, and those in which sample pictures were predicted and drawn.
Left out, and told beside it: the processor time of the opening, which a second core spends, and the tables of a new
store, which are made once in a repository's life.

The ratio is the training loop's time with the tracker over that without, the median over pairs. It contains
what no clock inside sees, such as processes that get in each other's way; but a machine shared with others makes it
uncertain by several per cent, which is why the range of the pairs stands beside it. Crowding also stretches the
training time that the share is divided by, and the wait for the other process at the start: figures count where
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
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.entries import Entry
from benchmarks.noise import ROOT, make_working_copy, original, smallest
from benchmarks.tracked_training import PICTURE_EVERY
from pipeline.errors import PipelineError
from pipeline.tracking.pictures import MOMENTS
from pipeline.ui import answers, mlflow_server

SHARE_LIMITS = {"sqlite": 1.0, "http": 2.0}
"""Per cent of the training time."""
PAIRS = 3
EPOCHS = 5
STARTS = 7
"""That end when a training could begin."""
TRAIN_FRAMES, VAL_FRAMES = 576, 32
"""Of the default run: 36 steps of 16."""


@dataclass(frozen=True)
class Sizes:
    train_frames: int
    val_frames: int
    epochs: int
    pairs: int
    """0 for only the first training of each kind"""
    starts: int


def measure(quick: bool) -> list[Entry]:
    """Shares and ratios over SQLite and over HTTP."""
    params = original()
    sizes = Sizes(TRAIN_FRAMES, VAL_FRAMES, EPOCHS, PAIRS, STARTS)
    if quick:
        params, sizes = smallest(params), Sizes(12, 2, 2, 0, 1)
    with TemporaryDirectory(prefix="depth-bench-") as folder, contextlib.ExitStack() as stack:
        work = Path(folder) / "repository"
        make_working_copy(work, params, sizes.train_frames, sizes.val_frames)
        stores: dict[str, str | None] = {
            "none": None,
            "sqlite": f"sqlite:///{work / 'mlflow.db'}",
            "http": stack.enter_context(_server(Path(folder))),
        }
        # The first of each makes the store's tables and warms the files; it counts for nothing else.
        first = {
            kind: _train(work, uri, sizes.epochs if quick else 1, f"first-{kind}") for kind, uri in stores.items()
        }
        starts = _alternate(work, stores, 0, sizes.starts)
        trainings = _alternate(work, stores, sizes.epochs, sizes.pairs)
    measured = {kind: _Measured(first[kind], starts[kind], trainings[kind] or [first[kind]]) for kind in stores}
    return [
        entry
        for kind, limit in SHARE_LIMITS.items()
        for entry in _entries(kind, limit, measured[kind], measured["none"], sizes.epochs, params.train.epochs)
    ]


@dataclass(frozen=True)
class _Measured:
    """The times of trainings of one kind: of the first, of those that only started, of those that count."""

    first: dict[str, float]
    starts: list[dict[str, float]]
    trainings: list[dict[str, float]]

    def median(self, key: str) -> float:
        return statistics.median(times[key] for times in self.trainings)

    def mean(self, key: str) -> float:
        return statistics.mean(times[key] for times in self.trainings)

    @property
    def ready_s(self) -> float:
        return statistics.median(times["ready_s"] for times in self.starts)


def _alternate(
    work: Path, stores: Mapping[str, str | None], epochs: int, rounds: int
) -> dict[str, list[dict[str, float]]]:
    """The times of so many trainings of each kind, each round in another order."""
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in stores}
    for number in range(rounds):
        order = list(stores)[number % 3 :] + list(stores)[: number % 3]
        for kind in order:
            found[kind].append(_train(work, stores[kind], epochs, f"{kind}-{epochs}-{number}"))
    return found


def _entries(
    kind: str, limit: float, tracked: _Measured, untracked: _Measured, epochs: int, default_epochs: int
) -> list[Entry]:
    run_s = untracked.median("loop_s") / epochs * default_epochs
    opening_s = max(0.0, tracked.ready_s - untracked.ready_s)
    # The sender's first epoch holds what comes once: parameters, tags, code that is loaded when first needed.
    later_s = (tracked.mean("sender_s") - tracked.mean("sender_first_s")) / (epochs - 1)
    parts_s = {
        "opening_and_closing": opening_s + tracked.median("close_s"),
        "sender": tracked.mean("sender_first_s") + later_s * (default_epochs - 1),
        "callers_waiting": tracked.mean("callers_s") / epochs * default_epochs,
        "pictures": tracked.mean("pictures_s") / (1 + epochs // PICTURE_EVERY) * MOMENTS,
    }
    ratios = [
        times["loop_s"] / other["loop_s"]
        for times, other in zip(tracked.trainings, untracked.trainings, strict=True)
    ]
    return [
        Entry(
            f"tracking.{kind}",
            100 * sum(parts_s.values()) / run_s,
            "%",
            f"training time of the default run, {default_epochs} epochs in {run_s:.0f} s without a tracker",
            limit=limit,
            details={
                **{f"share_{name}": 100 * part_s / run_s for name, part_s in parts_s.items()},
                "opening_s": opening_s,
                "closing_s": tracked.median("close_s"),
                "start_to_open_s": tracked.ready_s,
                "start_without_a_tracker_s": untracked.ready_s,
                "processor_s_of_the_opening": tracked.median("sender_opening_s"),
                "first_opening_of_a_new_store_s": tracked.first["waited_s"],
                "cores_that_a_training_got": statistics.median(
                    times["processor_s"] / times["loop_s"] for times in tracked.trainings
                ),
                "epochs_run": epochs,
                "trainings": len(tracked.trainings),
                "starts": len(tracked.starts),
            },
        ),
        Entry(
            f"tracking.{kind}.ratio",
            statistics.median(ratios),
            "x",
            f"the same loop without a tracker; pairs from {min(ratios):.3f} to {max(ratios):.3f}",
            details={
                "pairs": ratios,
                "untracked_s": [times["loop_s"] for times in untracked.trainings],
                "tracked_s": [times["loop_s"] for times in tracked.trainings],
            },
        ),
    ]


def _train(work: Path, uri: str | None, epochs: int, name: str) -> dict[str, float]:
    """The times of one training in a new process, as DVC would start it; with 0 epochs of its start."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_"))}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    ours |= {"DVC_ROOT": str(work), "DVC_EXP_NAME": name, "DVC_EXP_BASELINE_REV": "0" * 40, "PYTHONPATH": path}
    if uri is not None:
        ours["MLFLOW_TRACKING_URI"] = uri
    command = [sys.executable, "-m", "benchmarks.tracked_training", "tracked" if uri else "untracked", str(epochs)]
    done = subprocess.run([*command, str(time.monotonic())], cwd=work, env=ours, capture_output=True, text=True)
    if done.returncode:
        raise PipelineError(f"the training of the benchmark failed: {done.stderr.strip()[-500:]}")
    if "warning:" in done.stderr:
        raise PipelineError(f"the store was not reached, so nothing was measured: {done.stderr.strip()[-500:]}")
    times: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return times


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
