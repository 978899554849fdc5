"""Which device computes, in which precision, and what to do when its memory runs out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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


@contextlib.contextmanager
def memory_shortage_told(keys: str) -> Iterator[None]:
    """Raise `PipelineError` that says to lower `keys` when memory runs out, on the device or beside it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # CUDA has a class of its own for it, the CPU's allocator only a text.
        if isinstance(error, RuntimeError) and not (
            isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        ):
            raise
        raise PipelineError(f"out of memory; lower {keys}") from error
