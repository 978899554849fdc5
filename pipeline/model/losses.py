"""Structural similarity of depth maps, and the training loss made of it and the squared error."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.model.kernels import kernels_at_hand, run_both_ways
from pipeline.model.window import K1, K2, MARGIN, SIGMA, WINDOW

DATA_RANGE_M = 10.0
PIXELS_AT_ONCE = 320_000
"""Of the frames that a CPU works on at once: four of 240 x 320. Sixteen on two threads take 26 ms one at a time, 32
four at a time and 37 to 90 all at once, when caches and allocator overflow. But threads meet after every operation:
beside two busy processes it is 221, 163 and 288 ms."""
ERRORS = ("mse", "silog")
"""Of pixels, by the name that params.yaml gives them."""
NEAREST_M = 1e-3
"""Smaller depths count as this much in a logarithm, as in the published protocols."""
LEAST_VARIANCE = 1e-6
BLOCK = {"cpu": 10, "cuda": 32}
"""Windows of one matrix product. On a CPU 8 to 16 are equally fast, and most sides are multiples of 10; for a GPU
as many as its kernels take at least."""


def ssim(
    prediction_m: Tensor, target_m: Tensor, *, data_range: float = DATA_RANGE_M, valid: Tensor | None = None
) -> Tensor:
    """Mean structural similarity (Wang et al. 2004) of two batches of maps, a differentiable scalar in -1..1.

    prediction_m, target_m: (N, 1, H, W) metres, H and W of at least 11.
    data_range: the range L of the stabilising constants (K1 L)² and (K2 L)². It decides the value, so for
        depth it is the fixed 10 m that the data can span, never the range of a batch.
    valid: (N, 1, H, W) bool, None = every pixel. The mean is over windows without a missing pixel, as 15 %
        of pixels missing touch 55 % of windows. What stands in a missing pixel, NaN included, changes neither
        value nor gradient. Without any clean window the result is 1, with a gradient of 0.

    Gaussian window of 11 x 11 pixels, σ 1.5, no padding, population variances. Computed in float32, or in the
    inputs' float64, also under autocast, since E[x²] - E[x]² of bf16 products is noise. Leave float32 matrix
    products at PyTorch's default precision: TF32 rounding moves the result by up to 2e-3. Differentiable once.
    Raises ValueError if shapes differ or a map is smaller than the window.
    """
    sums = _loss_sums(prediction_m, target_m, valid, data_range)
    return 1 - 2 * (sums.dissimilarity / _above_zero(sums.counts)[1])


class DepthLoss(nn.Module):
    """total = (1 - w)·error + w·ssim + v·gradient, with ssim = (1 - SSIM) / 2 in 0..1.

    ssim_weight: w in 0..1, or ValueError.
    error: `mse`, in m² over valid pixels; or `silog`, the mean over images of √(mean e² - λ (mean e)²) over valid
        pixels with e = ln p - ln g (Eigen et al. 2014; the root as Lee et al. 2019 take it), which asks for the
        right proportions more than for the right size; λ is scale_invariance, in 0..1.
    gradient_weight: v >= 0. gradient is the mean over pairs of valid neighbours of |(p - g) - (p' - g')|, in m.

    All terms in use come back as scalars beside `total`, and mse and ssim always, since each is logged (`terms`);
    nothing here waits for the device. A batch without a valid pixel has a loss of 0 and a gradient of 0.
    mean_over_ranks: for batches that are split over ranks, None = they are whole. Once in every forward pass it
        is given a tensor of the rank's numbers of valid pixels, of clean windows and of what else its terms count,
        and returns the mean of these tensors over all ranks, which therefore have to take equally many passes. The
        mean over ranks of the losses, and that of the gradients, is then the whole batch's, wherever its pixels are
        missing. A rank's part may be empty, (0, 1, H, W), and has a loss of 0.
    """

    def __init__(
        self,
        ssim_weight: float,
        *,
        error: str = "mse",
        scale_invariance: float = 0.5,
        gradient_weight: float = 0.0,
        mean_over_ranks: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= ssim_weight <= 1:
            raise ValueError(f"ssim_weight must lie in 0..1, not {ssim_weight}")
        if error not in ERRORS:
            raise ValueError(f"error must be one of {', '.join(ERRORS)}, not {error!r}")
        if not 0 <= scale_invariance <= 1:
            raise ValueError(f"scale_invariance must lie in 0..1, not {scale_invariance}")
        if gradient_weight < 0:
            raise ValueError(f"gradient_weight must be 0 or more, not {gradient_weight}")
        self.ssim_weight, self.error = ssim_weight, error
        self.scale_invariance, self.gradient_weight = scale_invariance, gradient_weight
        self.mean_over_ranks = mean_over_ranks

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of what a call returns."""
        more = (["silog"] if self.error == "silog" else []) + (["gradient"] if self.gradient_weight > 0 else [])
        return ("total", "mse", "ssim", *more)

    def forward(self, prediction_m: Tensor, target_m: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        """prediction_m, target_m: (N, 1, H, W) metres; valid: (N, 1, H, W) bool, None = every pixel."""
        squared_error, dissimilarity, counts = _loss_sums(prediction_m, target_m, valid, DATA_RANGE_M)
        sums = {"mse": squared_error, "ssim": dissimilarity}
        everywhere = torch.ones_like(target_m, dtype=torch.bool) if valid is None else valid
        further = {}
        if self.error == "silog":
            further["silog"] = _log_error(prediction_m, target_m, everywhere, self.scale_invariance)
        if self.gradient_weight > 0:
            further["gradient"] = _gradient_error(prediction_m, target_m, everywhere)
        for name, (total, count) in further.items():
            sums[name], counts = total, torch.cat([counts, count[None]])
        if self.mean_over_ranks is not None:
            counts = self.mean_over_ranks(counts)
        terms = {name: sums[name] / count for name, count in zip(sums, _above_zero(counts), strict=True)}
        total = torch.lerp(terms[self.error], terms["ssim"], self.ssim_weight)
        if self.gradient_weight > 0:
            total = total + self.gradient_weight * terms["gradient"]
        return {"total": total, **terms}


def _log_error(
    prediction_m: Tensor, target_m: Tensor, valid: Tensor, scale_invariance: float
) -> tuple[Tensor, Tensor]:
    """The sum over images of √(mean e² - λ (mean e)²), and how many have a valid pixel."""
    # What is missing becomes 1 m in both before anything is computed from it: 0 times infinity is not 0.
    prediction, target = (torch.where(valid, depth, 1).clamp(min=NEAREST_M) for depth in (prediction_m, target_m))
    error = (prediction.log() - target.log()).flatten(1)
    pixels = valid.flatten(1).sum(dim=1)
    some = pixels > 0
    pixels = pixels.clamp(min=1)
    mean_square, mean = error.square().sum(dim=1) / pixels, error.sum(dim=1) / pixels
    # The root of 0 has no finite gradient.
    root = (mean_square - scale_invariance * mean.square()).clamp(min=LEAST_VARIANCE).sqrt()
    return (root * some).sum(), some.sum().to(root.dtype)


def _gradient_error(prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the differences between neighbours' errors, and how many pairs of neighbours are valid."""
    error = torch.where(valid, prediction_m - target_m, 0)
    both = [valid[..., 1:, :] & valid[..., :-1, :], valid[..., 1:] & valid[..., :-1]]
    steps = [error[..., 1:, :] - error[..., :-1, :], error[..., 1:] - error[..., :-1]]
    total = torch.stack([(step.abs() * pairs).sum() for step, pairs in zip(steps, both, strict=True)]).sum()
    return total, torch.stack([pairs.sum() for pairs in both]).sum().to(error.dtype)


class _Sums(NamedTuple):
    """Of a batch, in its precision."""

    squared_error: Tensor
    """m², over valid pixels"""
    dissimilarity: Tensor
    """(1 - SSIM) / 2, over clean windows"""
    counts: Tensor
    """(2,) numbers of valid pixels and of clean windows"""


def _loss_sums(prediction_m: Tensor, target_m: Tensor, valid: Tensor | None, data_range: float) -> _Sums:
    _check_shapes(prediction_m, target_m, valid)
    height, width = prediction_m.shape[-2:]
    if min(height, width) < WINDOW:
        raise ValueError(f"SSIM needs maps of at least {WINDOW} x {WINDOW} pixels, not {height} x {width}")
    dtype = torch.promote_types(torch.promote_types(prediction_m.dtype, target_m.dtype), torch.float32)
    prediction_m, target_m = prediction_m.to(dtype), target_m.to(dtype)
    # Asked here, because within a function gradients are always off.
    wanted = [torch.is_grad_enabled() and maps.requires_grad for maps in (prediction_m, target_m)]
    # Neither kernels nor products that write into views can be compiled, so a compiled caller steps out for them.
    sums = torch.compiler.disable(_sums) if torch.compiler.is_compiling() else _sums
    return sums(prediction_m, target_m, valid, data_range, wanted)


def _sums(
    prediction_m: Tensor, target_m: Tensor, valid: Tensor | None, data_range: float, wanted: Sequence[bool]
) -> _Sums:
    function: type[torch.autograd.Function] = _LossSums
    if prediction_m.is_cuda and prediction_m.dtype == torch.float32 and len(prediction_m) > 0:
        function = _triton_function(prediction_m.device) or _LossSums
    return _Sums(*function.apply(prediction_m, target_m, valid, data_range, wanted))


@kernels_at_hand("the loss")
def _triton_function(device: torch.device) -> type[torch.autograd.Function]:
    from pipeline.model.losses_triton import LossSums

    target_m = torch.zeros(1, 1, WINDOW, WINDOW, device=device)
    prediction_m = torch.zeros_like(target_m, requires_grad=True)
    run_both_ways(LossSums, prediction_m, target_m, target_m == 0, DATA_RANGE_M, (True, False))
    return LossSums


class _LossSums(torch.autograd.Function):
    """Sums of the squared errors and of (1 - SSIM) / 2, each with its gradients by prediction and target; counts.

    Forward makes the gradients of the second as well, a few frames at a time, and backward only scales them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        prediction_m: Tensor,
        target_m: Tensor,
        valid: Tensor | None,
        data_range: float,
        wanted: Sequence[bool],
    ) -> tuple[Tensor, Tensor, Tensor]:
        frames, _, height, width = prediction_m.shape
        if valid is None:
            clean = None
            pixels = prediction_m.new_full((), frames * height * width)
            windows = prediction_m.new_full((), frames * (height - MARGIN) * (width - MARGIN))
        else:
            clean = _clean_windows(valid)
            pixels, windows = valid.sum(), clean.sum()
            clean = clean.to(prediction_m.dtype)  # as a factor
        counts = torch.stack((pixels, windows)).to(prediction_m.dtype)
        half_gradients = [torch.empty_like(prediction_m) if want else None for want in wanted]
        sums = prediction_m.new_zeros(2)
        similarity = None
        at_once = _frames_at_once(prediction_m)
        with torch.autocast(prediction_m.device.type, enabled=False):
            for start in range(0, frames, at_once):
                part = slice(start, start + at_once)
                prediction, target = prediction_m[part, 0], target_m[part, 0]
                if similarity is None or similarity.frames != len(prediction):
                    similarity = _Similarity(prediction, data_range, sum(wanted))
                others = (None if maps is None else maps[part, 0] for maps in (valid, clean, *half_gradients))
                sums += similarity(prediction, target, *others)
        ctx.save_for_backward(prediction_m, target_m, valid, *half_gradients)
        ctx.mark_non_differentiable(counts)
        ctx.set_materialize_grads(False)
        return sums[0], sums[1], counts

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_squared_error: Tensor | None, of_dissimilarity: Tensor | None, _: None
    ) -> tuple[Tensor | None, ...]:
        prediction_m, target_m, valid, *half_gradients = ctx.saved_tensors
        error_m = None
        if of_squared_error is not None:
            error_m = prediction_m - target_m
            if valid is not None:
                error_m = torch.where(valid, error_m, 0)
            error_m *= 2 * of_squared_error
        gradients: list[Tensor | None] = []
        for half_gradient, sign in zip(half_gradients, (1, -1), strict=True):
            gradient = None
            if half_gradient is not None and of_dissimilarity is not None:
                gradient = half_gradient * (2 * of_dissimilarity)
            if half_gradient is not None and error_m is not None:
                gradient = sign * error_m if gradient is None else gradient.add_(error_m, alpha=sign)
            gradients.append(gradient)
        return *gradients, None, None, None


class _Similarity:
    """SSIM of a few frames and its gradients, in buffers that serve one part of a batch after the other.

    With s = x + y and d = x - y both factors of SSIM are (S - D + 2C) / (S + D + 2C) = 1 - 2h, where
    h = D / (S + D + 2C): h1 for S = E[s]², D = E[d]² and C1, h2 for the variances of s and d and C2. Four maps to
    filter, where x, y, x², y² and xy are five. (1 - SSIM) / 2 = h1 + h2 (1 - 2 h1) keeps its digits where the maps
    are nearly alike, and with variances clamped at 0 each h lies in 0..1, whatever rounding took from them.
    """

    def __init__(self, like: Tensor, data_range: float, gradients: int) -> None:
        self.frames, height, width = like.shape
        shape, dtype, device = (self.frames, height, width), like.dtype, like.device
        self._zero, self._one = like.new_zeros(()), like.new_ones(())
        self._two_c1 = like.new_full((), 2 * (K1 * data_range) ** 2)
        self._two_c2 = 2 * (K2 * data_range) ** 2
        self._s = like.new_empty(shape)
        # E[s²] - E[s]² in float32 puts gradients off by up to 3e-5 of the largest, in float64 by 5e-6. That of d
        # may be float32: where d is large, so is its variance, and little cancels.
        self._of_s = _WindowMeans(2, shape, torch.float64, device)
        self._of_d = _WindowMeans(2, shape, dtype, device)
        if gradients:
            # The transpose of the filter is the filter itself, with zeros around what it is applied to.
            shape = (self.frames, height + MARGIN, width + MARGIN)
            self._transposed = _WindowMeans(2 + gradients, shape, dtype, device)

    def __call__(
        self,
        prediction_m: Tensor,
        target_m: Tensor,
        valid: Tensor | None,
        clean: Tensor | None,
        *half_gradients: Tensor | None,
    ) -> Tensor:
        """Both sums, of (frames, H, W) maps; fills `half_gradients` with half the gradients of the second."""
        s = torch.add(prediction_m, target_m, out=self._s)
        d = torch.sub(prediction_m, target_m, out=self._of_d.maps[:, 0])
        if valid is not None:
            for maps in (s, d):
                torch.where(valid, maps, self._zero, out=maps)
        squared_error = d.square().sum()

        # A variance does not change with the origin, but the digits that E[x²] - E[x]² cancels do.
        origin_s, origin_d = (maps.mean(dim=(-2, -1), keepdim=True) for maps in (s, d))
        self._of_s.maps[:, 0] = s.sub_(origin_s)
        d -= origin_d
        centred_s, variance_s = _moments(self._of_s, s.dtype)
        centred_d, variance_d = _moments(self._of_d, d.dtype)
        mean_s, mean_d = centred_s + origin_s, centred_d + origin_d

        sum1 = torch.addcmul(self._two_c1, mean_s, mean_s).addcmul_(mean_d, mean_d)
        sum2 = (variance_s + variance_d).add_(self._two_c2)
        h1, h2 = mean_d.square().div_(sum1), variance_d.div_(sum2)
        factor1, factor2 = (torch.sub(self._one, h, alpha=2) for h in (h1, h2))
        dissimilarity = torch.addcmul(h1, h2, factor1)
        if clean is not None:
            dissimilarity *= clean
        sums = torch.stack((squared_error, dissimilarity.sum()))
        wanted = [(half, sign) for half, sign in zip(half_gradients, (1, -1), strict=True) if half is not None]
        if not wanted:
            return sums

        # With w1 = (1 - 2 h2) / sum1 and w2 = (1 - 2 h1) / sum2 half the derivatives of (1 - SSIM) / 2 are
        #   by E[s]  w2 h2 (E[s] - origin) - w1 h1 E[s]                 by E[s²]  -w2 h2 / 2
        #   by E[d]  w1 (1 - h1) E[d] - w2 (1 - h2) (E[d] - origin)     by E[d²]  w2 (1 - h2) / 2
        # and a pixel that has the weight g in a window is in its E[s] with g, in its E[s²] with 2 g (s - origin).
        w1, w2 = factor2.div_(sum1), factor1.div_(sum2)
        if clean is not None:
            w1 *= clean
            w2 *= clean
        by_s2, by_d2, *by_means = self._transposed.maps[..., MARGIN:-MARGIN, MARGIN:-MARGIN].unbind(1)
        torch.mul(w2, h2, out=by_s2)
        torch.sub(w2, by_s2, out=by_d2)
        w1_h1 = h1.mul_(w1)
        by_s = centred_s.mul_(by_s2).addcmul_(mean_s, w1_h1, value=-1)
        by_d = mean_d.mul_(w1.sub_(w1_h1)).addcmul_(centred_d, by_d2, value=-1)
        for by_mean, (_, sign) in zip(by_means, wanted, strict=True):
            torch.add(by_s, by_d, alpha=sign, out=by_mean)

        of_s2, of_d2, *of_means = self._transposed().unbind(1)
        for (half_gradient, sign), of_mean in zip(wanted, of_means, strict=True):
            torch.addcmul(of_mean, s, of_s2, value=-1, out=half_gradient).addcmul_(d, of_d2, value=sign)
        return sums


class _WindowMeans:
    """Gaussian means of `maps` over every whole window: a call computes `means` from what stands in `maps`.

    maps: (N, M, H, W), zeros at first; means: (N, M, H - 10, W - 10).
    The window is separable, so there are two passes; each is a product with a banded matrix that filters the last
    axis and transposes. The matrix is cut into equal blocks along its band, so that little of a product is with
    zeros: on two CPU threads a seventh of the time of the whole matrix, which in turn is 10 times faster than
    one-channel convolutions. All blocks of all maps are one batched product over overlapping views of one buffer,
    which is padded for that: sides to whole blocks, and the end by what the last block reads of a map behind it.
    """

    def __init__(self, count: int, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        frames, height, width = shape
        size = BLOCK[device.type]
        rows, columns = _whole_blocks(height, size), _whole_blocks(width - MARGIN, size)
        self._matrix = _window_matrix(size, dtype, device)
        maps = torch.zeros(frames * count * rows + MARGIN, columns + MARGIN, dtype=dtype, device=device)
        across = maps.new_empty(columns, len(maps))
        means = maps.new_empty(frames * count * rows, columns)
        self._passes = [
            (source.unfold(1, size + MARGIN, size).permute(1, 2, 0), result.unflatten(0, (-1, size)))
            for source, result in ((maps, across), (across, means))
        ]
        self.maps = maps[:-MARGIN].view(frames, count, rows, -1)[..., :height, :width]
        self.means = means.view(frames, count, rows, -1)[..., : height - MARGIN, : width - MARGIN]

    def __call__(self) -> Tensor:
        for blocks, result in self._passes:
            torch.bmm(self._matrix.expand(len(blocks), -1, -1), blocks, out=result)
        return self.means


@functools.lru_cache(maxsize=32)
def _window_matrix(windows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(windows, windows + 10) matrix whose row i holds the normalised window at columns i to i + 10."""
    # Kept for later calls, so it must not be an inference tensor: backward could not use it.
    with torch.inference_mode(False):
        position = torch.arange(windows + MARGIN, dtype=torch.float64)
        offset = position - position[:windows, None] - WINDOW // 2
        weight = torch.exp(-(offset**2) / (2 * SIGMA**2)) * (offset.abs() <= WINDOW // 2)
        return (weight / weight.sum(dim=1, keepdim=True)).to(device, dtype)


def _whole_blocks(length: int, size: int) -> int:
    return -(-length // size) * size


def _moments(windows: _WindowMeans, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Window means and variances of the first map of each frame; the second is overwritten."""
    maps, squares = windows.maps.unbind(1)
    torch.square(maps, out=squares)
    means, variances = windows().unbind(1)
    variances.addcmul_(means, means, value=-1)
    return means.to(dtype), variances.to(dtype).clamp_(min=0)


def _clean_windows(valid: Tensor) -> Tensor:
    """(..., H - 10, W - 10) bool, whether no pixel of the window is missing from (..., H, W) `valid`."""
    for dim in (-2, -1):
        for shift in (1, 2, 4, 3):  # all of 2 pixels, of 4, of 8, of 11
            length = valid.shape[dim] - shift
            valid = valid.narrow(dim, 0, length) & valid.narrow(dim, shift, length)
    return valid


def _frames_at_once(maps: Tensor) -> int:
    frames, _, height, width = maps.shape
    if maps.device.type != "cpu":
        return max(1, frames)
    return max(1, PIXELS_AT_ONCE // (height * width))


def _above_zero(counts: Tensor) -> Tensor:
    """What sums are divided by. Where nothing is counted they are 0, and a mean of counts over ranks is 1 / ranks
    at least where anything is."""
    return counts.clamp(min=1e-6)


def _check_shapes(prediction_m: Tensor, target_m: Tensor, valid: Tensor | None) -> None:
    """A (N, H, W) target would broadcast against (N, 1, H, W) to N² maps without a word."""
    shapes = [tuple(maps.shape) for maps in (prediction_m, target_m, valid) if maps is not None]
    if len(set(shapes)) > 1 or len(shapes[0]) != 4 or shapes[0][1] != 1:
        raise ValueError(f"prediction, target and mask must share one shape (N, 1, H, W), not {shapes}")
