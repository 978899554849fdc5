"""Stage `train`: shards to the best and the last checkpoint, with the history of the training."""

from __future__ import annotations

import pandas as pd
import torch

from pipeline import paths
from pipeline.data.augment import Augmentation
from pipeline.data.batches import Batches
from pipeline.data.shards import ShardSet
from pipeline.environment import describe_environment
from pipeline.errors import reported_to_user
from pipeline.files import write_json, written_whole
from pipeline.model.checkpoint import CheckpointInfo, save_checkpoint
from pipeline.model.losses import DepthLoss
from pipeline.model.network import build_network
from pipeline.params import Params, load_params
from pipeline.tracking import Run, stage_run
from pipeline.tracking.pictures import SamplePictures
from pipeline.training.device import choose_bf16, claim_device, memory_shortage_told
from pipeline.training.history import Epoch
from pipeline.training.loop import TrainingOptions, train


def main() -> None:
    params = load_params()
    memory = memory_shortage_told("train.batch_size, or preprocess.height and width")
    with stage_run("train", params.model_dump()) as run, memory:
        train_on_shards(params, run)


def train_on_shards(params: Params, run: Run) -> None:
    settings = params.train
    device = claim_device(settings.device, paths.repository_root() / paths.STATE / "gpu")
    environment = describe_environment(str(device))
    run.set_tags(environment)
    write_json(paths.RUN, {"run_id": run.run_id, "environment": environment})

    shards = {split: ShardSet(paths.SHARDS, split) for split in ("train", "val")}
    index = shards["train"].index
    at_step = params.augment.at == "step"
    augmentation = Augmentation(params.augment.flip, params.augment.noise_std) if at_step else None
    torch.manual_seed(params.seed)
    options = params.network.model_dump()
    network = build_network(**options).to(device)
    pictures = SamplePictures(shards["val"], shards["train"], settings.epochs, device)
    history: list[Epoch] = []

    def after_epoch(epoch: Epoch, network: torch.nn.Module, is_best: bool) -> None:
        history.append(epoch)
        info = CheckpointInfo(
            architecture=options["architecture"],
            options={key: value for key, value in options.items() if key != "architecture"},
            input_size=shards["train"].size,
            border=index["border"],
            epoch=epoch.epoch,
            val_rmse=epoch.val.get("rmse"),
            data_fingerprint=index["fingerprint"],
            trained_on=index["trained_on"],
            run_id=run.run_id,
        )
        save_checkpoint(paths.LAST_CHECKPOINT, network, info)
        if is_best:
            save_checkpoint(paths.BEST_CHECKPOINT, network, info)
        with written_whole(paths.HISTORY) as partial:
            pd.DataFrame([epoch.row() for epoch in history]).to_csv(partial, index=False)
        pictures.log(run, network, epoch.epoch, epoch.step)

    pictures.log(run, network, epoch=0, step=0)
    train(
        network,
        DepthLoss(params.loss.ssim_weight).to(device),
        Batches(
            shards["train"],
            settings.batch_size,
            device,
            shuffle_seed=params.seed,
            augmentation=augmentation,
        ),
        Batches(shards["val"], settings.batch_size, device),
        TrainingOptions(
            **settings.model_dump(exclude={"batch_size", "precision", "device"}),
            bf16=choose_bf16(settings.precision, device),
            log_every_steps=params.tracking.log_every_steps,
        ),
        run,
        after_epoch,
    )


if __name__ == "__main__":
    with reported_to_user("train"):
        main()
