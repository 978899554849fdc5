"""Coarse features enlarged beside finer ones on a GPU: one Triton kernel, and one for the gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK, WARPS = 1024, 4
"""Values that a program works on at once, with that many warps: 16 bytes of bfloat16 for each thread."""


class Join(torch.autograd.Function):
    """(N, C, h, w) coarse features, enlarged bilinearly to (N, C, H, W), and fine ones of that shape behind them.

    All in channels_last and of one type. Corners are not aligned.
    """

    @staticmethod
    def forward(ctx: Any, coarse: Tensor, fine: Tensor) -> Tensor:
        ctx.coarse_shape = coarse.shape
        frames, channels, height, width = fine.shape
        joined = torch.empty(
            (frames, 2 * channels, height, width),
            dtype=fine.dtype,
            device=fine.device,
            memory_format=torch.channels_last,
        )
        with torch.cuda.device_of(fine):
            _launch(_join_kernel, (coarse, fine, joined), frames * height * width, coarse.shape, fine.shape)
        return joined

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_joined: Tensor) -> tuple[Tensor, Tensor]:
        of_joined = of_joined.contiguous(memory_format=torch.channels_last)
        frames, channels, height, width = ctx.coarse_shape
        of_coarse = torch.empty(
            ctx.coarse_shape,
            dtype=of_joined.dtype,
            device=of_joined.device,
            memory_format=torch.channels_last,
        )
        of_fine = of_joined[:, channels:]
        rows, columns = (
            math.ceil(2 * fine / coarse) + 2
            for fine, coarse in zip(of_fine.shape[-2:], (height, width), strict=True)
        )
        with torch.cuda.device_of(of_joined):
            _launch(
                *(_coarse_gradient_kernel, (of_joined, of_coarse), frames * height * width),
                *(of_coarse.shape, of_fine.shape),
                ROWS=rows,
                COLUMNS=columns,
            )
        return of_coarse, of_fine


def _launch(
    kernel: Any, tensors: tuple[Tensor, ...], pixels: int, coarse: torch.Size, fine: torch.Size, **constants: int
) -> None:
    channels = triton.next_power_of_2(fine[1])
    block = max(1, BLOCK // channels)
    kernel[(triton.cdiv(pixels, block),)](
        *tensors,
        pixels,
        *coarse[-2:],
        *fine[-2:],
        coarse[-2] / fine[-2],
        coarse[-1] / fine[-1],
        fine[1],
        CHANNELS=channels,
        PIXELS=block,
        num_warps=WARPS,
        **constants,
    )


@triton.jit
def _join_kernel(
    coarse,
    fine,
    joined,
    pixels,
    coarse_height,
    coarse_width,
    height,
    width,
    row_scale,
    column_scale,
    channels,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Some pixels of the joined map, all channels of them."""
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, CHANNELS)[None, :]
    known = (pixel < pixels)[:, None] & (channel < channels)
    top, bottom, down = _sources((pixel // width) % height, row_scale, coarse_height)
    left, right, across = _sources(pixel % width, column_scale, coarse_width)
    frame = pixel // (width * height) * coarse_height
    down, across = down[:, None], across[:, None]
    above = _pixels(coarse, (frame + top) * coarse_width + left, channel, channels, known) * (1 - across)
    above += _pixels(coarse, (frame + top) * coarse_width + right, channel, channels, known) * across
    below = _pixels(coarse, (frame + bottom) * coarse_width + left, channel, channels, known) * (1 - across)
    below += _pixels(coarse, (frame + bottom) * coarse_width + right, channel, channels, known) * across
    place = joined + pixel[:, None] * (2 * channels) + channel
    tl.store(place, above * (1 - down) + below * down, mask=known)
    tl.store(place + channels, tl.load(fine + pixel[:, None] * channels + channel, mask=known), mask=known)


@triton.jit
def _coarse_gradient_kernel(
    of_joined,
    of_coarse,
    pixels,
    coarse_height,
    coarse_width,
    height,
    width,
    row_scale,
    column_scale,
    channels,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Some pixels of the gradient by the coarse map: a sum over the at most ROWS x COLUMNS pixels made of each."""
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, CHANNELS)[None, :]
    known = (pixel < pixels)[:, None] & (channel < channels)
    coarse_row, coarse_column = (pixel // coarse_width) % coarse_height, pixel % coarse_width
    frame = pixel // (coarse_width * coarse_height) * height
    first_row = tl.floor((coarse_row - 0.5) / row_scale - 0.5).to(tl.int32)
    first_column = tl.floor((coarse_column - 0.5) / column_scale - 0.5).to(tl.int32)
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for i in range(ROWS):
        row_share = _share(first_row + i, coarse_row, row_scale, coarse_height, height)
        for j in range(COLUMNS):
            share = row_share * _share(first_column + j, coarse_column, column_scale, coarse_width, width)
            source = (frame + first_row + i) * width + first_column + j
            used = known & (share > 0)[:, None]
            total += share[:, None] * _pixels(of_joined, source, channel, 2 * channels, used)
    tl.store(of_coarse + pixel[:, None] * channels + channel, total, mask=known)


@triton.jit
def _sources(place, scale, size):
    """Between which two places of `size` coarse ones a fine one lies, and how far it is from the first."""
    source = tl.maximum((place + 0.5) * scale - 0.5, 0.0)
    first = tl.minimum(source.to(tl.int32), size - 1)
    return first, tl.minimum(first + 1, size - 1), source - first


@triton.jit
def _share(place, coarse, scale, size, fine_size):
    """How much of a coarse place is in a fine one; 0 outside of the map."""
    first, second, beyond = _sources(place, scale, size)
    share = tl.where(first == coarse, 1 - beyond, 0.0) + tl.where(second == coarse, beyond, 0.0)
    return tl.where((place >= 0) & (place < fine_size), share, 0.0)


@triton.jit
def _pixels(maps, pixel, channel, channels, known):
    return tl.load(maps + pixel[:, None] * channels + channel, mask=known, other=0.0).to(tl.float32)
