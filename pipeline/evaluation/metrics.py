"""The errors that monocular depth is judged by (Eigen et al. 2014), per image or pooled over all pixels."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np
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


UNCLIPPED = (-math.inf, math.inf)


class Region(NamedTuple):
    """A part of each map, which truth counts there, and what prediction is scored."""

    rows: slice = slice(None)
    columns: slice = slice(None)
    between_m: tuple[float, float] = (0.0, math.inf)
    """Pixels count whose truth lies strictly between."""
    clip_m: tuple[float, float] = UNCLIPPED
    """Predictions are clipped to this range."""


def error_sums(prediction_m: Tensor, target_m: Tensor, valid: Tensor | None = None) -> ErrorSums:
    """What the errors of each image are computed from, accumulated in float64.

    prediction_m, target_m: (N, 1, H, W) or (N, H, W) metres. The truth stands second and is what relative
        errors divide by. Predictions must be positive in valid pixels, or the logarithms are NaN or infinite;
        a protocol clips them.
    valid: bool of the same shape, None = where target_m > 0. Other pixels may hold anything.
    Raises ValueError if shapes differ.
    """
    (sums,) = region_sums(prediction_m, target_m, [Region()], valid)
    return sums


def region_sums(
    prediction_m: Tensor, target_m: Tensor, regions: Sequence[Region], valid: Tensor | None = None
) -> list[ErrorSums]:
    """As `error_sums` for each region of the same maps, which costs little more than the largest of them alone.

    valid: counts instead of the truth's range.
    """
    maps = [prediction_m, target_m] if valid is None else [prediction_m, target_m, valid]
    if len({part.shape for part in maps}) > 1:
        shapes = [tuple(part.shape) for part in maps]
        raise ValueError(f"prediction, target and mask must share one shape, not {shapes}")
    maps = [part.detach().flatten(0, -3) for part in maps]
    if target_m.device.type == "cpu":
        return _sums_on_cpu(maps, regions)
    return [_sums_on_device(maps, region) for region in regions]


def _sums_on_device(maps: Sequence[Tensor], region: Region) -> ErrorSums:
    """All images at once, in float64 element by element, and nothing that waits for the device."""
    prediction_m, target_m, *mask = (part[:, region.rows, region.columns].flatten(1) for part in maps)
    low, high = region.between_m
    valid = mask[0] if mask else (target_m > low) & (target_m < high)
    prediction_m = prediction_m.clamp(*region.clip_m)
    # No error against 1 m adds nothing to any sum, so only counts need the mask again.
    error = torch.where(valid, prediction_m.double() - target_m.double(), 0)
    relative = error / torch.where(valid, target_m, 1)
    log = relative.log1p()  # ln p/g
    terms = (
        valid,
        error.square(),
        relative.abs(),
        relative * error,
        log,
        log.abs(),
        log.square(),
        # A ratio of exactly 1.25 is not within it, but its logarithm may come out a hair too small.
        *((log.abs() < threshold * (1 - 1e-12)) & valid for threshold in LOG_THRESHOLDS),
    )
    return ErrorSums(*(term.sum(dim=1, dtype=torch.float64) for term in terms))


LOG_THRESHOLDS = tuple(power * math.log(1.25) for power in (1, 2, 3))
"""|ln p/g| below which a pixel is within a threshold."""


STRIP_ROWS = 240
"""So many rows are taken at once on a CPU: at most 255, as pixels of a column are counted in 8 bits. The steps of
shorter strips end too soon for threads, which wait for each other between them: with 60 rows two threads took
1.8 ms an image and one took 1.6."""

BLOCK_ROWS = 60
"""So many rows of a column are added up in float32."""


def _sums_on_cpu(maps: Sequence[Tensor], regions: Sequence[Region]) -> list[ErrorSums]:
    """By numpy, whose comparisons are vectorised where PyTorch's are not; an image for each of its threads."""
    images = list(zip(*(list(part.numpy()) for part in maps), strict=True))

    def of_image(image: tuple[np.ndarray, ...]) -> np.ndarray:
        return _sums_of_image(*image, regions=regions)

    threads = min(torch.get_num_threads(), len(images))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(of_image, images))
    else:
        found = [of_image(image) for image in images]
    sums = np.array(found, np.float64).reshape(len(images), len(regions), len(ErrorSums._fields))
    return [ErrorSums(*torch.from_numpy(of_region.T.copy())) for of_region in sums.swapaxes(0, 1)]


def _sums_of_image(
    prediction_m: np.ndarray, target_m: np.ndarray, valid: np.ndarray | None = None, *, regions: Sequence[Region]
) -> np.ndarray:
    """(regions, fields of `ErrorSums`) of (H, W) maps.

    Terms have the precision of the maps. The float32 terms of a column of one block are added in float32, all
    else in float64: on frames that keeps every metric within 1e-7 of float64 throughout (5e-7 where all pixels are
    off by the same), while to widen each term before it is added would take as long as all the rest (3.0 ns a
    pixel, not 0.9).
    """
    height, width = target_m.shape
    rows = [range(*region.rows.indices(height)) for region in regions]
    total = np.zeros((len(regions), len(ErrorSums._fields)))
    work = _Strip(np.result_type(prediction_m, target_m), width)
    for start, stop in _strips({edge for part in rows for edge in (part.start, part.stop)}):
        here = [number for number, part in enumerate(rows) if part.start <= start and stop <= part.stop]
        if not here:
            continue
        columns = [range(*regions[number].columns.indices(width)) for number in here]
        first, last = min(part.start for part in columns), max(part.stop for part in columns)
        strip = np.s_[start:stop, first:last]
        p, g = prediction_m[strip], target_m[strip]
        lowest, highest, nearest, farthest = p.min(), p.max(), g.min(), g.max()
        made: dict[object, np.ndarray] = {}
        for number, part in zip(here, columns, strict=True):
            (low, high), (shortest, longest) = regions[number].between_m, regions[number].clip_m
            # Where the treatments of two regions make no difference to the strip, its terms serve both.
            between = None if valid is None and nearest > low and farthest < high else (low, high)
            clip = (-math.inf if lowest >= shortest else shortest, math.inf if highest <= longest else longest)
            if (clip, between) not in made:
                inside = None if between is None else (g > low) & (g < high) if valid is None else valid[strip]
                made[clip, between] = work.column_sums(p if clip == UNCLIPPED else p.clip(*clip), g, inside)
            total[number] += made[clip, between][:, part.start - first : part.stop - first].sum(axis=1)
    return total


def _strips(edges: Collection[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring ranges of at most `STRIP_ROWS` rows, none of which reaches across an edge."""
    for top, bottom in pairwise(sorted(edges)):
        for start in range(top, bottom, STRIP_ROWS):
            yield start, min(start + STRIP_ROWS, bottom)


FAR_TOO_NEAR = -0.9
"""(p - g)/g below which it does not tell p/g well any more: of 1 mm for 8 m float32 leaves three digits."""


class _Strip:
    """Room for the terms of a few rows, so that none is asked of the system again and again."""

    def __init__(self, dtype: np.dtype, width: int) -> None:
        self._floats = np.empty((5, STRIP_ROWS * width), dtype)
        self._bools = np.empty(STRIP_ROWS * width, np.bool_)
        # As numpy rounds the logarithms of exactly 1.25 and 1 / 1.25, which are not within, and so on.
        limits = np.array([[1.25**power - 1, 1.25**-power - 1] for power in (1, 2, 3)], dtype)
        self._bounds = np.abs(np.log1p(limits)).min(axis=1)

    def column_sums(self, p: np.ndarray, g: np.ndarray, inside: np.ndarray | None) -> np.ndarray:
        """(fields of `ErrorSums`, columns) float64 of a few rows; `inside` None: all pixels count."""
        error, relative, log, size, truth = (room[: g.size].reshape(g.shape) for room in self._floats)
        below = self._bools[: g.size].reshape(g.shape)
        sums = np.empty((len(ErrorSums._fields), g.shape[1]))
        with np.errstate(invalid="ignore", over="ignore"):  # in pixels that do not count
            np.subtract(p, g, out=error)
        if inside is not None:
            # No error against 1 m adds nothing to any sum, so only counts need to know.
            outside = ~inside
            np.copyto(error, 0, where=outside)
            np.copyto(truth, g)
            np.copyto(truth, 1, where=outside)
            g = truth
        np.divide(error, g, out=relative)
        np.log1p(relative, out=log)  # ln p/g, also where both are nearly equal
        if relative.min(initial=0) < FAR_TOO_NEAR:
            where = relative < FAR_TOO_NEAR
            log[where] = np.log(p[where] / g[where])
        sums[1] = _added(error, error)
        sums[3] = _added(error, relative)
        sums[6] = _added(log, log)
        sums[4] = _added(log)
        sums[2] = _added(np.abs(relative, out=size))
        sums[5] = _added(np.abs(log, out=size))
        missing: np.ndarray | int = 0 if inside is None else outside.view(np.uint8).sum(axis=0, dtype=np.uint8)
        sums[0] = len(g) - missing
        for row, bound in enumerate(self._bounds, start=7):
            np.less(size, bound, out=below)
            sums[row] = below.view(np.uint8).sum(axis=0, dtype=np.uint8) - missing
        return sums


def _added(values: np.ndarray, factors: np.ndarray | None = None) -> np.ndarray:
    """(columns,) float64 sums of the values, or of their products with as many factors, down the rows.

    Within a block of `BLOCK_ROWS` rows they are added in the precision of the values, block to block in float64.
    """
    sums = np.zeros(values.shape[1])
    for start in range(0, len(values), BLOCK_ROWS):
        block = np.s_[start : start + BLOCK_ROWS]
        if factors is None:
            sums += values[block].sum(axis=0)
        else:
            sums += np.einsum("ij,ij->j", values[block], factors[block])
    return sums


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
