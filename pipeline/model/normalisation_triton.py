"""Batch normalisation, a sum and a ReLU on a GPU: two Triton kernels forward, two backward.

Features in channels_last are a matrix of a row for each pixel and a column for each channel. It is cut into strips
of rows and tiles of columns, a program for each. The first kernel of a pair leaves the sums of a strip; in the
second each program adds up those of all strips for its tile, and goes on. So no sum depends on the order in which
programs run, nothing waits for the device, and a call can be captured in a CUDA graph.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PROGRAMS = 128
"""Of a kernel, about: one for each multiprocessor of an A100 or H100. Also the most strips, a power of two."""
TILE = 16
"""Channels of a program: 32 bytes of bfloat16, the least that memory gives. Wider ones have more strips to add."""
BLOCK_BYTES, WARPS = 16384, 16
"""Of features that a program works on at once, with that many warps: two loads of 16 bytes for each thread."""
LEAST_ROWS = 32
"""Of a strip."""


class NormAct(torch.autograd.Function):
    """ReLU(batch norm of features + residual) in training, for (N, C, H, W) features in channels_last on a GPU.

    `norm`'s running statistics move as `nn.BatchNorm2d` moves them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        norm: nn.BatchNorm2d,
        relu: bool,
    ) -> Tensor:
        if residual is not None:
            residual = residual.contiguous(memory_format=torch.channels_last)
        output, moments = normalise(features, weight, bias, residual, norm, relu=relu)
        # Without a residual the features tell what ReLU has cut off, and the output need not be kept or read.
        kept = output if relu and residual is not None else None
        ctx.save_for_backward(features, weight, bias, moments, kept)
        ctx.relu, ctx.summed = relu, residual is not None
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_output: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias, moments, output = ctx.saved_tensors
        of_output = of_output.contiguous(memory_format=torch.channels_last)
        *found, of_residual = gradients(of_output, features, weight, bias, moments, output, relu=ctx.relu)
        return *found, of_residual if ctx.summed else None, None, None


def normalise(
    features: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, norm: nn.BatchNorm2d, *, relu: bool
) -> tuple[Tensor, Tensor]:
    """The output, and (2, C) mean and 1 / standard deviation of the batch, float32."""
    cut = _cut(features)
    partials = features.new_empty(2, cut.grid[0], features.shape[1], dtype=torch.float32)
    moments = features.new_empty(2, features.shape[1], dtype=torch.float32)
    output = torch.empty_like(features)
    with torch.cuda.device_of(features):
        _sums_kernel[cut.grid](features, partials, *cut.sizes, **cut.constants)
        _output_kernel[cut.grid](
            *(features, residual, weight, bias, partials, moments, output),
            *(norm.running_mean, norm.running_var, norm.num_batches_tracked, norm.eps, norm.momentum),
            *cut.sizes,
            RELU=relu,
            STRIPS=PROGRAMS,
            **cut.constants,
        )
    return output, moments


def gradients(
    of_output: Tensor,
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    moments: Tensor,
    output: Tensor | None,
    *,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """By features, weight, bias and residual. output: of a ReLU of a sum, else None."""
    cut = _cut(features)
    partials = features.new_empty(2, cut.grid[0], features.shape[1], dtype=torch.float32)
    of_features, of_weight, of_bias = (torch.empty_like(each) for each in (features, weight, bias))
    of_sum = None if output is None else torch.empty_like(features)
    with torch.cuda.device_of(features):
        _gradient_sums_kernel[cut.grid](
            *(of_output, features, weight, bias, moments, output, of_sum, partials),
            *cut.sizes,
            RELU=relu,
            **cut.constants,
        )
        if of_sum is not None:
            of_output, relu = of_sum, False  # from here on
        _gradient_kernel[cut.grid](
            *(of_output, features, weight, bias, moments, partials, of_features, of_weight, of_bias),
            *cut.sizes,
            RELU=relu,
            STRIPS=PROGRAMS,
            **cut.constants,
        )
    return of_features, of_weight, of_bias, of_output


class _Cut(NamedTuple):
    """How the matrix is cut, the same for all kernels."""

    grid: tuple[int, int]
    """strips, tiles"""
    sizes: tuple[int, int, int]
    """rows, rows of a strip, channels / STEP"""
    constants: dict[str, int]


def _cut(features: Tensor) -> _Cut:
    channels = features.shape[1]
    rows = features.numel() // channels
    tile = min(TILE, triton.next_power_of_2(channels))
    tiles = triton.cdiv(channels, tile)
    strips = min(triton.cdiv(PROGRAMS, tiles), triton.cdiv(rows, LEAST_ROWS))
    strip_rows = triton.cdiv(rows, strips)
    step = math.gcd(channels, TILE)
    block = BLOCK_BYTES // (features.element_size() * tile)
    return _Cut(
        grid=(triton.cdiv(rows, strip_rows), tiles),
        sizes=(rows, strip_rows, channels // step),
        constants={"STEP": step, "TILE": tile, "BLOCK": block, "num_warps": WARPS},
    )


# The number of channels comes as groups of STEP, which are all that the compiler has to know to load 16 bytes at
# once: kernels are compiled once for 16, 32, 48, ... channels.
SIZES = ["rows", "strip_rows", "groups"]


@triton.jit(do_not_specialize=SIZES)
def _sums_kernel(
    features, partials, rows, strip_rows, groups,
    STEP: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Mean of a strip, and the sum of squares about it.

    They are found about the strip's first row: E[x²] - E[x]² would cancel where the mean is large against the
    deviation, as in float32 at 100 ± 0.1.
    """
    width, channel, known = _channels(groups, STEP, TILE)
    row, begin, count = _strip(rows, strip_rows, BLOCK)
    features += begin * width
    origin = tl.load(features + channel, mask=known, other=0.0).to(tl.float32)
    at = row * width + channel
    # Everywhere a block is loaded while the one before it is worked on.
    next_x = tl.load(features + at, mask=known & (row < count), other=0.0)
    sums, squares = tl.zeros((BLOCK, TILE), tl.float32), tl.zeros((BLOCK, TILE), tl.float32)
    for start in range(0, strip_rows, BLOCK):
        x = next_x.to(tl.float32) - origin
        inside = row + start < count
        at += BLOCK * width
        next_x = tl.load(features + at, mask=known & (row + start + BLOCK < count), other=0.0)
        x = tl.where(inside, x, 0.0)
        sums += x
        squares += x * x
    off, square = _sums(sums, squares)
    _leave(partials, origin + off / count, square - off * (off / count), width, channel, known)


@triton.jit(do_not_specialize=SIZES)
def _output_kernel(
    features, residual, weight, bias, partials, moments, output,
    running_mean, running_var, batches, eps, momentum, rows, strip_rows, groups,
    RELU: tl.constexpr, STRIPS: tl.constexpr, STEP: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The output of a strip; the first one's programs leave the moments and move the running statistics."""
    width, channel, known = _channels(groups, STEP, TILE)
    row, begin, count = _strip(rows, strip_rows, BLOCK)
    features += begin * width
    output += begin * width
    if residual is not None:
        residual += begin * width
    at = row * width + channel
    inside = known & (row < count)
    next_x = tl.load(features + at, mask=inside, other=0.0)
    if residual is not None:
        next_residual = tl.load(residual + at, mask=inside, other=0.0)

    # All that has to come is asked for before the first is waited for.
    scale = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    leads = known & (tl.program_id(0) == 0)
    old_mean = tl.load(running_mean + channel, mask=leads, other=0.0).to(tl.float32)
    old_var = tl.load(running_var + channel, mask=leads, other=0.0).to(tl.float32)

    # The squares about the mean of all strips, here found about that of the first (Chan et al. 1979).
    origin = tl.load(partials + channel, mask=known, other=0.0)
    strip, means, squares = _partials(partials, width, channel, known, STRIPS)
    counts = tl.maximum(tl.minimum(rows - strip * strip_rows, strip_rows), 0).to(tl.float32)
    means -= origin
    off, square = _sums(counts * means, squares + counts * means * means)
    off /= rows
    variance = square / rows - off * off
    variance = tl.where(variance < 0, 0.0, variance)
    mean, inverse = origin + off, 1 / tl.sqrt(variance + eps)
    scale *= inverse
    unbiased = variance * (rows / (rows - 1))
    tl.store(moments + channel, mean, mask=leads)
    tl.store(moments + width + channel, inverse, mask=leads)
    tl.store(running_mean + channel, (1 - momentum) * old_mean + momentum * mean, mask=leads)
    tl.store(running_var + channel, (1 - momentum) * old_var + momentum * unbiased, mask=leads)

    for start in range(0, strip_rows, BLOCK):
        y = (next_x.to(tl.float32) - mean) * scale + shift
        if residual is not None:
            y += next_residual.to(tl.float32)
        here, inside = at, known & (row + start < count)
        at += BLOCK * width
        ahead = known & (row + start + BLOCK < count)
        next_x = tl.load(features + at, mask=ahead, other=0.0)
        if residual is not None:
            next_residual = tl.load(residual + at, mask=ahead, other=0.0)
        if RELU:
            y = tl.where(y < 0, 0.0, y)  # lets NaN through, as torch.relu
        tl.store(output + here, y, mask=inside)
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        tl.store(batches, tl.load(batches) + 1)


@triton.jit(do_not_specialize=SIZES)
def _gradient_sums_kernel(
    of_output, features, weight, bias, moments, output, of_sum, partials, rows, strip_rows, groups,
    RELU: tl.constexpr, STEP: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums over a strip of g and g (x - mean), where g is the gradient by what ReLU got.

    of_sum: where g goes if `output` is there to tell what ReLU has cut off.
    """
    width, channel, known = _channels(groups, STEP, TILE)
    row, begin, count = _strip(rows, strip_rows, BLOCK)
    features += begin * width
    of_output += begin * width
    if output is not None:
        output += begin * width
        of_sum += begin * width
    at = row * width + channel
    inside = known & (row < count)
    next_x = tl.load(features + at, mask=inside, other=0.0)
    next_g = tl.load(of_output + at, mask=inside, other=0.0)
    if output is not None:
        next_y = tl.load(output + at, mask=inside, other=0.0)
    mean, _, scale, shift = _coefficients(moments, weight, bias, width, channel, known)

    sums, products = tl.zeros((BLOCK, TILE), tl.float32), tl.zeros((BLOCK, TILE), tl.float32)
    for start in range(0, strip_rows, BLOCK):
        x, g = next_x.to(tl.float32) - mean, next_g.to(tl.float32)
        if output is not None:
            y = next_y.to(tl.float32)
        elif RELU:
            y = x * scale + shift
        here, inside = at, known & (row + start < count)
        at += BLOCK * width
        ahead = known & (row + start + BLOCK < count)
        next_x = tl.load(features + at, mask=ahead, other=0.0)
        next_g = tl.load(of_output + at, mask=ahead, other=0.0)
        if output is not None:
            next_y = tl.load(output + at, mask=ahead, other=0.0)
        if RELU:
            g = tl.where(y <= 0, 0.0, g)
        if output is not None:
            tl.store(of_sum + here, g, mask=inside)
        sums += g
        products += g * x
    sums, products = _sums(sums, products)
    _leave(partials, sums, products, width, channel, known)


@triton.jit(do_not_specialize=SIZES)
def _gradient_kernel(
    of_output, features, weight, bias, moments, partials, of_features, of_weight, of_bias,
    rows, strip_rows, groups,
    RELU: tl.constexpr, STRIPS: tl.constexpr, STEP: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient by the features of a strip; the first one's programs leave those by weight and bias."""
    width, channel, known = _channels(groups, STEP, TILE)
    row, begin, count = _strip(rows, strip_rows, BLOCK)
    features += begin * width
    of_output += begin * width
    of_features += begin * width
    at = row * width + channel
    inside = known & (row < count)
    next_x = tl.load(features + at, mask=inside, other=0.0)
    next_g = tl.load(of_output + at, mask=inside, other=0.0)

    mean, inverse, scale, shift = _coefficients(moments, weight, bias, width, channel, known)
    _, totals, products = _partials(partials, width, channel, known, STRIPS)
    total, product = _sums(totals, products)
    leads = known & (tl.program_id(0) == 0)
    tl.store(of_bias + channel, total, mask=leads)
    tl.store(of_weight + channel, product * inverse, mask=leads)
    of_mean, of_slope = total / rows, product * inverse * inverse / rows

    for start in range(0, strip_rows, BLOCK):
        x, g = next_x.to(tl.float32) - mean, next_g.to(tl.float32)
        here, inside = at, known & (row + start < count)
        at += BLOCK * width
        ahead = known & (row + start + BLOCK < count)
        next_x = tl.load(features + at, mask=ahead, other=0.0)
        next_g = tl.load(of_output + at, mask=ahead, other=0.0)
        if RELU:
            g = tl.where(x * scale + shift <= 0, 0.0, g)
        tl.store(of_features + here, scale * (g - of_mean - x * of_slope), mask=inside)


@triton.jit
def _channels(groups, STEP: tl.constexpr, TILE: tl.constexpr):
    """How many channels there are, (1, TILE) which of them are this program's, and whether there are so many."""
    width = groups * STEP
    channel = tl.program_id(1) * TILE + tl.arange(0, TILE)[None, :]
    return width, channel, channel < width


@triton.jit
def _strip(rows, strip_rows, BLOCK: tl.constexpr):
    """(BLOCK, 1) rows within this program's strip, the row where it begins, and how many it has."""
    begin = tl.program_id(0).to(tl.int64) * strip_rows
    return tl.arange(0, BLOCK)[:, None], begin, tl.minimum(rows - begin, strip_rows).to(tl.int32)


@triton.jit
def _sums(first, second):
    """(1, TILE) the sums of both over their rows. Joined, they are exchanged among the threads once."""
    return tl.split(tl.sum(tl.join(first, second), axis=0, keep_dims=True))


@triton.jit
def _leave(partials, first, second, width, channel, known):
    """Keep two numbers of this program's strip for each of its channels. partials: (2, strips, channels)."""
    at = partials + tl.program_id(0) * width + channel
    tl.store(at, first, mask=known)
    tl.store(at + tl.num_programs(0) * width, second, mask=known)


@triton.jit
def _partials(partials, width, channel, known, STRIPS: tl.constexpr):
    """(STRIPS, 1) numbers of the strips, and (STRIPS, TILE) what `_leave` kept of each, 0 beyond the last."""
    strip = tl.arange(0, STRIPS)[:, None]
    at, inside = partials + strip * width + channel, known & (strip < tl.num_programs(0))
    first = tl.load(at, mask=inside, other=0.0)
    second = tl.load(at + tl.num_programs(0) * width, mask=inside, other=0.0)
    return strip, first, second


@triton.jit
def _coefficients(moments, weight, bias, width, channel, known):
    """Mean, 1 / standard deviation, and scale and shift of x - mean, as `_output_kernel` has them."""
    mean = tl.load(moments + channel, mask=known, other=0.0)
    inverse = tl.load(moments + width + channel, mask=known, other=0.0)
    scale = inverse * tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    return mean, inverse, scale, tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
