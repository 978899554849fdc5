"""Metres as colours: one scale of depths and one of errors for all pictures of a page."""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.colors import Colormap
from PIL import Image

MISSING_COLOUR = "#8b8f94"
"""Grey occurs in neither map below, so a missing pixel is not taken for a depth."""

CLOSEST = 0.12
"""Share of a colour bar below which a label would run into that of its end, which is aligned to the end."""


@dataclass(frozen=True)
class ColourScale:
    """A range of metres and the colours that stand for it; values outside take the colour of the end."""

    low_m: float
    high_m: float
    colours: str
    """name of a matplotlib colour map"""
    clipped: bool = False
    """whether some of the data lie outside, which the colour bar then says"""

    @property
    def colour_map(self) -> Colormap:
        return matplotlib.colormaps[self.colours].with_extremes(bad=MISSING_COLOUR)

    def ticks_m(self) -> list[float]:
        """Both ends and round values between: a colour bar that leaves its ends to be guessed is no scale."""
        if self.low_m == -self.high_m:
            return [float(tick) for tick in np.linspace(self.low_m, self.high_m, 5)]
        span = self.high_m - self.low_m
        step = 0.5 if span <= 3 else 1.0 if span <= 6 else 2.0
        inside = np.arange(math.ceil(self.low_m / step), math.floor(self.high_m / step) + 1) * step
        apart = max(0.4 * step, CLOSEST * span)
        clear = (inside - self.low_m >= apart) & (self.high_m - inside >= apart)
        return [self.low_m, *(float(tick) for tick in inside[clear]), self.high_m]

    def paint(self, values_m: np.ndarray) -> Image.Image:
        """(h, w) metres, NaN = missing -> palette image of 255 colours and the grey of missing pixels.

        One byte a pixel: a third of the same picture in RGB, and lossless to 1/255 of the scale.
        """
        share = np.clip((values_m - self.low_m) / (self.high_m - self.low_m), 0.0, 1.0)
        index = np.where(np.isnan(share), 0, 1 + np.rint(np.nan_to_num(share) * 254)).astype(np.uint8)
        image = Image.fromarray(index)
        image.putpalette(self._palette().tobytes())
        return image

    def css_gradient(self) -> str:
        """The scale as a CSS background, low to high from left to right."""
        stops = self._palette()[1 :: 254 // 16 - 1]
        return f"linear-gradient(to right, {', '.join('#' + bytes(stop).hex() for stop in stops)})"

    def _palette(self) -> np.ndarray:
        """(256, 3) uint8: the colour of missing pixels, then 255 steps of the scale."""
        colours = self.colour_map(np.linspace(0.0, 1.0, 255), bytes=True)[:, :3]
        return np.vstack([[tuple(bytes.fromhex(MISSING_COLOUR[1:]))], colours]).astype(np.uint8)


def depth_scale(*depths_m: np.ndarray) -> ColourScale:
    """One scale over all valid depths (above 0), its ends on whole half metres; near is bright."""
    valid = np.concatenate([depth[depth > 0].ravel() for depth in depths_m] or [np.empty(0)])
    if valid.size == 0:
        return ColourScale(0.0, 10.0, "magma_r")
    low = math.floor(float(valid.min()) * 2) / 2
    high = math.ceil(float(valid.max()) * 2) / 2
    return ColourScale(low, max(high, low + 0.5), "magma_r")


def error_scale(errors_m: np.ndarray) -> ColourScale:
    """Symmetric about 0 over 98 % of the errors: their few outliers would wash all other colours out.

    Blue is predicted too near, red too far.
    """
    size = np.abs(errors_m[np.isfinite(errors_m)])
    reach = math.ceil(float(np.quantile(size, 0.98)) * 2) / 2 if size.size else 0.5
    reach = max(reach, 0.5)
    return ColourScale(-reach, reach, "RdBu_r", clipped=bool(size.size and size.max() > reach))


def signed_error_m(prediction_m: np.ndarray, depth_m: np.ndarray) -> np.ndarray:
    """prediction - truth in metres, NaN where either is missing."""
    return np.where((depth_m > 0) & (prediction_m > 0), prediction_m - depth_m, np.nan)


def missing_as_nan(depth_m: np.ndarray) -> np.ndarray:
    return np.where(depth_m > 0, depth_m, np.nan)


def tick_labels(scale: ColourScale) -> list[str]:
    """Signed for errors; an end beyond which some data lie says so."""
    ticks = scale.ticks_m()
    labels = [f"{tick:+g}".replace("-", "−") if scale.low_m < 0 < abs(tick) else f"{tick:g}" for tick in ticks]
    if scale.clipped and ticks[0] == scale.low_m and ticks[-1] == scale.high_m:
        labels[0], labels[-1] = f"≤ {labels[0]}", f"≥ {labels[-1]}"
    return labels
