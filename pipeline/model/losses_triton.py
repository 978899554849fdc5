"""The sums of `losses.py` on a GPU: one Triton kernel for the values, one for the gradients.

PyTorch takes some 45 operations for them, most of which are shorter than their launch. Here each program of a
kernel works on a strip of ROWS whole rows: it filters down the columns, leaves the result in a piece of memory that
is its own, and after a barrier filters that along the rows. So where strips meet nothing is computed twice.

Nothing here waits for the device or depends on what the maps hold, so a call can be captured in a CUDA graph, and
no sum depends on the order in which programs run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.model import window

ROWS, COLUMNS, WARPS = 4, 64, 8
"""Of a strip, and how many columns of it a program works on at once with that many warps: one pixel a thread, whose
loads for all taps at a time already take 64 to 76 registers."""

TAPS = tl.constexpr(window.WINDOW)
MARGIN = tl.constexpr(window.MARGIN)
MIDDLE = tl.constexpr(window.WINDOW // 2)
# The weight of tap t is PEAK * DECAY ** (t - MIDDLE)², constants for the compiler.
DECAY = tl.constexpr(math.exp(-1 / (2 * window.SIGMA**2)))
PEAK = tl.constexpr(1 / sum(DECAY.value ** (t - MIDDLE.value) ** 2 for t in range(window.WINDOW)))


class LossSums(torch.autograd.Function):
    """Does what `losses._LossSums` does, for contiguous or other float32 maps on a GPU, of one pixel or more."""

    @staticmethod
    def forward(
        ctx: Any,
        prediction_m: Tensor,
        target_m: Tensor,
        valid: Tensor | None,
        data_range: float,
        wanted: Sequence[bool],
    ) -> tuple[Tensor, Tensor, Tensor]:
        # The sums are the same with the maps swapped, so the kernels make gradients by none, the first or both.
        ctx.swapped = not wanted[0] and wanted[1]
        x_m, y_m = (target_m, prediction_m) if ctx.swapped else (prediction_m, target_m)
        x_m, y_m = x_m.contiguous(), y_m.contiguous()
        if valid is not None:
            valid = valid.contiguous()
        totals, slopes = value_sums(x_m, y_m, valid, data_range, gradients=sum(wanted))
        if slopes is not None:
            ctx.data_range = data_range
            ctx.save_for_backward(x_m, y_m, valid, slopes)
        squared_error, dissimilarity, counts = totals[0], totals[1], totals[2:]
        ctx.mark_non_differentiable(counts)
        ctx.set_materialize_grads(False)
        return squared_error, dissimilarity, counts

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_squared_error: Tensor | None, of_dissimilarity: Tensor | None, _: None
    ) -> tuple[Tensor | None, ...]:
        x_m, y_m, valid, slopes = ctx.saved_tensors
        by_x, by_y = gradients(x_m, y_m, valid, slopes, ctx.data_range, of_squared_error, of_dissimilarity)
        return *((by_y, by_x) if ctx.swapped else (by_x, by_y)), None, None, None


def value_sums(
    x_m: Tensor, y_m: Tensor, valid: Tensor | None, data_range: float, *, gradients: int
) -> tuple[Tensor, Tensor | None]:
    """Squared error, dissimilarity, numbers of pixels and of windows; and what `gradients` needs if it is to make
    one or two of them."""
    frames, _, height, width = x_m.shape
    strips = triton.cdiv(height, ROWS)
    moments = x_m.new_empty(frames * strips * (4 if valid is None else 5) * ROWS * width)
    partials = x_m.new_empty(4, frames * strips)
    slopes = None
    if gradients:
        slopes = x_m.new_empty(frames, 2 + gradients, height - window.MARGIN, width - window.MARGIN)
    two_c1, two_c2 = (2 * (k * data_range) ** 2 for k in (window.K1, window.K2))
    with torch.cuda.device_of(x_m):
        _value_kernel[(strips, frames)](
            *(x_m, y_m, valid, moments, slopes, partials, height, width, data_range, two_c1, two_c2),
            MASKED=valid is not None,
            SLOPES=0 if slopes is None else 2 + gradients,
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            num_warps=WARPS,
        )
    return partials.sum(dim=1), slopes


def gradients(
    x_m: Tensor,
    y_m: Tensor,
    valid: Tensor | None,
    slopes: Tensor,
    data_range: float,
    of_squared_error: Tensor | None,
    of_dissimilarity: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """By x and, if the slopes are for it, by y."""
    frames, _, height, width = x_m.shape
    strips = triton.cdiv(height, ROWS)
    by_x = torch.empty_like(x_m)
    by_y = torch.empty_like(x_m) if slopes.shape[1] == 4 else None
    filtered = x_m.new_empty(frames * strips * slopes.shape[1] * ROWS * width)
    with torch.cuda.device_of(x_m):
        _gradient_kernel[(strips, frames)](
            *(x_m, y_m, valid, slopes, filtered, of_squared_error, of_dissimilarity, by_x, by_y),
            *(height, width, data_range),
            MASKED=valid is not None,
            SLOPES=slopes.shape[1],
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            num_warps=WARPS,
        )
    return by_x, by_y


# Sizes are not specialised: for a width known to divide by 16 the compiler would give each thread four columns side
# by side, and a load, which taps shift, would touch four times as much memory with a warp.
@triton.jit(do_not_specialize=["height", "width"])
def _value_kernel(
    x_m, y_m, valid, moments, slopes, partials, height, width, origin, two_c1, two_c2,
    MASKED: tl.constexpr, SLOPES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums over the pixels and windows that begin in a strip, and the slopes of those windows.

    moments: (programs, 4 or 5, ROWS, width) for the means and variances of s = x + y and d = x - y down 11 pixels
    of a column, and whether none of these is missing; partials: (4, programs); slopes: (N, SLOPES, H - 10, W - 10).
    """
    strip, frame = tl.program_id(0), tl.program_id(1).to(tl.int64)
    program = frame * tl.num_programs(0) + strip
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    rows = strip * ROWS + row
    plane = ROWS * width
    x_m += frame * height * width
    y_m += frame * height * width
    if MASKED:
        valid += frame * height * width
    moments += program * (5 if MASKED else 4) * plane

    zero = tl.zeros((ROWS, COLUMNS), tl.float32)
    squared_error, pixels, dissimilarity, windows = zero, zero, zero, zero
    for start in range(0, width, COLUMNS):
        columns = start + column
        # A variance does not change with the origin, but the digits that E[x²] - E[x]² cancels do. The middle of
        # what is averaged leaves so few that float32 does, where one origin for all windows takes float64.
        origin_s, origin_d, whole = _s_and_d(x_m, y_m, valid, rows + MIDDLE, columns, height, width, MASKED)
        mean_s, mean_d, square_s, square_d = zero, zero, zero, zero
        for tap in tl.static_range(TAPS):
            weight = PEAK * DECAY ** ((tap - MIDDLE) * (tap - MIDDLE))
            s, d, there = _s_and_d(x_m, y_m, valid, rows + tap, columns, height, width, MASKED)
            if tap == 0:
                squared_error += d * d
                pixels += tl.where(there, 1.0, 0.0)
            whole = whole & there
            s -= origin_s
            d -= origin_d
            mean_s += weight * s
            mean_d += weight * d
            square_s += weight * (s * s)
            square_d += weight * (d * d)
        at, inside = moments + row * width + columns, columns < width
        tl.store(at, mean_s + origin_s, mask=inside)
        tl.store(at + plane, square_s - mean_s * mean_s, mask=inside)
        tl.store(at + 2 * plane, mean_d + origin_d, mask=inside)
        tl.store(at + 3 * plane, square_d - mean_d * mean_d, mask=inside)
        if MASKED:
            tl.store(at + 4 * plane, tl.where(whole, 1.0, 0.0), mask=inside)
    tl.debug_barrier()  # what other threads of the program have stored is read from here on

    for start in range(0, width - MARGIN, COLUMNS):
        columns = start + column
        inside = (rows < height - MARGIN) & (columns < width - MARGIN)
        at = moments + row * width + columns
        mean_s, variance_s = _window_moments(at, at + plane, inside)
        mean_d, variance_d = _window_moments(at + 2 * plane, at + 3 * plane, inside)
        clean = inside
        if MASKED:
            for tap in tl.static_range(TAPS):
                clean = clean & (tl.load(at + 4 * plane + tap, mask=inside, other=0.0) > 0)

        sum1 = mean_s * mean_s + mean_d * mean_d + two_c1
        sum2 = variance_s + variance_d + two_c2
        h1, h2 = mean_d * mean_d / sum1, variance_d / sum2
        factor1, factor2 = 1 - 2 * h1, 1 - 2 * h2
        dissimilarity += tl.where(clean, h1 + h2 * factor1, 0.0)
        windows += tl.where(clean, 1.0, 0.0)

        # The derivatives stand in losses.py. A window adds g (by_s - (s - origin) by_s2 ± (by_d + d by_d2)) to the
        # half gradient of a pixel that has the weight g in it, + by x and - by y. An origin of the range of depths,
        # the s of its middle, halves what cancels there.
        if SLOPES > 0:
            w1, w2 = tl.where(clean, factor2 / sum1, 0.0), tl.where(clean, factor1 / sum2, 0.0)
            by_s2 = w2 * h2
            by_d2 = w2 - by_s2
            by_s = by_s2 * (mean_s - origin) - w1 * h1 * mean_s
            by_d = (w1 - w1 * h1 - by_d2) * mean_d
            size = (height - MARGIN) * (width - MARGIN)
            at = slopes + frame * SLOPES * size + rows * (width - MARGIN) + columns
            tl.store(at, by_s2, mask=inside)
            tl.store(at + size, by_d2, mask=inside)
            tl.store(at + 2 * size, by_s + by_d, mask=inside)
            if SLOPES == 4:
                tl.store(at + 3 * size, by_s - by_d, mask=inside)

    programs = tl.num_programs(0) * tl.num_programs(1)
    tl.store(partials + program, tl.sum(squared_error))
    tl.store(partials + programs + program, tl.sum(dissimilarity))
    tl.store(partials + 2 * programs + program, tl.sum(pixels))
    tl.store(partials + 3 * programs + program, tl.sum(windows))


@triton.jit(do_not_specialize=["height", "width"])
def _gradient_kernel(
    x_m, y_m, valid, slopes, filtered, of_squared_error, of_dissimilarity, by_x, by_y, height, width, origin,
    MASKED: tl.constexpr, SLOPES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradients in a strip: slopes of all windows that a pixel is in, by its weights there, and its own error.

    filtered: (programs, SLOPES, ROWS, width) for the slopes filtered down the columns.
    of_squared_error, of_dissimilarity: scalars, the gradients of the sums, or None.
    """
    strip, frame = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    rows = strip * ROWS + row
    plane = ROWS * width
    x_m += frame * height * width
    y_m += frame * height * width
    if MASKED:
        valid += frame * height * width
    filtered += (frame * tl.num_programs(0) + strip) * SLOPES * plane

    if of_dissimilarity is not None:
        size = (height - MARGIN) * (width - MARGIN)
        for start in range(0, width - MARGIN, COLUMNS):
            columns = start + column
            for number in tl.static_range(SLOPES):
                mean = tl.zeros((ROWS, COLUMNS), tl.float32)
                at = slopes + (frame * SLOPES + number) * size + rows * (width - MARGIN) + columns
                for tap in tl.static_range(TAPS):
                    weight = PEAK * DECAY ** ((tap - MIDDLE) * (tap - MIDDLE))
                    inside = (rows >= tap) & (rows - tap < height - MARGIN) & (columns < width - MARGIN)
                    mean += weight * tl.load(at - tap * (width - MARGIN), mask=inside, other=0.0)
                tl.store(filtered + number * plane + row * width + columns, mean, mask=columns < width - MARGIN)
        tl.debug_barrier()  # what other threads of the program have stored is read from here on

    for start in range(0, width, COLUMNS):
        columns = start + column
        s, d, _ = _s_and_d(x_m, y_m, valid, rows, columns, height, width, MASKED)
        to_x = tl.zeros((ROWS, COLUMNS), tl.float32)
        to_y = tl.zeros((ROWS, COLUMNS), tl.float32)
        if of_squared_error is not None:
            to_x += 2 * tl.load(of_squared_error) * d
            to_y -= to_x
        if of_dissimilarity is not None:
            scale = 2 * tl.load(of_dissimilarity)
            at = filtered + row * width + columns
            of_s2 = _mean_of_windows(at, columns, width)
            of_d2 = _mean_of_windows(at + plane, columns, width)
            to_x += scale * (_mean_of_windows(at + 2 * plane, columns, width) - (s - origin) * of_s2 + d * of_d2)
            if SLOPES == 4:
                to_y += scale * (
                    _mean_of_windows(at + 3 * plane, columns, width) - (s - origin) * of_s2 - d * of_d2
                )
        at = frame * height * width + rows * width + columns
        inside = (rows < height) & (columns < width)
        tl.store(by_x + at, to_x, mask=inside)
        if SLOPES == 4:
            tl.store(by_y + at, to_y, mask=inside)


@triton.jit
def _s_and_d(x_m, y_m, valid, rows, columns, height, width, MASKED: tl.constexpr):
    """s = x + y and d = x - y, 0 where a pixel is missing or beyond the frame, and whether it is there."""
    at, there = rows * width + columns, (rows < height) & (columns < width)
    x, y = tl.load(x_m + at, mask=there, other=0.0), tl.load(y_m + at, mask=there, other=0.0)
    if MASKED:
        there = there & (tl.load(valid + at, mask=there, other=0) != 0)
        x, y = tl.where(there, x, 0.0), tl.where(there, y, 0.0)
    return x + y, x - y, there


@triton.jit
def _window_moments(means, variances, inside):
    """Mean and variance of the windows: the mean of the columns' variances, and the variance of their means."""
    origin = tl.load(means + MIDDLE, mask=inside, other=0.0)
    mean, square, variance = tl.zeros_like(origin), tl.zeros_like(origin), tl.zeros_like(origin)
    for tap in tl.static_range(TAPS):
        weight = PEAK * DECAY ** ((tap - MIDDLE) * (tap - MIDDLE))
        off = tl.load(means + tap, mask=inside, other=0.0) - origin
        mean += weight * off
        square += weight * (off * off)
        variance += weight * tl.load(variances + tap, mask=inside, other=0.0)
    variance += square - mean * mean
    return mean + origin, tl.where(variance < 0, 0.0, variance)


@triton.jit
def _mean_of_windows(filtered, columns, width):
    """The transposed filter along rows: of the windows that begin in a pixel's column and the ten before it."""
    mean = tl.zeros(filtered.shape, tl.float32)
    for tap in tl.static_range(TAPS):
        weight = PEAK * DECAY ** ((tap - MIDDLE) * (tap - MIDDLE))
        inside = (columns >= tap) & (columns - tap < width - MARGIN)
        mean += weight * tl.load(filtered - tap, mask=inside, other=0.0)
    return mean
