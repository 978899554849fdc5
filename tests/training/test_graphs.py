from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.training import graphs
from pipeline.training.graphs import WARM_UPS, Arrival, Graphed

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class FakeStream:
    def __init__(self, *_: object) -> None:
        pass

    def wait_stream(self, other: FakeStream) -> None:
        FakeCuda.events.append(("wait", self, other))


class FakeGraph:
    """Carries operations out again in the memory that they were recorded with."""

    def __init__(self) -> None:
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Tensor]] = []

    def replay(self) -> None:
        FakeCuda.events.append(("replay", self))
        for func, args, kwargs, output in self.operations:
            made = func(*args, **kwargs)
            if made is not output:
                output.copy_(made)


class Recorded(TorchDispatchMode):
    """As a capture: nothing is carried out, and what was to be written holds what it held, or else NaN."""

    def __init__(self, graph: FakeGraph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = args[0].clone()
        output = func(*args, **(kwargs or {}))
        self.graph.operations.append((func, args, kwargs or {}, output))
        return output.copy_(before) if output is args[0] else output.fill_(torch.nan)


class FakeCuda:
    """What of `torch.cuda` the module uses, on the CPU."""

    events: list[tuple[Any, ...]]
    current: FakeStream

    @staticmethod
    @contextlib.contextmanager
    def stream(stream: FakeStream) -> Iterator[None]:
        before, FakeCuda.current = FakeCuda.current, stream
        yield
        FakeCuda.current = before

    @staticmethod
    @contextlib.contextmanager
    def graph(graph: FakeGraph, *, pool: object, stream: FakeStream, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        FakeCuda.events.append(("capture", pool, stream))
        with FakeCuda.stream(stream), Recorded(graph):
            yield


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeCuda]]:
    FakeCuda.events, FakeCuda.current = [], FakeStream()
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "stream", FakeCuda.stream)
    monkeypatch.setattr(torch.cuda, "graph", FakeCuda.graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: FakeCuda.current)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    graphs._shared.cache_clear()
    yield FakeCuda
    graphs._shared.cache_clear()


class Step:
    """Makes a tensor, and adds to one that it keeps."""

    def __init__(self) -> None:
        self.sum = torch.zeros(())
        self.called_at: list[tuple[torch.Size, FakeStream]] = []

    def __call__(self, number: Tensor, other: Tensor) -> Tensor:
        self.called_at.append((number.shape, FakeCuda.current))
        self.sum.add_(number.sum())
        return number.mul(other).add(1)


def pair(value: float, size: int = 3) -> tuple[Tensor, Tensor]:
    return torch.full((size,), value), torch.full((1,), 2.0)


@pytest.mark.parametrize(("device", "enabled"), [(CPU, True), (CPU, False), (CUDA, False)])
def test_without_a_gpu_or_where_it_is_not_wanted_the_function_is_called(
    device: torch.device, enabled: bool
) -> None:
    calls: list[tuple[Tensor, ...]] = []
    outputs = [torch.ones(2), torch.zeros(2)]

    def function(*inputs: Tensor) -> Tensor:
        calls.append(inputs)
        return outputs[len(calls) % 2]

    graphed = Graphed(function, device, enabled=enabled)
    for number in range(2 * WARM_UPS + 2):
        inputs = torch.rand(3), torch.rand(2)
        assert graphed(*inputs) is outputs[(number + 1) % 2]
        assert all(given is passed for given, passed in zip(inputs, calls[-1], strict=True))
    assert len(calls) == 2 * WARM_UPS + 2


def test_every_call_does_what_the_function_does_from_the_tensors_of_that_call(cuda: type[FakeCuda]) -> None:
    step = Step()
    graphed = Graphed(step, CUDA)
    total = 0.0
    outputs, expected = [], []
    for number in range(3 * WARM_UPS + 6):
        value, size = float(number), 3 + number % 3  # three shapes in turn
        outputs.append(graphed(*pair(value, size)))
        expected.append(torch.full((size,), 2 * value + 1))
        total += value * size
        assert step.sum == total
    torch.testing.assert_close(outputs, expected, rtol=0, atol=0)  # of all calls: none was overwritten


def test_each_shape_is_called_to_warm_up_and_then_captured_once(cuda: type[FakeCuda]) -> None:
    step = Step()
    graphed = Graphed(step, CUDA)
    for size in (3, 5):
        shape = torch.Size([size])
        for call in range(1, WARM_UPS + 5):
            graphed(*pair(1.0, size))
            # The function itself is called to warm up, and once more for the graph.
            assert [at for at, _ in step.called_at].count(shape) == min(call, WARM_UPS + 1)
            replays = sum(event[0] == "replay" for event in cuda.events)
            assert replays == max(0, call - WARM_UPS) + (0 if size == 3 else 4)
    assert sum(event[0] == "capture" for event in cuda.events) == 2
    graphed(*pair(1.0, 3))  # known from before
    assert len(step.called_at) == 2 * (WARM_UPS + 1)


def test_the_shape_of_any_input_makes_another_graph(cuda: type[FakeCuda]) -> None:
    step = Step()
    graphed = Graphed(step, CUDA)
    for other in (torch.ones(1), torch.ones(3)):
        for _ in range(WARM_UPS + 2):
            torch.testing.assert_close(graphed(torch.ones(3), other), torch.full((3,), 2.0))
    assert sum(event[0] == "capture" for event in cuda.events) == 2


def test_the_tensors_of_the_caller_are_only_read(cuda: type[FakeCuda]) -> None:
    graphed = Graphed(lambda number: number.mul_(2), CUDA)
    for _ in range(WARM_UPS):
        graphed(torch.ones(3))
    given = torch.full((3,), 5.0)
    for _ in range(3):
        output = graphed(given)
        assert output.tolist() == [10.0] * 3
        output.zero_()  # the caller's own
    assert given.tolist() == [5.0] * 3


def test_warming_up_is_on_the_stream_of_the_capture_in_order_with_that_of_the_caller(cuda: type[FakeCuda]) -> None:
    step, caller = Step(), cuda.current
    graphed = Graphed(step, CUDA)
    for _ in range(WARM_UPS + 2):
        graphed(*pair(1.0))
        assert cuda.current is caller
    (_, _, stream) = next(event for event in cuda.events if event[0] == "capture")
    assert stream is not caller
    assert [at for _, at in step.called_at] == [stream] * (WARM_UPS + 1)
    assert cuda.events[: 2 * WARM_UPS] == [("wait", stream, caller), ("wait", caller, stream)] * WARM_UPS


def test_all_graphs_of_a_device_share_one_memory_and_stream(cuda: type[FakeCuda]) -> None:
    for graphed in (Graphed(Step(), CUDA), Graphed(Step(), CUDA)):
        for size in (3, 5):
            for _ in range(WARM_UPS + 1):
                graphed(*pair(1.0, size))
    captures = [event for event in cuda.events if event[0] == "capture"]
    assert len(captures) == 4 and len(set(captures)) == 1


def test_numbers_arrive_as_they_are() -> None:
    rows = [[0.5, -1.0, 2.25], [float("inf"), 3.0, 0.0]]
    arrival = Arrival(torch.tensor(rows))
    assert arrival.rows() == rows
    assert arrival.rows() == rows
