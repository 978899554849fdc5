"""Structural similarity of depth maps, and the training loss made of it and the squared error."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

WINDOW = 11
"""Side of the Gaussian window in pixels."""
SIGMA = 1.5
K1, K2 = 0.01, 0.03


def ssim(
    prediction_m: Tensor, target_m: Tensor, *, data_range: float = 10.0, valid: Tensor | None = None
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
    products at PyTorch's default precision: TF32 rounding moves the result by up to 2e-3.
    Raises ValueError if shapes differ or a map is smaller than the window.
    """
    _check_shapes(prediction_m, target_m, valid)
    if min(prediction_m.shape[-2:]) < WINDOW:
        height, width = prediction_m.shape[-2:]
        raise ValueError(f"SSIM needs maps of at least {WINDOW} x {WINDOW} pixels, not {height} x {width}")

    with torch.autocast(prediction_m.device.type, enabled=False):
        prediction_m, target_m = _at_least_float32(prediction_m, target_m)
        # With s = x + y and d = x - y both factors of SSIM are (s² - d² + 2C) / (s² + d² + 2C): of means (C1)
        # and of variances (C2). Four maps to filter, where x, y, x², y² and xy are five; and variances
        # clamped at 0 then keep the result in -1..1, whatever rounding took from them.
        combined = torch.stack((prediction_m + target_m, prediction_m - target_m))
        if valid is not None:
            combined = torch.where(valid, combined, 0)
        # A variance does not change with the origin, but the digits that E[x²] - E[x]² cancels do.
        origin = combined.detach().mean(dim=(-2, -1), keepdim=True)
        centred = combined - origin
        mean, mean_square = _window_means(torch.stack((centred, centred.square())))
        variance = (mean_square - mean.square()).clamp(min=0)
        luminance = _agreement((mean + origin).square(), (K1 * data_range) ** 2)
        contrast_structure = _agreement(variance, (K2 * data_range) ** 2)
        dissimilarity = 1 - luminance * contrast_structure
        if valid is None:
            return 1 - dissimilarity.mean()
        # Every weight of the window is positive, so the filtered mask is 0 exactly where nothing is missing.
        clean = _window_means((~valid).to(dissimilarity.dtype)) == 0
        return 1 - torch.where(clean, dissimilarity, 0).sum() / clean.sum().clamp(min=1)


class DepthLoss(nn.Module):
    """total = (1 - w)·mse + w·ssim, with mse in m² over valid pixels and ssim = (1 - SSIM) / 2 in 0..1.

    ssim_weight: w in 0..1, or ValueError. All three come back as scalars, since each is logged; nothing here
    waits for the device. A batch without a valid pixel has a loss of 0 and a gradient of 0.
    """

    def __init__(self, ssim_weight: float) -> None:
        super().__init__()
        if not 0 <= ssim_weight <= 1:
            raise ValueError(f"ssim_weight must lie in 0..1, not {ssim_weight}")
        self.ssim_weight = ssim_weight

    def forward(self, prediction_m: Tensor, target_m: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        """prediction_m, target_m: (N, 1, H, W) metres; valid: (N, 1, H, W) bool, None = every pixel."""
        _check_shapes(prediction_m, target_m, valid)
        prediction_m, target_m = _at_least_float32(prediction_m, target_m)
        error_m = prediction_m - target_m
        if valid is None:
            mse = error_m.square().mean()
        else:
            # Masked before the square: its gradient 2e is NaN where e is, and 0 · NaN would come back.
            mse = torch.where(valid, error_m, 0).square().sum() / valid.sum().clamp(min=1)
        dissimilarity = (1 - ssim(prediction_m, target_m, valid=valid)) / 2
        total = (1 - self.ssim_weight) * mse + self.ssim_weight * dissimilarity
        return {"total": total, "mse": mse, "ssim": dissimilarity}


def _agreement(sum_and_difference: Tensor, stabiliser: float) -> Tensor:
    """(2ab + C) / (a² + b² + C), given the squares of a + b and a - b along the first axis."""
    of_sum, of_difference = sum_and_difference
    return (of_sum - of_difference + 2 * stabiliser) / (of_sum + of_difference + 2 * stabiliser)


def _window_means(maps: Tensor) -> Tensor:
    """Gaussian means of (..., H, W) maps over every whole window: (..., H - 10, W - 10).

    The window is separable and each pass a product with a banded matrix, forward and backward: on two CPU
    threads 10 times faster than the same two passes as one-channel convolutions.
    """
    height, width = maps.shape[-2:]
    rows = _window_matrix(height, maps.dtype, maps.device)
    columns = _window_matrix(width, maps.dtype, maps.device)
    filtered: Tensor = _SeparableProduct.apply(maps, rows, columns)
    return filtered


class _SeparableProduct(torch.autograd.Function):
    """rows @ maps @ columnsᵀ with the precision of `maps` in both directions.

    Left to autograd, a backward pass that is started under autocast would take its products in bf16.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(rows, columns)
        return rows @ maps @ columns.mT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        rows, columns = ctx.saved_tensors
        with torch.autocast(gradient.device.type, enabled=False):
            return rows.mT @ gradient @ columns, None, None


@functools.lru_cache(maxsize=32)
def _window_matrix(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(length - 10, length) matrix whose row i holds the normalised window at columns i to i + 10."""
    # Kept for later calls, so it must not be an inference tensor: backward could not use it.
    with torch.inference_mode(False):
        position = torch.arange(length, dtype=torch.float64)
        offset = position - position[: length - WINDOW + 1, None] - WINDOW // 2
        weight = torch.exp(-(offset**2) / (2 * SIGMA**2)) * (offset.abs() <= WINDOW // 2)
        return (weight / weight.sum(dim=1, keepdim=True)).to(device, dtype)


def _at_least_float32(prediction_m: Tensor, target_m: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(torch.promote_types(prediction_m.dtype, target_m.dtype), torch.float32)
    return prediction_m.to(dtype), target_m.to(dtype)


def _check_shapes(prediction_m: Tensor, target_m: Tensor, valid: Tensor | None) -> None:
    """A (N, H, W) target would broadcast against (N, 1, H, W) to N² maps without a word."""
    shapes = [tuple(maps.shape) for maps in (prediction_m, target_m, valid) if maps is not None]
    if len(set(shapes)) > 1 or len(shapes[0]) != 4 or shapes[0][1] != 1:
        raise ValueError(f"prediction, target and mask must share one shape (N, 1, H, W), not {shapes}")
