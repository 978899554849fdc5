"""Depth maps for a person to look at."""

from __future__ import annotations

import functools

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

COLOURS = "viridis_r"
"""Near is bright."""
TICKS = 5
GAP = 0.02
"""Margins of a side-by-side picture in parts of its height."""
SMALLEST_FONT = 9


def colour_depth(depth_m: np.ndarray, near_m: float, far_m: float) -> np.ndarray:
    """(H, W) metres to (H, W, 3) uint8; what lies outside `near_m` to `far_m` gets the colours of the ends."""
    share = (depth_m - np.float32(near_m)) * np.float32(255 / max(far_m - near_m, 1e-6))
    return np.asarray(_palette()[np.clip(np.rint(share), 0, 255).astype(np.uint8)])


def side_by_side(photo: Image.Image, depth_m: np.ndarray, near_m: float, far_m: float) -> Image.Image:
    """The photo, its depth at the same size, and a legend in metres; width and height are even, as videos want
    them."""
    colours = Image.fromarray(colour_depth(depth_m, near_m, far_m))
    height = photo.height
    gap, legend = max(1, round(GAP * height)), legend_picture(height, near_m, far_m)
    width = 2 * photo.width + 2 * gap + legend.width
    picture = Image.new("RGB", (width + width % 2, height + height % 2), "white")
    picture.paste(photo, (0, 0))
    picture.paste(colours, (photo.width + gap, 0))
    picture.paste(legend, (2 * photo.width + 2 * gap, 0))
    return picture


@functools.lru_cache(maxsize=16)
def legend_picture(height: int, near_m: float, far_m: float) -> Image.Image:
    """A bar of the colours, the nearest at the bottom, with distances in metres beside it."""
    font = ImageFont.load_default(size=max(SMALLEST_FONT, height / 26))
    labels = [f"{near_m + (far_m - near_m) * tick / (TICKS - 1):.1f} m" for tick in range(TICKS)]
    text = max(font.getlength(label) for label in labels)
    bar, gap = max(4, round(0.04 * height)), max(2, round(GAP * height))
    picture = Image.new("RGB", (round(bar + 2 * gap + text), height), "white")
    rows = np.linspace(far_m, near_m, height, dtype=np.float32)[:, None].repeat(bar, axis=1)
    picture.paste(Image.fromarray(colour_depth(rows, near_m, far_m)), (0, 0))
    draw = ImageDraw.Draw(picture)
    for tick, label in enumerate(labels):
        share = 1 - tick / (TICKS - 1)
        anchor = "lb" if tick == 0 else "lt" if tick == TICKS - 1 else "lm"
        draw.text((bar + gap, share * (height - 1)), label, fill="black", font=font, anchor=anchor)
    return picture


@functools.cache
def _palette() -> np.ndarray:
    """(256, 3) uint8."""
    return np.asarray(colormaps[COLOURS](np.arange(256), bytes=True)[:, :3])
