"""Stage `train`: shards to the best and the last checkpoint, with the history of the training."""

from __future__ import annotations

import contextlib
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from pipeline.tracking import PipedRun, dismiss_sender, stage_run, start_sender

if __name__ == "__main__" and os.environ.get("RANK", "0") == "0":
    start_sender()  # it imports MLflow while the imports below go on here

import torch

from pipeline import paths
from pipeline.data.augment import Augmentation
from pipeline.data.batches import Batches
from pipeline.data.shards import ShardSet, read_index, verify_shards
from pipeline.data.splits import TRAINED_ON
from pipeline.environment import describe_environment
from pipeline.errors import PipelineError, reported_to_user
from pipeline.files import sha256_of, write_json
from pipeline.model.checkpoint import read_checkpoint_info, start_from
from pipeline.model.losses import DepthLoss
from pipeline.model.network import build_network
from pipeline.params import Params, load_params
from pipeline.stage_key import stage_key
from pipeline.tracking.pictures import SamplePictures
from pipeline.training.device import choose_bf16, claim_device, largest_fitting, memory_shortage_told
from pipeline.training.distributed import Ranks, count_devices, is_launched, joined, launch
from pipeline.training.history import Epoch
from pipeline.training.journal import Journal
from pipeline.training.loop import TrainingOptions, train
from pipeline.training.outputs import OutputFiles
from pipeline.training.recorder import Recorder
from pipeline.training.resume import StateFolder, claimed_folder
from pipeline.training.tracker import NullTracker, Tracker


def main() -> None:
    params = load_params()
    devices = count_devices(params.train.devices, params.train.device)
    if devices > 1 and not is_launched():
        dismiss_sender()
        launch(devices, "stages.train")
        return
    with joined() as ranks, contextlib.ExitStack() as stack:
        folder = saved = run = None
        if ranks.rank == 0:
            folder = stack.enter_context(claimed_folder(state_folder(params)))
            saved = folder.load() if folder else None
            resume = saved["run_id"] if saved else None
            run = stack.enter_context(stage_run("train", params.model_dump(), resume=resume))
            verify_shards(paths.SHARDS, ("train", "val"))
        saved = ranks.from_first(saved)
        train_on_shards(params, ranks, run, folder, saved)


def state_folder(params: Params) -> Path:
    """Where the states of this training are kept."""
    data = [read_index(paths.SHARDS)["fingerprint"], describe_start(params.train.start_from)]
    key = stage_key("train", params, data=data)
    return paths.repository_root() / paths.STATE / "training" / key


def describe_start(path: str | None) -> dict[str, str | None] | None:
    """What is told of the weights to begin with; None for random ones.

    Raises `PipelineError` if there is no such checkpoint, or if it has seen the test frames.
    """
    if path is None:
        return None
    if Path(path) in (paths.BEST_CHECKPOINT, paths.LAST_CHECKPOINT):
        raise PipelineError(f"train.start_from is {path}, which this stage itself makes; copy it elsewhere first")
    if not Path(path).is_file():
        raise PipelineError(f"train.start_from: {path} does not exist")
    info = read_checkpoint_info(path)
    if info.trained_on == TRAINED_ON["all"]:
        raise PipelineError(
            f"train.start_from: {path} was trained on {info.trained_on}, so no score would be of unseen frames; "
            "begin with other weights"
        )
    return {
        "file": Path(path).name,
        "sha256": sha256_of(Path(path)),
        "source": info.source,
        "trained_on": info.trained_on,
    }


def train_on_shards(
    params: Params, ranks: Ranks, run: PipedRun | None, folder: StateFolder | None, saved: dict[str, Any] | None
) -> None:
    """run: the MLflow run, on the first rank only. folder: where states are kept. saved: the one to begin with."""
    settings = params.train
    device = claim_device(settings.device, paths.repository_root() / paths.STATE / "gpu", ranks.local_rank)
    shards = {split: ShardSet(paths.SHARDS, split) for split in ("train", "val")}
    options = params.network.model_dump()
    tracker: Tracker = NullTracker()
    if run is not None:
        environment = describe_environment(str(device))
        run.set_tags(environment)
        write_json(paths.RUN, {"run_id": run.run_id, "environment": environment})
        tracker = run
    journal = Journal(tracker)
    pictures = SamplePictures(shards["val"], shards["train"], settings.epochs, device)
    files = None
    if run is not None:
        files = OutputFiles(shards["train"], options, run.run_id, describe_start(settings.start_from))

    def after_epoch(epoch: Epoch, network: torch.nn.Module, is_best: bool) -> None:
        if ranks.rank == 0:
            pictures.log(journal, network, epoch.epoch, epoch.step)

    torch.manual_seed(params.seed)
    network = build_network(**options)
    if settings.start_from:
        start_from(network, settings.start_from, options)
    network.to(device)
    if ranks.rank == 0 and saved is None:
        pictures.log(journal, network, epoch=0, step=0)
    at_step = params.augment.at == "step"
    augmentation = Augmentation.of(params.augment.model_dump())

    def batches(split: str, **options: Any) -> Batches:
        return Batches(
            shards[split],
            settings.batch_size,
            device,
            resident=settings.resident,
            rank=ranks.rank,
            world=ranks.world,
            **options,
        )

    loss = DepthLoss(**params.loss.model_dump(), mean_over_ranks=ranks.mean if ranks.world > 1 else None)
    with (
        memory_shortage_told(
            "train.batch_size, or preprocess.height and width",
            lambda: _what_fits(options, loss, shards["train"].size, settings.batch_size, device),
        ),
        Recorder(
            journal, files.write if files else lambda _: None, folder, saved, run_id=run and run.run_id
        ) as recorder,
    ):
        train(
            network,
            loss,
            batches("train", shuffle_seed=params.seed, augmentation=augmentation if at_step else None),
            batches("val"),
            TrainingOptions(
                **settings.model_dump(include={field.name for field in fields(TrainingOptions)}),
                bf16=choose_bf16(settings.precision, device),
                log_every_steps=params.tracking.log_every_steps,
            ),
            journal,
            after_epoch,
            recorder,
            ranks,
        )


def _what_fits(
    options: dict[str, Any], loss: DepthLoss, size: tuple[int, int], batch_size: int, device: torch.device
) -> str:
    """Tried with one step, since no formula tells what the libraries take beside the tensors."""

    def attempt(frames: int) -> None:
        network = build_network(**options).to(device)
        depth_m = torch.ones(frames, 1, *size, device=device)
        loss(network(depth_m.expand(-1, 3, -1, -1)), depth_m)["total"].backward()

    fits = largest_fitting(attempt, batch_size)
    return f"; train.batch_size={fits} fits" if fits else "; not even one frame fits"


if __name__ == "__main__":
    with reported_to_user("train"):
        main()
