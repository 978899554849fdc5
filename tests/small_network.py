"""A network as small and untrained as they come, whose depth depends on the image all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline.data.splits import TRAINED_ON
from pipeline.model.checkpoint import CheckpointInfo, save_checkpoint
from pipeline.model.network import build_network

INPUT_SIZE = (48, 64)
INFO = CheckpointInfo(
    architecture="unet",
    options={"width": 4, "max_depth_m": 10.0, "attention": 1},
    input_size=INPUT_SIZE,
    border=2,
    epoch=7,
    val_rmse=0.5,
    data_fingerprint="abc",
    trained_on=TRAINED_ON["official"],
    run_id="0" * 32,
)


def save_small_network(path: Path, seed: int = 0, head_std: float = 0.5, **facts: Any) -> Path:
    """Write its checkpoint. head_std: how far depth spreads. facts: in place of those of `INFO`."""
    torch.manual_seed(seed)
    info = replace(INFO, **facts)
    network = build_network(info.architecture, **info.options)
    # As it is built its head gives one depth everywhere, in which no image could be told from another.
    torch.nn.init.normal_(network.head.weight, std=head_std)  # type: ignore[union-attr, arg-type]
    save_checkpoint(path, network.state_dict(), info)
    return path
