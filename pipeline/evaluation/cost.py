"""What one prediction costs."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(network: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds of the convolutions and matrix products for one image of `size` (height, width)."""
    image = torch.zeros(1, 3, *size, device=next(network.parameters()).device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops()) // 2


WARM_UP = 3
THROUGHPUT_BATCH = 16
"""Frames at once for the throughput."""


def latency_ms(network: nn.Module, size: tuple[int, int], runs: int = 20) -> float:
    """Median milliseconds for one image of `size` (height, width) on the network's device, after a warm-up."""
    return 1000 * statistics.median(_seconds(network, 1, size, runs))


def throughput_frames_per_s(
    network: nn.Module, size: tuple[int, int], batch: int = THROUGHPUT_BATCH, runs: int = 5
) -> float:
    """Images of `size` (height, width) a second in batches on the network's device: the median after a warm-up."""
    return batch / statistics.median(_seconds(network, batch, size, runs))


def _seconds(network: nn.Module, batch: int, size: tuple[int, int], runs: int) -> list[float]:
    device = next(network.parameters()).device
    images = torch.rand(batch, 3, *size, device=device)
    times = []
    with torch.inference_mode():
        for _ in range(runs + WARM_UP):
            started = time.perf_counter()
            network(images)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    return times[WARM_UP:]
