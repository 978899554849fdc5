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
    radiance = np.stack([_blurred(channel, sigma) for channel in picture.radiance])
    radiance *= _vignette(height, width, rng.uniform(0.05, 0.3))
    luminance = radiance.mean(axis=0)
    key = np.exp(np.log(luminance[::4, ::4] + 1e-4).mean())
    balance = (1 / radiance[:, ::4, ::4].mean(axis=(1, 2))) ** rng.uniform(0.3, 0.7)
    balance *= np.exp(rng.normal(0, 0.05, 3))
    balance /= balance.mean()
    exposure = rng.uniform(0.16, 0.34) / key
    gain = (exposure * balance).astype(np.float32)[:, None, None]
    # A film-like shoulder: lamps and windows burn out softly.
    display = (1 - np.exp(-radiance * gain)) ** np.float32(1 / 2.2)
    display += np.float32(rng.uniform(0.4, 1.1)) * (display * display * (3 - 2 * display) - display)
    strength = np.float32(rng.uniform(0.006, 0.022))
    grain = rng.standard_normal((3, height, width), dtype=np.float32)
    display += strength * (np.float32(1.4) - display) * grain
    return np.ascontiguousarray(np.clip(display * 255 + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0))


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
    answer = picture.infrared * np.clip(picture.reflectance * 12 + 0.35, 0, 1)
    answer = answer * np.clip(picture.facing * 6, 0, 1)
    answer = answer * np.clip((np.float32(10.5) - picture.depth_m) / 3, 0, 1)
    speckle = rng.random((height, width), dtype=np.float32) < 0.004
    # Normal scores to probabilities by the logistic curve of nearly the same shape.
    return (1 / (1 + np.exp(-1.7 * blotches)) > answer * np.float32(1.03)) | speckle


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
