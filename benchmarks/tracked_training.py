"""A process of the benchmark `tracking`: one training in the working directory, which tells its times as JSON.

`python -m benchmarks.tracked_training KIND EPOCHS STARTED`: kind is `tracked` or `untracked`; with 0 epochs it only
starts; started is what the monotonic clock showed before the process was. It does what the train stage does, in the
same order, and looks at the clock in between.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and sys.argv[1] == "tracked":
    from pipeline.tracking import start_sender

    start_sender()

import ctypes
import json
import threading
import time
from collections.abc import Callable
from dataclasses import fields

import torch

from pipeline import paths
from pipeline.data.batches import Batches
from pipeline.data.shards import ShardSet, verify_shards
from pipeline.environment import describe_environment
from pipeline.files import write_json
from pipeline.model.losses import DepthLoss
from pipeline.model.network import build_network
from pipeline.params import Params, load_params
from pipeline.training.history import Epoch
from pipeline.training.journal import Journal
from pipeline.training.loop import TrainingOptions, train
from pipeline.training.outputs import OutputFiles
from pipeline.training.recorder import Recorder
from pipeline.training.tracker import NullTracker, Tracker

PICTURE_EVERY = 4
"""Epochs; in the default run it is five."""


def main() -> None:
    kind, epochs, started = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    make = train_tracked if kind == "tracked" else train_untracked
    print(json.dumps(make(load_params(), epochs, started)))


def train_untracked(params: Params, epochs: int, started: float) -> dict[str, float]:
    training = _Training(params, epochs)
    ready_s = time.monotonic() - started
    return training.run(NullTracker(), None, lambda network, epoch, step: None) | {"ready_s": ready_s}


def train_tracked(params: Params, epochs: int, started: float) -> dict[str, float]:
    """Seconds of the loop, and of each thing in it and around it that only tracking needs."""
    from pipeline.tracking import stage_run
    from pipeline.tracking.pictures import MOMENTS, SamplePictures

    training = _Training(params, epochs)
    pictures = SamplePictures(training.val, training.train, PICTURE_EVERY * (MOMENTS - 1), training.device)
    times = {"pictures_s": 0.0}
    asked = time.monotonic()
    with stage_run("train", params.model_dump()) as run:
        times["waited_s"] = time.monotonic() - asked
        run.set_tags(describe_environment(str(training.device)))
        write_json(paths.RUN, {"run_id": run.run_id})
        times["ready_s"] = time.monotonic() - started
        in_caller_s, sender_s = run.in_caller_s, _processor_s(run.sender.process)
        journal = Journal(run)

        def log_pictures(network: torch.nn.Module, epoch: int, step: int) -> None:
            started = time.perf_counter()
            pictures.log(journal, network, epoch, step)
            times["pictures_s"] += time.perf_counter() - started
            if epoch == 1:
                times["sender_first_s"] = _processor_s(run.sender.process) - sender_s

        times |= training.run(journal, run.run_id, log_pictures)
        times["callers_s"] = run.in_caller_s - in_caller_s
        times["sender_s"] = _processor_s(run.sender.process) - sender_s
        times["sender_opening_s"] = sender_s
        ended = time.monotonic()
    return times | {"close_s": time.monotonic() - ended}


def _processor_s(sender: int) -> float:
    """Processor time so far of the process that sends, and of this one's threads that speak to it."""
    threads = [thread.ident for thread in threading.enumerate() if thread.name.startswith("sender-")]
    clocks = [time.pthread_getcpuclockid(ident) for ident in threads if ident is not None]
    process = ctypes.c_int()
    if ctypes.CDLL(None).clock_getcpuclockid(sender, ctypes.byref(process)):
        raise OSError(f"the processor time of process {sender} cannot be told")
    return sum(time.clock_gettime(clock) for clock in [*clocks, process.value])


class _Training:
    """The train stage's work without its tracking."""

    def __init__(self, params: Params, epochs: int) -> None:
        self._params, self._epochs = params, epochs
        self.device = torch.device("cpu")
        verify_shards(paths.SHARDS, ("train", "val"))
        self.train, self.val = (ShardSet(paths.SHARDS, split) for split in ("train", "val"))

    def run(
        self, tracker: Tracker, run_id: str | None, log_pictures: Callable[[torch.nn.Module, int, int], None]
    ) -> dict[str, float]:
        """Seconds of the training loop with checkpoints and history, and the processor time in it."""
        if not self._epochs:
            return {}
        params, settings = self._params, self._params.train
        options = params.network.model_dump()
        shared = {field.name for field in fields(TrainingOptions)} - {"epochs"}
        self._warm_up()
        torch.manual_seed(params.seed)
        network = build_network(**options).to(self.device)
        journal = tracker if isinstance(tracker, Journal) else Journal(tracker)
        files = OutputFiles(self.train, options, run_id)

        def after_epoch(epoch: Epoch, network: torch.nn.Module, is_best: bool) -> None:
            log_pictures(network, epoch.epoch, epoch.step)

        started, processor_s = time.perf_counter(), time.process_time()
        log_pictures(network, 0, 0)
        with Recorder(journal, files.write) as recorder:
            train(
                network,
                DepthLoss(**params.loss.model_dump()),
                Batches(self.train, settings.batch_size, self.device, shuffle_seed=params.seed),
                Batches(self.val, settings.batch_size, self.device),
                TrainingOptions(
                    **settings.model_dump(include=shared),
                    epochs=self._epochs,
                    bf16=False,
                    log_every_steps=params.tracking.log_every_steps,
                ),
                journal,
                after_epoch,
                recorder,
            )
        return {
            "loop_s": time.perf_counter() - started,
            "processor_s": time.process_time() - processor_s,
        }

    def _warm_up(self) -> None:
        """One step on weights that are thrown away: the first in a process imports and compiles for seconds."""
        network = build_network(**self._params.network.model_dump())
        optimizer = torch.optim.AdamW(network.parameters())
        rgb, depth_m = next(iter(Batches(self.train, self._params.train.batch_size, self.device).epoch()))
        DepthLoss(**self._params.loss.model_dump())(network(rgb), depth_m, depth_m > 0)["total"].backward()
        optimizer.step()


if __name__ == "__main__":
    main()
