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


def latency_ms(network: nn.Module, size: tuple[int, int], runs: int = 20) -> float:
    """Median milliseconds for one image of `size` (height, width) on the network's device, after a warm-up."""
    device = next(network.parameters()).device
    image = torch.rand(1, 3, *size, device=device)
    times = []
    with torch.inference_mode():
        for _ in range(runs + 3):
            started = time.perf_counter()
            network(image)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[3:])
