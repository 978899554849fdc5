"""What a consumer RGB-D camera makes of a picture: exposure, blur and noise; quantised depth with holes."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from pipeline.data.rooms.render import Picture

_BASELINE_M = 0.075
"""Between the Kinect's infrared camera and its projector."""
_DISPARITY_STEP = 1 / 8
"""Pixels: the Kinect's disparity has three fractional bits."""
_KINECT_FOCAL = 580.0
"""Pixels at 640 wide: the infrared camera's focal length, which sets the size of its steps."""
_NYU_WIDTH = 640
_BORDER = (9, 9, 8, 8)
"""Rows above and below, columns left and right, at 640 x 480, where NYU's projected depth is missing."""


def photograph(picture: Picture, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 sRGB-like image, automatically exposed with the errors that automatics make."""
    height, width = picture.depth_m.shape
    scale = width / _NYU_WIDTH
    sigma = rng.uniform(0.6, 1.0) * scale
    vignette = _vignette(height, width, rng.uniform(0.05, 0.3))
    radiance = np.empty((3, height, width), np.float32)
    for channel, blurred in zip(picture.radiance, radiance, strict=True):
        np.multiply(_blurred(channel, sigma), vignette, out=blurred)
    key = np.exp(np.log(radiance[:, ::4, ::4].mean(axis=0) + 1e-4).mean())
    balance = (1 / radiance[:, ::4, ::4].mean(axis=(1, 2))) ** rng.uniform(0.3, 0.7)
    balance *= np.exp(rng.normal(0, 0.05, 3))
    balance /= balance.mean()
    exposure = rng.uniform(0.16, 0.34) / key
    gain = (exposure * balance).astype(np.float32)
    contrast, strength = np.float32(rng.uniform(0.4, 1.1)), np.float32(rng.uniform(0.006, 0.022))
    rgb_u8 = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        for top in range(0, height, _STRIP_ROWS):
            rows = slice(top, top + _STRIP_ROWS)
            display = _developed(radiance[channel, rows], gain[channel], contrast)
            grain = rng.standard_normal(display.shape, dtype=np.float32)
            grain *= strength * (np.float32(1.4) - display)
            display += grain
            display *= 255
            display += np.float32(0.5)
            np.maximum(display, 0, out=display)
            rgb_u8[rows, :, channel] = np.minimum(display, 255, out=display)
    return rgb_u8


_STRIP_ROWS = 32
"""As in `render`: the steps of one strip find their arrays in the cache."""


def _developed(radiance: np.ndarray, gain: np.float32, contrast: np.float32) -> np.ndarray:
    """Display values in [0, 1]: a film-like shoulder, so that lamps and windows burn out softly."""
    display = radiance * -gain
    np.exp(display, out=display)
    np.subtract(1, display, out=display)
    display **= np.float32(1 / 2.2)
    curve = 3 - 2 * display
    curve *= display * display
    curve -= display
    curve *= contrast
    display += curve
    return display


def _blurred(channel: np.ndarray, sigma: float) -> np.ndarray:
    # Below a quarter of a pixel the kernel is one tap.
    return gaussian_filter(channel, sigma, truncate=3.0) if sigma > 0.25 else channel


def _vignette(height: int, width: int, strength: float) -> np.ndarray:
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    return 1 - np.float32(strength / 2) * (x * x + y * y)


def sensed_depth(picture: Picture, rng: np.random.Generator) -> np.ndarray:
    """(H, W) float32 metres as a Kinect projected into the colour image; 0 = missing.

    Missing: what the projector does not reach beside nearer things, windows and dark or shiny surfaces in
    blotches, grazing angles, far distances, single pixels, and the border outside the infrared camera's view.
    """
    depth_m = picture.depth_m
    height, width = depth_m.shape
    focal = _KINECT_FOCAL * width / _NYU_WIDTH
    disparity = np.float32(focal * _BASELINE_M) / depth_m
    step = np.float32(_DISPARITY_STEP * width / _NYU_WIDTH)
    wobble = step * rng.standard_normal(depth_m.shape, dtype=np.float32) * np.float32(0.4)
    measured = np.maximum(np.rint((disparity + wobble) / step), 1) * step
    raw_m = np.float32(focal * _BASELINE_M) / measured
    missing = _unlit(disparity) | _unanswered(picture, rng) | _outside_view(height, width, rng)
    return np.where(missing, 0, raw_m).astype(np.float32)


def _unlit(disparity: np.ndarray) -> np.ndarray:
    """The projector stands to the right: it meets columns in the order of column - disparity.

    A pixel is in shadow when one to its right is met at the same place or further left.
    """
    met = np.arange(disparity.shape[1], dtype=np.float32) - disparity
    nearest = np.minimum.accumulate(met[:, ::-1], axis=1)[:, ::-1]
    shadow = np.zeros(disparity.shape, bool)
    shadow[:, :-1] = met[:, :-1] > nearest[:, 1:]
    return shadow


def _unanswered(picture: Picture, rng: np.random.Generator) -> np.ndarray:
    height, width = picture.depth_m.shape
    blotches = _blotches(rng, height, width)
    missing = rng.random((height, width), dtype=np.float32) < 0.004
    for top in range(0, height, _STRIP_ROWS):
        rows = slice(top, top + _STRIP_ROWS)
        answer = picture.infrared[rows] * np.clip(picture.reflectance[rows] * 12 + 0.35, 0, 1)
        answer *= np.clip(picture.facing[rows] * 6, 0, 1)
        answer *= np.clip((np.float32(10.5) - picture.depth_m[rows]) / 3, 0, 1)
        answer *= np.float32(1.03)
        # Normal scores to probabilities by the logistic curve of nearly the same shape.
        missing[rows] |= 1 / (1 + np.exp(-1.7 * blotches[rows])) > answer
    return missing


def _blotches(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) noise of about unit variance in patches of 8 pixels at 640 wide: drawn coarse, then enlarged."""
    factor = max(1, round(4 * width / _NYU_WIDTH))
    coarse = rng.standard_normal((height // factor + 2, width // factor + 2), dtype=np.float32)
    coarse = gaussian_filter(coarse, 1.0)
    coarse /= coarse.std()
    enlarged = np.repeat(np.repeat(coarse, factor, axis=0), factor, axis=1)[:height, :width]
    return _blurred(enlarged, factor / 2)


def _outside_view(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    scale = width / _NYU_WIDTH
    top, bottom, left, right = (max(1, round((edge + rng.uniform(-2, 6)) * scale)) for edge in _BORDER)
    outside = np.ones((height, width), bool)
    outside[top : height - bottom, left : width - right] = False
    return outside
