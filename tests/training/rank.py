"""One rank of a short training: `python -m tests.training.rank SHARDS OUT BATCH`. The first writes what came."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.data.augment import Augmentation
from pipeline.data.batches import Batches
from pipeline.data.shards import ShardSet
from pipeline.model.losses import DepthLoss
from pipeline.model.network import build_network
from pipeline.training.distributed import Ranks, joined
from pipeline.training.history import Epoch
from pipeline.training.loop import TrainingOptions, train
from pipeline.training.tracker import NullTracker

CPU = torch.device("cpu")
OPTIONS = TrainingOptions(
    epochs=2,
    learning_rate=1e-3,
    schedule="constant",
    weight_decay=0.0,
    gradient_clip_norm=0.0,
    ema_decay=0.9,
    early_stopping_epochs=0,
    bf16=False,
    log_every_steps=1,
)

AUGMENTATION = Augmentation(0.5, 0.02, zoom=1.2, colour=0.5)


def first_gradients(ranks: Ranks, batches: Batches) -> dict[str, torch.Tensor]:
    """Of the mean loss over the first batch, by this rank's copy of the network."""
    torch.manual_seed(0)
    network = build_network("unet", width=4, max_depth_m=10.0).double()
    loss = DepthLoss(
        0.5, error="silog", gradient_weight=0.2, mean_over_ranks=ranks.mean if ranks.world > 1 else None
    )
    rgb, depth_m = next(iter(batches.epoch(1)))
    depth_m = torch.where(rgb[:, :1] > 0.4, 0.0, depth_m)  # missing pixels, more in some frames than in others
    shared = ranks.share(network)
    loss(shared(rgb.double()), depth_m.double(), depth_m > 0)["total"].backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def short_training(ranks: Ranks, training: Batches, validation: Batches) -> list[Epoch]:
    torch.manual_seed(0)
    network: nn.Module = build_network("unet", width=4, max_depth_m=10.0)
    loss = DepthLoss(0.5, mean_over_ranks=ranks.mean if ranks.world > 1 else None)
    return train(
        network, loss, training, validation, OPTIONS, NullTracker(), lambda *_: None, recorder=None, ranks=ranks
    )


def main() -> None:
    shards, out, batch = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    with joined() as ranks:
        part: dict[str, Any] = {"rank": ranks.rank, "world": ranks.world}
        training = Batches(ShardSet(shards, "train"), batch, CPU, shuffle_seed=3, augmentation=AUGMENTATION, **part)
        validation = Batches(ShardSet(shards, "val"), 2, CPU, **part)
        gradients = first_gradients(ranks, training)
        history = short_training(ranks, training, validation)
        if ranks.rank == 0:
            torch.save({"gradients": gradients, "history": [epoch.row() for epoch in history]}, out)


if __name__ == "__main__":
    main()
