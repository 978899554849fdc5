"""CUDA graphs: the kernels of a step given to the GPU at once."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

WARM_UPS = 2
"""Calls at a new shape before its graph is made: in the first, libraries choose and load their kernels."""


class Graphed:
    """A function of tensors that returns one, whose kernels become one CUDA graph for each shape it is called at.

    A step of a small network is several hundred kernels of a few microseconds. To launch them one by one takes the
    processor longer than the GPU needs for them; a graph is one launch (benchmarks/README.md has the figures).

    The function must not wait for the device. Tensors that it reads or changes beside its arguments must stay where
    they are, and numbers that are in no tensor stay what they were when the graph was made. On a device that is no
    GPU, and while `enabled` is false, it is simply called.
    """

    def __init__(self, function: Callable[..., Tensor], device: torch.device, *, enabled: bool = True) -> None:
        self._function = function
        self._enabled = enabled and device.type == "cuda"
        self._calls: Counter[_Shapes] = Counter()
        self._graphs: dict[_Shapes, _Graph] = {}
        self._shared = _shared(device) if self._enabled else None

    def __call__(self, *inputs: Tensor) -> Tensor:
        if not self._enabled:
            return self._function(*inputs)
        shapes = tuple(tensor.shape for tensor in inputs)
        graph = self._graphs.get(shapes)
        if graph is None:
            self._calls[shapes] += 1
            if self._calls[shapes] <= WARM_UPS:
                return self._warm_up(inputs)
            graph = self._graphs[shapes] = self._capture(inputs)
        for placed, tensor in zip(graph.inputs, inputs, strict=True):
            placed.copy_(tensor)
        graph.replay()
        return graph.output.clone()  # the next replay overwrites it

    def _warm_up(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """An ordinary call on the stream of the capture to come, as PyTorch's notes on CUDA graphs have it."""
        assert self._shared is not None
        caller, stream = torch.cuda.current_stream(), self._shared.stream
        stream.wait_stream(caller)
        with torch.cuda.stream(stream):
            output = self._function(*inputs)
        caller.wait_stream(stream)
        return output

    def _capture(self, inputs: tuple[Tensor, ...]) -> _Graph:
        assert self._shared is not None
        placed = tuple(torch.empty_like(tensor).copy_(tensor) for tensor in inputs)
        graph = torch.cuda.CUDAGraph()
        pool, stream = self._shared
        # Threads of this process may use the GPU meanwhile: one of them saves checkpoints.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            output = self._function(*placed)
        return _Graph(graph.replay, placed, output)


_Shapes = tuple[torch.Size, ...]


class _Shared(NamedTuple):
    """By all graphs of a device. No two run at a time, and of none is more wanted than its output, which is copied
    at once: so all may work in the same memory."""

    pool: Any
    stream: torch.cuda.Stream


@functools.cache
def _shared(device: torch.device) -> _Shared:
    return _Shared(torch.cuda.graph_pool_handle(), torch.cuda.Stream(device))


class _Graph(NamedTuple):
    replay: Callable[[], None]
    inputs: tuple[Tensor, ...]
    output: Tensor


class Arrival:
    """Numbers on their way from the device, so that nobody has to stand and wait for them."""

    def __init__(self, values: Tensor) -> None:
        self._values, self._event = values, None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def rows(self) -> list[list[float]]:
        """The (N, M) numbers; waits for them."""
        if self._event is not None:
            self._event.synchronize()
        found: list[list[float]] = self._values.tolist()
        return found
