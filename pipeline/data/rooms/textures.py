"""Procedural surface patterns: square tiles of linear reflectance that a material's tint multiplies.

Every tile wraps around, so that floors and walls repeat it; patterns that are one picture (a painting, a
door, a row of books) are stretched once over their face instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

SIZE = 512
"""Texels a side: 3 mm on a tile of 1.5 m, about a pixel's footprint at 1.5 m."""
LEVELS = 9
_PYRAMID = sum((SIZE >> level) ** 2 for level in range(LEVELS))
LEVEL_START = np.cumsum([0] + [(SIZE >> level) ** 2 for level in range(LEVELS - 1)])
TEXELS = _PYRAMID
"""Texels of one tile with all its halvings, laid out one after another."""

Range = tuple[float, float]
Pattern = Callable[[np.random.Generator], np.ndarray]
"""Draws a (SIZE, SIZE, 3) or (SIZE, SIZE, 1) tile of reflectance in [0, 1]; row 0 is the top."""


def pyramid(tile: np.ndarray) -> np.ndarray:
    """(TEXELS, 3) uint8 square roots, which keep dark detail: the tile, its half, its quarter ..."""
    planes = np.clip(tile, 0, 1).transpose(2, 0, 1).astype(np.float32)
    texels = np.empty((TEXELS, 3), np.uint8)
    for start in LEVEL_START.tolist():
        roots = (np.sqrt(planes) * 255 + np.float32(0.5)).astype(np.uint8).reshape(len(planes), -1)
        texels[start : start + roots.shape[1]] = roots.T
        rows = planes[:, ::2] + planes[:, 1::2]
        planes = (rows[:, :, ::2] + rows[:, :, 1::2]) * np.float32(0.25)
    return texels


@functools.cache
def _noise_bank(roughness: float, stretch: float) -> np.ndarray:
    """Wrapping noise of power 1 / f^(2 roughness), zero mean, unit variance, drawn out along the columns.

    Drawn once a process from a fixed seed: where a texture cuts it is random, which is variety enough.
    """
    white = np.random.default_rng(int(1000 * roughness + stretch)).standard_normal((SIZE, SIZE))
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], stretch * np.fft.rfftfreq(SIZE)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(white) * frequency**-roughness, (SIZE, SIZE))
    return (noise / noise.std()).astype(np.float32)


def noise(rng: np.random.Generator, roughness: float = 1.0, stretch: float = 1.0) -> np.ndarray:
    """(SIZE, SIZE) float32; roughness 0 is white, 1 cloudy, 1.6 smooth; stretch 16 looks like wood grain."""
    cut = rng.integers(0, SIZE, 2)
    return np.roll(_noise_bank(roughness, stretch), cut, axis=(0, 1))


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """v down the rows (SIZE, 1), u along the columns (1, SIZE), both in [0, 1)."""
    steps = (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE
    return steps[:, None], steps[None, :]


def _grey(tile: np.ndarray) -> np.ndarray:
    return np.clip(tile, 0, 1)[..., None]


def muted(rng: np.random.Generator, value: Range, saturation: Range, hue: Range | None = None) -> np.ndarray:
    """(3,) linear colour; without `hue`, hues as interiors have them: mostly sand and terracotta, some blue.

    `value` is the sRGB brightness of the strongest channel; hues run from 0 (red) over 1/3 (green) to 1.
    """
    if hue is None:
        hue = ((0.05, 0.13), (0.5, 0.65), (0.0, 1.0))[int(rng.choice(3, p=[0.6, 0.2, 0.2]))]
    h, s, v = rng.uniform(*hue), rng.uniform(*saturation), rng.uniform(*value)
    channels = np.clip(np.abs((h * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return (v * (1 - s + s * channels)) ** 2.2


def plaster(rng: np.random.Generator) -> np.ndarray:
    return _grey(0.9 + 0.025 * noise(rng, 1.2) + rng.uniform(0.005, 0.03) * noise(rng, 0.5))


def carpet(rng: np.random.Generator) -> np.ndarray:
    return _grey(0.75 + rng.uniform(0.06, 0.14) * noise(rng, 0.25) + 0.05 * noise(rng, 1.1))


def wood(rng: np.random.Generator) -> np.ndarray:
    rings = np.sin(rng.uniform(6, 14) * noise(rng, 1.6, 8.0))
    tile = 0.75 + rng.uniform(0.03, 0.1) * rings + 0.06 * noise(rng, 0.8, 16.0)
    # Dark grain is also redder.
    return np.clip(tile[..., None] ** np.array([0.8, 1.0, 1.25], np.float32), 0, 1)


def _courses(
    rng: np.random.Generator, rows: int, columns: int, joint: float, shift: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Staggered courses: a number in [0, 1) for each stone (SIZE, SIZE) and a mask of the joints.

    `joint` is the joint's width as a part of the tile; `shift` staggers each course, None at random.
    """
    v, u = _grid()
    course = (v * rows).astype(np.intp)
    offset = rng.random(rows) if shift is None else np.arange(rows) * shift % 1.0
    along = u * columns + offset[course].astype(np.float32)
    stone = along.astype(np.intp) % columns
    value = rng.random((rows, columns)).astype(np.float32)[course, stone]
    gap_u = np.minimum(along % 1, 1 - along % 1) / columns
    gap_v = np.minimum(v * rows % 1, 1 - v * rows % 1) / rows
    return value, np.minimum(gap_u, gap_v) < joint / 2


def planks(rng: np.random.Generator) -> np.ndarray:
    value, joints = _courses(rng, int(rng.integers(7, 15)), int(rng.integers(1, 3)), 0.004, None)
    grain = 0.72 + rng.uniform(0.1, 0.3) * (value - 0.5) + 0.07 * noise(rng, 0.8, 16.0)
    grain = np.where(joints, grain * 0.45, grain)
    return np.clip(grain[..., None] ** np.array([0.85, 1.0, 1.2], np.float32), 0, 1)


def tiles(rng: np.random.Generator) -> np.ndarray:
    count = int(rng.integers(3, 7))
    value, joints = _courses(rng, count, count, 0.008, 0.0 if rng.random() < 0.7 else 0.5)
    tile = 0.8 + rng.uniform(0.02, 0.15) * (value - 0.5) + 0.05 * noise(rng, 1.1)
    if count % 2 == 0 and rng.random() < 0.4:
        v, u = _grid()
        tile = tile * np.where(((v * count).astype(int) + (u * count).astype(int)) % 2, 1.0, 0.45)
    return _grey(np.where(joints, rng.choice([0.35, 0.95]), tile))


def brick(rng: np.random.Generator) -> np.ndarray:
    value, joints = _courses(rng, 14, 5, 0.012, 0.5)
    tile = 0.65 + 0.35 * (value - 0.5) + 0.08 * noise(rng, 0.7)
    mortar = 0.85 + 0.05 * noise(rng, 0.5)
    return _grey(np.where(joints, mortar, tile))


def wallpaper(rng: np.random.Generator) -> np.ndarray:
    v, u = _grid()
    count = int(rng.integers(4, 12))
    if rng.random() < 0.5:
        wave = np.sin(2 * np.pi * count * u) + 0 * v
    else:
        wave = np.sin(2 * np.pi * count * u) * np.sin(2 * np.pi * count * v)
        wave = wave + 0.6 * np.sin(4 * np.pi * count * (u + v)) * np.sin(4 * np.pi * count * (u - v))
    return _grey(0.85 + rng.uniform(0.03, 0.12) * np.tanh(4 * wave) + 0.02 * noise(rng, 0.8))


def fabric(rng: np.random.Generator) -> np.ndarray:
    v, u = _grid()
    tile = 0.8 + 0.08 * noise(rng, 0.2) + 0.05 * noise(rng, 1.2)
    kind = rng.random()
    if kind < 0.25:
        tile = tile * (1 - 0.35 * (np.sin(2 * np.pi * 8 * u) > 0.3))
    elif kind < 0.45:
        tile = tile * (1 - 0.2 * (np.sin(12 * np.pi * u) > 0)) * (1 - 0.2 * (np.sin(12 * np.pi * v) > 0))
    return _grey(tile)


def granite(rng: np.random.Generator) -> np.ndarray:
    return _grey(0.7 + 0.15 * noise(rng, 0.35) + 0.08 * noise(rng, 1.0))


def leaves(rng: np.random.Generator) -> np.ndarray:
    light = 0.6 + 0.3 * np.tanh(2 * noise(rng, 0.8))
    return np.clip(light[..., None] * np.array([0.75, 1.0, 0.6], np.float32), 0, 1)


def ceiling_panels(rng: np.random.Generator) -> np.ndarray:
    _, joints = _courses(rng, 3, 3, 0.01, 0.0)
    return _grey(np.where(joints, 0.6, 0.92 + 0.04 * noise(rng, 0.2)))


def books(rng: np.random.Generator) -> np.ndarray:
    """Spines side by side, each of its own colour, with bands for title and author."""
    edges = np.sort(rng.choice(np.arange(8, SIZE - 8), int(rng.integers(10, 22)), replace=False))
    spine = np.searchsorted(edges, np.arange(SIZE), side="right")
    count = len(edges) + 1
    colours = np.stack([muted(rng, (0.2, 0.85), (0.05, 0.7)) for _ in range(count)])
    tile = np.repeat(colours[spine][None], SIZE, axis=0)
    height = rng.uniform(0.0, 0.18, count)[spine]
    rows = (np.arange(SIZE) + 0.5)[:, None] / SIZE
    for start, depth in ((rng.uniform(0.25, 0.4), 0.12), (rng.uniform(0.6, 0.75), 0.05)):
        band = (rows > start) & (rows < start + depth) & (rng.random(count) < 0.6)[spine][None]
        tile = np.where(band[..., None], 0.6 * tile + 0.25, tile)
    tile[rows[:, 0][:, None] < height[None]] *= 0.12
    tile[:, np.abs(np.arange(SIZE)[:, None] - edges[None]).min(axis=1) < 3] *= 0.3
    return tile.astype(np.float32)


def painting(rng: np.random.Generator) -> np.ndarray:
    """A landscape or an abstract canvas, with a pale mount around some."""
    v, _ = _grid()
    first, second, third = (muted(rng, (0.25, 0.9), (0.1, 0.6)) for _ in range(3))
    field = noise(rng, 1.5)
    if rng.random() < 0.5:
        tile = first + (second - first) * v[..., None] + 0 * field[..., None]
        hills = v > rng.uniform(0.4, 0.7) + 0.08 * noise(rng, 1.6)[:1]
        tile = np.where(hills[..., None], third * (0.8 + 0.3 * np.tanh(field))[..., None], tile)
    else:
        tile = np.where(field[..., None] > 0.3, first, second)
        tile = np.where((noise(rng, 1.6) > 0.7)[..., None], third, tile)
    tile = tile * (1 + 0.1 * noise(rng, 0.6))[..., None]
    if rng.random() < 0.5:
        edge = int(SIZE * rng.uniform(0.08, 0.2))
        mount = np.full_like(tile, 0.8)
        mount[edge:-edge, edge:-edge] = tile[edge:-edge, edge:-edge]
        tile = mount
    return np.clip(tile, 0, 1).astype(np.float32)


def rug(rng: np.random.Generator) -> np.ndarray:
    v, u = _grid()
    first, second, third = (muted(rng, (0.25, 0.75), (0.1, 0.6)) for _ in range(3))
    border = np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v))
    count = int(rng.integers(2, 6))
    diamonds = np.abs((u * count) % 1 - 0.5) + np.abs((v * count) % 1 - 0.5)
    tile = np.where((diamonds > rng.uniform(0.35, 0.6))[..., None], first, second)
    tile = np.where((border < 0.14)[..., None], third, tile)
    tile = np.where(((border > 0.04) & (border < 0.07))[..., None], second, tile)
    return np.clip(tile * (1 + 0.12 * noise(rng, 0.25))[..., None], 0, 1).astype(np.float32)


def _panels(columns: int, rows: int, edge: float, knob_v: float | None) -> np.ndarray:
    """White panels with a shaded bead around each, and a dark knob each where `knob_v` says."""
    v, u = _grid()
    pu, pv = u * columns % 1, v * rows % 1
    inset = np.minimum(np.minimum(pu, 1 - pu) / columns, np.minimum(pv, 1 - pv) / rows)
    tile = np.full((SIZE, SIZE), 0.88, np.float32)
    tile[inset < 0.006] = 0.25
    tile[(inset > edge) & (inset < edge + 0.012)] = 0.6
    if knob_v is not None:
        knob = np.hypot((pu - 0.88) / columns, (pv - knob_v) / rows) < 0.014
        tile[knob] = 0.15
    return tile


def door(rng: np.random.Generator) -> np.ndarray:
    tile = _panels(1, int(rng.integers(1, 4)), 0.1, None)
    v, u = _grid()
    tile[np.hypot((u - 0.92) * 0.45, v - 0.52) < 0.014] = 0.15
    return _grey(tile + 0.02 * noise(rng, 1.0))


def cupboard(rng: np.random.Generator) -> np.ndarray:
    return _grey(_panels(int(rng.integers(2, 4)), 1, rng.uniform(0.03, 0.06), 0.35) + 0.03 * noise(rng, 0.9, 8.0))


def drawers(rng: np.random.Generator) -> np.ndarray:
    rows = int(rng.integers(3, 5))
    tile = _panels(1, rows, 0.03, None)
    v, u = _grid()
    tile[(np.abs(u - 0.5) < 0.07) & (np.abs(v * rows % 1 - 0.5) < 0.06)] = 0.3
    return _grey(tile + 0.03 * noise(rng, 0.9, 8.0))


def blinds(rng: np.random.Generator) -> np.ndarray:
    v, u = _grid()
    slats = 0.55 + 0.4 * (v * int(rng.integers(18, 32)) % 1)
    return _grey(slats + 0 * u)


def curtain(rng: np.random.Generator) -> np.ndarray:
    _, u = _grid()
    folds = int(rng.integers(5, 9))
    wave = np.sin(2 * np.pi * folds * u + 0.5 * np.sin(2 * np.pi * 2 * u))
    return _grey(0.7 + 0.25 * wave + 0.03 * noise(rng, 0.3))


def outdoors(rng: np.random.Generator) -> np.ndarray:
    """Sky over foliage or houses, much brighter than the room."""
    v, _ = _grid()
    sky = np.array([0.8, 0.9, 1.0]) * (1 - 0.2 * v[..., None])
    ground = np.array([0.22, 0.3, 0.16]) if rng.random() < 0.6 else np.array([0.4, 0.36, 0.32])
    skyline = v > rng.uniform(0.35, 0.8) + 0.07 * noise(rng, 1.4)[:1] + 0.02 * noise(rng, 1.0)
    tile = np.where(skyline[..., None], ground * (1 + 0.3 * noise(rng, 1.0))[..., None], sky)
    return np.clip(gaussian_filter(tile, (2, 2, 0)), 0, 1).astype(np.float32)


def whiteboard(rng: np.random.Generator) -> np.ndarray:
    tile = np.full((SIZE, SIZE, 3), 0.85, np.float32)
    for _ in range(int(rng.integers(6, 16))):
        row, column = rng.integers(30, SIZE - 60), rng.integers(20, SIZE // 2)
        length = int(rng.integers(60, SIZE // 2 - 20))
        along = np.arange(column, column + length)
        wiggle = (row + 6 * np.sin(along * rng.uniform(0.15, 0.5))).astype(int)
        for thick in range(4):
            tile[wiggle + thick, along] = muted(rng, (0.1, 0.4), (0.2, 0.8))
    return tile


def screen(rng: np.random.Generator) -> np.ndarray:
    """A dark screen, or one that shows windows of text."""
    tile = np.full((SIZE, SIZE, 3), 0.03, np.float32)
    if rng.random() < 0.5:
        tile[20:-20, 14:-14] = muted(rng, (0.2, 0.6), (0.2, 0.6))
        for _ in range(3):
            top, left = rng.integers(40, 250, 2)
            tile[top : top + 200, left : left + 220] = 0.8
            tile[top + 20 : top + 180 : 16, left + 15 : left + 180] = 0.3
    return tile
