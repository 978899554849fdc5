"""Which device computes, in which precision, and what to do when its memory runs out."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import itertools
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import PipelineError


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one. Raises `PipelineError` if `cuda` is asked for and absent."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise PipelineError(
            "the device is cuda, but PyTorch sees no CUDA device; set train.device or evaluate.device to auto"
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def claim_device(name: str, locks: Path, local_rank: int | None = None) -> torch.device:
    """As `choose_device`, but with `auto` a GPU that no other training uses, until this process ends.

    locks: the folder in which the trainings of this repository tell each other which GPUs they use. local_rank:
    of a process that shares its training with others on this machine; it takes the GPU of that number.
    """
    device = choose_device(name)
    if local_rank is not None and device.type == "cuda":
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    elif name == "auto" and device.type == "cuda":
        # By their own names: an index means another GPU where CUDA_VISIBLE_DEVICES differs.
        cards = [str(torch.cuda.get_device_properties(index).uuid) for index in range(torch.cuda.device_count())]
        device = torch.device("cuda", claim_first(cards, locks))
        torch.cuda.set_device(device)
    return device


def claim_first(cards: Sequence[str], locks: Path) -> int:
    """The index of the first card that nobody holds; where all are held, of the first that one training holds, …

    A card has a lock file for its first training, another for its second, and so on. Locks end with their process,
    however it ends.
    """
    locks.mkdir(parents=True, exist_ok=True)
    for place in itertools.count():
        for index, card in enumerate(cards):
            # The descriptor is left open on purpose: the lock lasts as long.
            handle = os.open(locks / f"{card}.{place}", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return index
            except BlockingIOError:
                os.close(handle)
    raise AssertionError


def choose_bf16(precision: str, device: torch.device) -> bool:
    """Whether the network computes in bfloat16: with `auto` on CUDA only, where it is both fast and there."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def predict(network: Callable[[Tensor], Tensor], rgb: Tensor, bf16: bool) -> Tensor:
    """What the network makes of (N, 3, H, W) RGB in that precision: (N, 1, H, W) metres, float32."""
    # Convolutions are up to a third faster with the channels innermost.
    rgb = rgb.contiguous(memory_format=torch.channels_last)
    with torch.autocast(rgb.device.type, torch.bfloat16, enabled=bf16):
        prediction_m = network(rgb)
    return prediction_m.float()


@contextlib.contextmanager
def memory_shortage_told(keys: str, fitting: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Raise `PipelineError` that says to lower `keys` when memory runs out, on the device or beside it.

    fitting: finds out, once the memory is free again, what would fit, in words that follow.
    """
    try:
        yield
        return
    except (MemoryError, RuntimeError) as error:
        if not is_memory_shortage(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold what filled the memory
    gc.collect()
    raise PipelineError(f"out of memory; lower {keys}{fitting()}")


def is_memory_shortage(error: Exception) -> bool:
    """CUDA has a class of its own for it, the CPU's allocator only a text."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def largest_fitting(attempt: Callable[[int], object], below: int) -> int:
    """The largest half, quarter, … of `below` for which `attempt` does not run out of memory; 0 if none is."""
    size = below // 2
    while size:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            attempt(size)
            return size
        except (MemoryError, RuntimeError) as error:
            if not is_memory_shortage(error):
                raise
            traceback.clear_frames(error.__traceback__)
        size //= 2
    return 0
