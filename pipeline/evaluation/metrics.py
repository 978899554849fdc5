"""The errors that monocular depth is judged by (Eigen et al. 2014), per image or pooled over all pixels."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

METRICS = ("rmse", "rmse_log", "abs_rel", "sq_rel", "log10", "silog", "delta1", "delta2", "delta3")


class ErrorSums(NamedTuple):
    """Sums over the valid pixels of each image, (N,) float64, with e = ln p - ln g of prediction and truth.

    Sums add up: taken over images too, they give the pooled errors by the formulas of the per-image ones.
    """

    pixels: Tensor
    squared: Tensor
    """Σ (p - g)²"""
    absolute_relative: Tensor
    """Σ |p - g| / g"""
    squared_relative: Tensor
    """Σ (p - g)² / g"""
    log: Tensor
    """Σ e"""
    absolute_log: Tensor
    """Σ |e|"""
    squared_log: Tensor
    """Σ e²"""
    within1: Tensor
    """Pixels with max(p/g, g/p) < 1.25"""
    within2: Tensor
    """… < 1.25²"""
    within3: Tensor
    """… < 1.25³"""

    def pooled(self) -> ErrorSums:
        """The N images taken as one: (1,) sums."""
        return ErrorSums(*(values.sum(dim=0, keepdim=True) for values in self))


def depth_errors(prediction_m: Tensor, target_m: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
    """All of `METRICS` per image, (N,) float64; see `error_sums` and `errors_from_sums`."""
    return errors_from_sums(error_sums(prediction_m, target_m, valid))


def error_sums(prediction_m: Tensor, target_m: Tensor, valid: Tensor | None = None) -> ErrorSums:
    """What the errors of each image are computed from, accumulated in float64.

    prediction_m, target_m: (N, 1, H, W) or (N, H, W) metres. The truth stands second and is what relative
        errors divide by. Predictions must be positive in valid pixels, or the logarithms are NaN or infinite;
        a protocol clips them.
    valid: bool of the same shape, None = where target_m > 0. Other pixels may hold anything.
    Raises ValueError if shapes differ.
    """
    if valid is None:
        valid = target_m > 0
    if not prediction_m.shape == target_m.shape == valid.shape:
        shapes = [tuple(maps.shape) for maps in (prediction_m, target_m, valid)]
        raise ValueError(f"prediction, target and mask must share one shape, not {shapes}")
    # 1 m against 1 m has no error in any sum, so only counts need the mask again.
    prediction = torch.where(valid, prediction_m, 1).to(torch.float64).flatten(1)
    target = torch.where(valid, target_m, 1).to(torch.float64).flatten(1)
    error = prediction - target
    relative = error / target
    ratio = prediction / target
    log_ratio = ratio.log()
    factor = torch.maximum(ratio, target / prediction)
    within = [(factor < 1.25**power) & valid.flatten(1) for power in (1, 2, 3)]
    return ErrorSums(
        *(
            values.sum(dim=1, dtype=torch.float64)
            for values in (
                valid.flatten(1),
                error.square(),
                relative.abs(),
                relative * error,
                log_ratio,
                log_ratio.abs(),
                log_ratio.square(),
                *within,
            )
        )
    )


def errors_from_sums(sums: ErrorSums) -> dict[str, Tensor]:
    """All of `METRICS`, each of the shape of the sums, NaN where there is no pixel.

    RMSE √mean (p - g)² and SqRel mean (p - g)²/g in metres; AbsRel mean |p - g|/g; RMSElog √mean e²;
    log10 mean |log10 p - log10 g|; SILog 100·√(mean e² - (mean e)²); δk the share of pixels with
    max(p/g, g/p) < 1.25^k.
    """
    mean = ErrorSums(*(values / sums.pixels for values in sums))
    return {
        "rmse": mean.squared.sqrt(),
        "rmse_log": mean.squared_log.sqrt(),
        "abs_rel": mean.absolute_relative,
        "sq_rel": mean.squared_relative,
        "log10": mean.absolute_log / math.log(10),
        "silog": 100 * (mean.squared_log - mean.log.square()).clamp(min=0).sqrt(),
        "delta1": mean.within1,
        "delta2": mean.within2,
        "delta3": mean.within3,
    }
