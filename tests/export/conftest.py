"""A small trained-looking network, its checkpoint and its ONNX file, made once: an export takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.model.checkpoint import CheckpointInfo, save_checkpoint
from pipeline.model.network import build_network

INFO = CheckpointInfo(
    architecture="unet",
    options={"width": 4, "max_depth_m": 8.0, "attention": 1},
    input_size=(48, 64),
    border=2,
    epoch=7,
    val_rmse=0.75,
    data_fingerprint="f" * 64,
    trained_on="official train split",
    run_id="0123456789abcdef",
    source="rooms",
)


@pytest.fixture(scope="session")
def network() -> nn.Module:
    """Its statistics have moved and its last layer tells depths from near to far."""
    torch.manual_seed(0)
    network = build_network(INFO.architecture, **INFO.options)
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.rand(4, 3, 48, 64))
        network.head.weight *= 600
    return network.eval()


@pytest.fixture(scope="session")
def checkpoint(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "best.safetensors"
    save_checkpoint(path, network.state_dict(), INFO)
    return path


@pytest.fixture(scope="session")
def onnx_file(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `depth export` writes it."""
    from pipeline.cli import main

    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: see requirements-export.lock")
    path = tmp_path_factory.mktemp("exported") / "depth.onnx"
    main(["export", "--format", "onnx", "--model", str(checkpoint), "--out", str(path)])
    return path
