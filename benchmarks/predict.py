"""How fast the default network predicts, beside two networks of the size of MobileNetV2.

All of them run in the same runtimes: PyTorch's own operations, what its compiler makes of them (on a CPU that
takes a C++ compiler), and ONNX Runtime. All are prepared alike: batch normalisation inside the convolutions, as
in what `depth export` writes, channels innermost for PyTorch, and for ONNX Runtime a graph of the size that is
measured (an exported file takes images of any size, and clips their depth). Weights are random, and batch
statistics are those of noise, so that features have the sizes they would have. Every round times each network
in each runtime, in an order that moves on from round to round. A CPU gets two threads; other work on the
machine slows down whatever it meets, so each round is compared within itself.

The value is the fastest peer in its best runtime over ours in its best: the quotient of each round, and of these
the median. The quotients within one runtime stand in the details.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.entries import Entry
from benchmarks.peers import PEERS
from pipeline import paths
from pipeline.evaluation.cost import multiply_adds
from pipeline.export.graph import export_program, fold_normalisation
from pipeline.model.network import build_network, count_parameters
from pipeline.params import load_params
from pipeline.training.device import choose_device

OURS = "ours"
SIZE, QUICK_SIZE = (240, 320), (64, 64)
BATCHES = {"latency": 1, "throughput": 16}
ROUNDS = {"latency": 25, "throughput": 7}
THREADS = 2
LIMIT = 2.0
"""Times as fast as the fastest peer."""

Call = Callable[[], object]
Images = dict[str, Tensor]


def measure(quick: bool) -> list[Entry]:
    """Quotients for one image and for a batch, on the GPU, or on the CPU where there is none."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        return _measure(choose_device("auto"), quick)
    finally:
        torch.set_num_threads(threads)


def _measure(device: torch.device, quick: bool) -> list[Entry]:
    size = QUICK_SIZE if quick else SIZE
    networks = {name: network.to(device) for name, network in _networks(quick).items()}
    facts = {
        name: {"parameters": count_parameters(network), "multiply_adds": multiply_adds(network, size)}
        for name, network in networks.items()
    }
    images = {kind: torch.rand(2 if quick and n > 1 else n, 3, *size, device=device) for kind, n in BATCHES.items()}
    folded = {name: _prepared(network) for name, network in networks.items()}
    calls: dict[tuple[str, str], dict[str, Call]] = {}
    missing: dict[str, str] = {}
    with torch.inference_mode():
        for runtime, prepare in RUNTIMES.items():
            if quick and runtime == "compiled":
                missing[runtime] = "left out by --quick: it takes a minute"
                continue
            try:
                calls |= {(runtime, name): prepare(network, images) for name, network in folded.items()}
            except _Missing as reason:
                missing[runtime] = str(reason)
        return [
            _entry(
                kind,
                images[kind],
                _timed({key: call[kind] for key, call in calls.items()}, 1 if quick else ROUNDS[kind]),
                {"missing": missing, "networks": facts},
            )
            for kind in BATCHES
        ]


def _entry(kind: str, images: Tensor, times: dict[tuple[str, str], list[float]], facts: dict[str, object]) -> Entry:
    """Of the milliseconds of each round by runtime and network."""
    median = {key: statistics.median(taken) for key, taken in times.items()}
    runtimes = list(dict.fromkeys(runtime for runtime, _ in times))
    networks = list(dict.fromkeys(name for _, name in times))  # ours first
    best = {name: min(runtimes, key=lambda runtime: median[runtime, name]) for name in networks}
    fastest = min(networks[1:], key=lambda name: median[best[name], name])
    rounds = list(zip(times[best[fastest], fastest], times[best[OURS], OURS], strict=True))
    within = {
        runtime: statistics.median(
            min(peers) / ours for ours, *peers in zip(*(times[runtime, name] for name in networks), strict=True)
        )
        for runtime in runtimes
    }
    count, _, height, width = images.shape
    return Entry(
        f"predict.{kind}",
        statistics.median(peer / ours for peer, ours in rounds),
        "x",
        f"{fastest} in {best[fastest]}, the fastest of {len(networks) - 1} peers, to ours in {best[OURS]}; "
        f"{count} x {height} x {width}",
        limit=LIMIT,
        better="higher",
        device=images.device.type,
        details={
            "ms": {runtime: {name: median[runtime, name] for name in networks} for runtime in runtimes},
            "images_per_s": {name: 1000 * count / median[best[name], name] for name in networks},
            "ratio_within": within,
            "threads": THREADS,
            "rounds": len(rounds),
            **facts,
        },
    )


def _networks(quick: bool) -> dict[str, nn.Module]:
    params = load_params(paths.repository_root() / paths.PARAMS)
    options = params.network.model_dump() | ({"width": 4} if quick else {})
    torch.manual_seed(0)
    peers = {name: build() for name, build in list(PEERS.items())[: 1 if quick else None]}
    networks = {OURS: build_network(**options), **peers}
    for network in networks.values():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # statistics are those of all batches seen, which is one
        with torch.no_grad():
            network.train()(torch.rand(4, 3, 64, 64))
        network.eval()
    return networks


def _prepared(network: nn.Module) -> nn.Module:
    return fold_normalisation(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class _Missing(Exception):
    """A runtime that is not there, with the reason."""


def _eager(network: nn.Module, images: Images) -> dict[str, Call]:
    return {kind: partial(network, _innermost(rgb)) for kind, rgb in images.items()}


def _compiled(network: nn.Module, images: Images) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    for kind, rgb in images.items():
        compiled = torch.compile(network, dynamic=False)
        calls[kind] = partial(compiled, _innermost(rgb))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                calls[kind]()
        except Exception as error:  # there is no compiler, or none that works
            raise _Missing((str(error).strip() or type(error).__name__).splitlines()[0][:200]) from error
    return calls


def _onnxruntime(network: nn.Module, images: Images) -> dict[str, Call]:
    if next(network.parameters()).is_cuda:
        raise _Missing("the extra `export` brings ONNX Runtime for the CPU only")
    from pipeline.export.onnx_files import onnx_model, run_model

    _, channels, height, width = next(iter(images.values())).shape
    with torch.inference_mode(False):
        example = torch.rand(2, channels, height, width)
        run = run_model(onnx_model(export_program(network, example, any_size=False)), THREADS)
    return {kind: partial(run, rgb.numpy()) for kind, rgb in images.items()}


def _innermost(rgb: Tensor) -> Tensor:
    return rgb.contiguous(memory_format=torch.channels_last)


RUNTIMES: dict[str, Callable[[nn.Module, Images], dict[str, Call]]] = {
    "eager": _eager,
    "compiled": _compiled,
    "onnxruntime": _onnxruntime,
}


def _timed(calls: dict[tuple[str, str], Call], rounds: int) -> dict[tuple[str, str], list[float]]:
    """Milliseconds of each call in each round."""
    times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    keys = list(calls)
    for number in range(rounds + 1):
        for key in keys[number % len(keys) :] + keys[: number % len(keys)]:
            started = time.perf_counter()
            calls[key]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number > 0:  # the first fetches memory
                times[key].append(1000 * (time.perf_counter() - started))
    return times
