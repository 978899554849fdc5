"""SSIM with its gradient against the packages that people take it from.

Every round times each method forward and backward, in an order that moves on from round to round; the value is
the fastest package's median over ours. A CPU gets two threads. Before ours the caches are full of another method's
maps, as they are full of the network's in a training step. Ours is made of short operations after which the threads
wait for each other, so other work on the machine slows it down more than the packages: the ratio counts where
`cores_got` is near the number of threads. Beside the speed stands how far our values are from scikit-image's, and
our gradients from float64 autograd of a package's formula.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.entries import Entry
from pipeline.errors import PipelineError
from pipeline.model.losses import ssim
from pipeline.training.device import choose_device

SHAPE, QUICK_SHAPE = (16, 1, 240, 320), (2, 1, 48, 64)
ROUNDS, QUICK_ROUNDS = 11, 1
LIMITS = {"cpu": 10.0, "cuda": 4.0}
"""Times as fast as the fastest package."""
ERROR_LIMIT_PPM = 10.0
"""1e-5 of SSIM's 1, and of the largest gradient."""
THREADS = 2
CALLS = {"cpu": 1, "cuda": 20}
"""In one timing: a GPU's are too short for one to be measured."""
DATA_RANGE_M = 10.0
NOISES_M = (0.03, 0.3, 2.0)
"""A trained network's predictions are off by the second; errors are the largest over all three."""

Similarity = Callable[[Tensor, Tensor], Any]


def measure(quick: bool) -> list[Entry]:
    """Ratio and errors on the GPU, or on the CPU where there is none."""
    packages = _packages()
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        return _measure(packages, choose_device("auto").type, quick)
    finally:
        torch.set_num_threads(threads)


def _measure(packages: Mapping[str, Similarity], device: str, quick: bool) -> list[Entry]:
    shape, rounds = (QUICK_SHAPE, QUICK_ROUNDS) if quick else (SHAPE, ROUNDS)
    methods = {"ours": ssim, **packages}
    prediction_m, target_m = (maps.to(device) for maps in _maps(shape, noise_m=0.3))
    times: dict[str, list[float]] = {name: [] for name in methods}
    cores: dict[str, list[float]] = {name: [] for name in methods}
    for number in range(-1, rounds):  # the first round is for warming up
        names = list(methods)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds, processor_seconds = _time(methods[name], prediction_m, target_m, CALLS[device])
            if number >= 0:
                times[name].append(seconds)
                cores[name].append(processor_seconds / seconds)
    milliseconds = {name: 1000 * statistics.median(taken) for name, taken in times.items()}
    fastest = min(packages, key=milliseconds.__getitem__)
    details = {
        "ms": milliseconds,
        "ms_range": {name: [1000 * min(taken), 1000 * max(taken)] for name, taken in times.items()},
        "cores_got": {name: statistics.median(got) for name, got in cores.items()},
        "versions": {name: version(name) for name in packages},
        "shape": list(shape),
        "threads": THREADS,
        "rounds": rounds,
    }
    value_error, gradient_error = _errors(shape, device)
    return [
        Entry(
            "ssim",
            milliseconds[fastest] / milliseconds["ours"],
            "x",
            f"{fastest}, the fastest of {len(packages)} packages, forward and backward",
            limit=LIMITS[device],
            better="higher",
            device=device,
            details=details,
        ),
        Entry(
            "ssim.value_error",
            1e6 * value_error,
            "ppm",
            f"scikit-image {version('scikit-image')}, at noises of {NOISES_M} m",
            limit=ERROR_LIMIT_PPM,
            device=device,
        ),
        Entry(
            "ssim.gradient_error",
            1e6 * gradient_error,
            "ppm",
            f"autograd of kornia {version('kornia')} in float64, per largest gradient, at the same noises",
            limit=ERROR_LIMIT_PPM,
            device=device,
        ),
    ]


def _packages() -> dict[str, Similarity]:
    """Name of the distribution -> its mean SSIM, or a loss made of it, by its own defaults but for the range."""
    try:
        import skimage  # noqa: F401
        from kornia.losses import ssim_loss
        from pytorch_msssim import ssim as msssim
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError as error:
        raise PipelineError(
            f"{error.name} is not installed, which SSIM is measured against; `make bench` installs it, "
            "or: pip install --no-deps -r requirements-benchmark.lock"
        ) from error
    return {
        "pytorch-msssim": lambda x, y: msssim(x, y, data_range=DATA_RANGE_M),
        "torchmetrics": lambda x, y: structural_similarity_index_measure(x, y, data_range=DATA_RANGE_M),
        "kornia": lambda x, y: ssim_loss(x, y, 11, max_val=DATA_RANGE_M, padding="valid"),
    }


def _maps(shape: tuple[int, ...], noise_m: float) -> tuple[Tensor, Tensor]:
    """Prediction and target: smooth scenes of 0.5 to 9.5 m, and predictions that are off by noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(shape[0], 1, 5, 6, generator=generator) * 9 + 0.5
    target_m = functional.interpolate(coarse, shape[-2:], mode="bilinear")
    return (target_m + noise_m * torch.randn(shape, generator=generator)).clamp(min=0.1), target_m


def _time(similarity: Similarity, prediction_m: Tensor, target_m: Tensor, calls: int) -> tuple[float, float]:
    """Seconds, and those of all processors, of one forward and backward pass."""
    predictions = [prediction_m.detach().requires_grad_() for _ in range(calls)]
    _finish(prediction_m)
    started, processors_started = time.perf_counter(), time.process_time()
    for prediction in predictions:
        similarity(prediction, target_m).backward()
    _finish(prediction_m)
    return (time.perf_counter() - started) / calls, (time.process_time() - processors_started) / calls


def _finish(maps: Tensor) -> None:
    if maps.is_cuda:
        torch.cuda.synchronize(maps.device)


def _errors(shape: tuple[int, ...], device: str) -> tuple[float, float]:
    """Largest error of the value, and of the gradient in parts of the largest gradient."""
    from kornia.metrics import ssim as kornia_map

    value_error = gradient_error = 0.0
    for noise_m in NOISES_M:
        prediction_m, target_m = _maps(shape, noise_m)
        value, gradient = _value_and_gradient(ssim, prediction_m.to(device), target_m.to(device))
        value_error = max(value_error, abs(float(value) - _skimage_mean(prediction_m, target_m)))
        _, exact = _value_and_gradient(
            lambda x, y: kornia_map(x, y, 11, DATA_RANGE_M, padding="valid").mean(),
            prediction_m.double(),
            target_m.double(),
        )
        error = (gradient.cpu() - exact).abs().max() / exact.abs().max()
        gradient_error = max(gradient_error, float(error))
    return value_error, gradient_error


def _value_and_gradient(similarity: Similarity, prediction_m: Tensor, target_m: Tensor) -> tuple[Tensor, Tensor]:
    prediction_m = prediction_m.detach().requires_grad_()
    value = similarity(prediction_m, target_m)
    (gradient,) = torch.autograd.grad(value, prediction_m)
    return value.detach(), gradient


def _skimage_mean(prediction_m: Tensor, target_m: Tensor) -> float:
    """Over whole windows of all frames, in float64."""
    from skimage.metrics import structural_similarity

    pairs = zip(prediction_m[:, 0].double().numpy(), target_m[:, 0].double().numpy(), strict=True)
    maps = [
        structural_similarity(
            *pair, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=DATA_RANGE_M, full=True
        )[1][5:-5, 5:-5]
        for pair in pairs
    ]
    return float(sum(similarity.mean() for similarity in maps) / len(maps))
