"""Which device trains, and in which precision."""

from __future__ import annotations

import torch

from pipeline.errors import PipelineError


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one. Raises `PipelineError` if `cuda` is asked for and absent."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise PipelineError(
            "the device is cuda, but PyTorch sees no CUDA device; set train.device or evaluate.device to auto"
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def choose_bf16(precision: str, device: torch.device) -> bool:
    """Whether the network computes in bfloat16: with `auto` on CUDA only, where it is both fast and there."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bf16"
