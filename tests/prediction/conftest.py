from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.model.checkpoint import CheckpointInfo, save_checkpoint
from pipeline.model.network import build_network

INPUT_SIZE = (48, 64)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network as small and untrained as they come, of frames with an untrained border."""
    path = tmp_path_factory.mktemp("models") / "best.safetensors"
    torch.manual_seed(0)
    network = build_network("unet", width=4, max_depth_m=10.0)
    # Untrained, its head gives one depth everywhere, in which no image could be told from another.
    torch.nn.init.normal_(network.head.weight, std=0.5)  # type: ignore[union-attr, arg-type]
    info = CheckpointInfo(
        "unet", {"width": 4, "max_depth_m": 10.0}, INPUT_SIZE, 2, 7, 0.5, "abc", "train split", "0" * 32
    )
    save_checkpoint(path, network.state_dict(), info)
    return path
