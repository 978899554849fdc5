"""A process of the benchmark `tracking`: one training in the working directory, which tells its times as JSON.

It does what the train stage does, and looks at the clock in between. A process of its own, since a stage is one
too: the first opening of a store in a process costs more than any later one.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import pandas as pd
import torch

from pipeline import paths
from pipeline.data.batches import Batches
from pipeline.data.shards import ShardSet
from pipeline.environment import describe_environment
from pipeline.files import write_json, written_whole
from pipeline.model.checkpoint import CheckpointInfo, save_checkpoint
from pipeline.model.losses import DepthLoss
from pipeline.model.network import build_network
from pipeline.params import Params, load_params
from pipeline.training.history import Epoch
from pipeline.training.loop import TrainingOptions, train
from pipeline.training.tracker import NullTracker, Tracker


def main() -> None:
    epochs, tracked = int(sys.argv[1]), sys.argv[2] == "tracked"
    params = load_params()
    times = train_tracked(params, epochs) if tracked else train_untracked(params, epochs)
    print(json.dumps(times))


def train_untracked(params: Params, epochs: int) -> dict[str, float]:
    training = _Training(params, epochs)
    return training.run(NullTracker(), lambda network, epoch, step: None)


def train_tracked(params: Params, epochs: int) -> dict[str, float]:
    """Seconds of the loop, and of each thing in it and around it that only tracking needs."""
    started = time.perf_counter()
    from pipeline.tracking import stage_run
    from pipeline.tracking.pictures import SamplePictures

    times = {"import_s": time.perf_counter() - started, "pictures_s": 0.0}
    training = _Training(params, epochs)
    pictures = SamplePictures(training.val, training.train, params.train.epochs, training.device)
    before = set(threading.enumerate())
    started = time.perf_counter()
    with stage_run("train", params.model_dump()) as run:
        run.set_tags(describe_environment(str(training.device)))
        write_json(paths.RUN, {"run_id": run.run_id})
        threads = [thread for thread in threading.enumerate() if thread not in before]
        times["open_s"] = time.perf_counter() - started
        in_caller_before_s, threads_before_s = run.in_caller_s, _processor_s(threads)

        def log_pictures(network: torch.nn.Module, epoch: int, step: int) -> None:
            started, in_caller_s = time.perf_counter(), run.in_caller_s
            pictures.log(run, network, epoch, step)
            # What the run itself took of it is counted among its calls.
            times["pictures_s"] += time.perf_counter() - started - (run.in_caller_s - in_caller_s)
            if epoch == 1:
                times["threads_first_s"] = _processor_s(threads) - threads_before_s

        times |= training.run(run, log_pictures)
        times["callers_s"] = run.in_caller_s - in_caller_before_s
        times["threads_s"] = _processor_s(threads) - threads_before_s
        started = time.perf_counter()
    return times | {"close_s": time.perf_counter() - started}


def _processor_s(threads: list[threading.Thread]) -> float:
    """Processor time of living threads: that of the sender and of the one that samples the machine's load."""
    return sum(
        time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threads
        if thread.ident is not None and thread.is_alive()
    )


class _Training:
    """The train stage's work without its tracking."""

    def __init__(self, params: Params, epochs: int) -> None:
        self._params, self._epochs = params, epochs
        self.device = torch.device("cpu")
        self.train, self.val = (ShardSet(paths.SHARDS, split) for split in ("train", "val"))

    def run(self, tracker: Tracker, log_pictures: Any) -> dict[str, float]:
        """Seconds of the training loop with checkpoints and history, and the processor time in it."""
        params, settings = self._params, self._params.train
        options = params.network.model_dump()
        self._warm_up()
        torch.manual_seed(params.seed)
        network = build_network(**options).to(self.device)
        info = {
            "architecture": options.pop("architecture"),
            "options": options,
            "input_size": self.train.size,
            "border": self.train.index["border"],
            "data_fingerprint": self.train.index["fingerprint"],
            "trained_on": self.train.index["trained_on"],
            "run_id": None,
        }
        history: list[Epoch] = []

        def after_epoch(epoch: Epoch, network: torch.nn.Module, is_best: bool) -> None:
            history.append(epoch)
            told = CheckpointInfo(**info, epoch=epoch.epoch, val_rmse=epoch.val.get("rmse"))
            save_checkpoint(paths.LAST_CHECKPOINT, network, told)
            if is_best:
                save_checkpoint(paths.BEST_CHECKPOINT, network, told)
            with written_whole(paths.HISTORY) as partial:
                pd.DataFrame([epoch.row() for epoch in history]).to_csv(partial, index=False)
            log_pictures(network, epoch.epoch, epoch.step)

        started, processor_s = time.perf_counter(), time.process_time()
        log_pictures(network, 0, 0)
        train(
            network,
            DepthLoss(params.loss.ssim_weight).to(self.device),
            Batches(self.train, settings.batch_size, self.device, shuffle_seed=params.seed),
            Batches(self.val, settings.batch_size, self.device),
            TrainingOptions(
                **settings.model_dump(exclude={"batch_size", "precision", "device", "epochs"}),
                epochs=self._epochs,
                bf16=False,
                log_every_steps=params.tracking.log_every_steps,
            ),
            tracker,
            after_epoch,
        )
        return {
            "loop_s": time.perf_counter() - started,
            "processor_s": time.process_time() - processor_s,
        }

    def _warm_up(self) -> None:
        """One step on weights that are thrown away: the first in a process imports and compiles for seconds."""
        network = build_network(**self._params.network.model_dump())
        optimizer = torch.optim.AdamW(network.parameters())
        rgb, depth_m = next(Batches(self.train, self._params.train.batch_size, self.device).epoch())
        DepthLoss(self._params.loss.ssim_weight)(network(rgb), depth_m, depth_m > 0)["total"].backward()
        optimizer.step()


if __name__ == "__main__":
    main()
