"""Pixels: units, the white frame, and resizing to the training frames. Pure tensor code."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad


def to_unit_rgb(rgb_u8: Tensor) -> Tensor:
    """uint8 RGB to float32 in [0, 1]."""
    return torch.div(rgb_u8, 255)


def to_u8(rgb: Tensor) -> Tensor:
    """RGB in [0, 1] to uint8, rounded."""
    return (rgb * 255).round().clamp(0, 255).to(torch.uint8)


def fill_border(images: Tensor, border: int) -> Tensor:
    """Replace `border` pixels at each edge of (N, C, H, W) floats by the nearest pixel inside.

    NYU's RGB has a white frame of about 7 pixels, which is the scanner's and no part of the room.
    """
    if border == 0:
        return images
    inside = images[..., border:-border, border:-border]
    return pad(inside, (border, border, border, border), mode="replicate")


def drop_border(depth_m: Tensor, border: int) -> Tensor:
    """Mark `border` pixels at each edge of (N, 1, H, W) depth as missing."""
    if border == 0:
        return depth_m
    return pad(depth_m[..., border:-border, border:-border], (border, border, border, border))


def resize_rgb(rgb: Tensor, size: tuple[int, int]) -> Tensor:
    """Average (N, 3, H, W) over the area of each new pixel."""
    return adaptive_avg_pool2d(rgb, size)


def resize_depth(depth_m: Tensor, size: tuple[int, int]) -> Tensor:
    """Average the valid pixels of (N, 1, H, W) metres over the area of each new pixel; 0 = missing.

    A new pixel counts as measured if at least half of its area is: missing pixels neither pull the mean
    towards 0 nor spread.
    """
    valid = (depth_m > 0).to(depth_m.dtype)
    share = adaptive_avg_pool2d(valid, size)
    mean = adaptive_avg_pool2d(depth_m * valid, size) / share.clamp(min=1e-6)
    return torch.where(share >= 0.5, mean, 0.0)


def to_millimetres(depth_m: Tensor) -> Tensor:
    """Metres to int16 millimetres, rounded (truncation would be 0.5 mm short); 0 = missing.

    Depths that are not finite, not positive or beyond 32.767 m become missing.
    """
    depth_mm = torch.nan_to_num(depth_m * 1000, nan=0.0, posinf=0.0, neginf=0.0).round()
    return torch.where((depth_mm > 0) & (depth_mm <= 32767), depth_mm, 0).to(torch.int16)


def from_millimetres(depth_mm: Tensor) -> Tensor:
    """int16 millimetres to float32 metres; 0 = missing."""
    return torch.div(depth_mm, 1000)
