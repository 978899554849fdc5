"""Procedural surface patterns: square tiles of linear reflectance that a material's tint multiplies.

Every tile wraps around, so that floors and walls repeat it; patterns that are one picture (a painting, a
door, a row of books) are stretched once over their face instead.

A pattern draws its random numbers at once and paints when asked: of the tiles of a scene its three pictures show
three in four, and painting one takes a hundred times as long as drawing its numbers.
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
Paint = Callable[[], np.ndarray]
"""Paints a tile of reflectance, cut to [0, 1] later: (SIZE, SIZE), or (SIZE, SIZE, 3) where it has colours of its
own; row 0 is the top."""
Pattern = Callable[[np.random.Generator], Paint]


def pyramid(tile: np.ndarray) -> np.ndarray:
    """(1 or 3, TEXELS) uint8 square roots, which keep dark detail: the tile, its half, its quarter ..."""
    channels = tile[None] if tile.ndim == 2 else tile.transpose(2, 0, 1)
    texels = np.empty((len(channels), TEXELS), np.uint8)
    for channel, row in zip(channels, texels, strict=True):
        plane = np.array(channel, np.float32, order="C")
        np.clip(plane, 0, 1, out=plane)
        for start in LEVEL_START.tolist():
            roots = np.sqrt(plane)
            roots *= 255
            roots += np.float32(0.5)
            row[start : start + roots.size] = roots.ravel()
            halved = plane[::2] + plane[1::2]
            plane = halved[:, ::2] + halved[:, 1::2]
            plane *= np.float32(0.25)
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


def noise(rng: np.random.Generator, roughness: float = 1.0, stretch: float = 1.0) -> Paint:
    """(SIZE, SIZE) float32; roughness 0 is white, 1 cloudy, 1.6 smooth; stretch 16 looks like wood grain."""
    cut = rng.integers(0, SIZE, 2)
    return lambda: np.roll(_noise_bank(roughness, stretch), cut, axis=(0, 1))


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """v down the rows (SIZE, 1), u along the columns (1, SIZE), both in [0, 1)."""
    steps = (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE
    return steps[:, None], steps[None, :]


def muted(rng: np.random.Generator, value: Range, saturation: Range, hue: Range | None = None) -> np.ndarray:
    """(3,) linear colour; without `hue`, hues as interiors have them: mostly sand and terracotta, some blue.

    `value` is the sRGB brightness of the strongest channel; hues run from 0 (red) over 1/3 (green) to 1.
    """
    if hue is None:
        hue = ((0.05, 0.13), (0.5, 0.65), (0.0, 1.0))[int(rng.choice(3, p=[0.6, 0.2, 0.2]))]
    h, s, v = rng.uniform(*hue), rng.uniform(*saturation), rng.uniform(*value)
    channels = np.clip(np.abs((h * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return (v * (1 - s + s * channels)) ** 2.2


def plaster(rng: np.random.Generator) -> Paint:
    clouds, strength, grain = noise(rng, 1.2), rng.uniform(0.005, 0.03), noise(rng, 0.5)
    return lambda: 0.9 + 0.025 * clouds() + strength * grain()


def carpet(rng: np.random.Generator) -> Paint:
    strength, pile, clouds = rng.uniform(0.06, 0.14), noise(rng, 0.25), noise(rng, 1.1)
    return lambda: 0.75 + strength * pile() + 0.05 * clouds()


def wood(rng: np.random.Generator) -> Paint:
    count, shape = rng.uniform(6, 14), noise(rng, 1.6, 8.0)
    strength, grain = rng.uniform(0.03, 0.1), noise(rng, 0.8, 16.0)

    def paint() -> np.ndarray:
        tile = 0.75 + strength * np.sin(count * shape()) + 0.06 * grain()
        # Dark grain is also redder.
        return _graded(tile, (0.8, 1.0, 1.25))

    return paint


def _graded(tile: np.ndarray, exponents: tuple[float, float, float]) -> np.ndarray:
    """(SIZE, SIZE, 3) view of three planes, each the tile to a power of its own."""
    return np.stack([tile if e == 1 else tile ** np.float32(e) for e in exponents]).transpose(1, 2, 0)


def _courses(
    rng: np.random.Generator, rows: int, columns: int, joint: float, shift: float | None
) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Staggered courses: a number in [0, 1) for each stone (SIZE, SIZE) and a mask of the joints.

    `joint` is the joint's width as a part of the tile; `shift` staggers each course, None at random.
    """
    offset = rng.random(rows) if shift is None else np.arange(rows) * shift % 1.0
    values = rng.random((rows, columns)).astype(np.float32)

    def laid() -> tuple[np.ndarray, np.ndarray]:
        v, u = _grid()
        course = (v * rows).astype(np.intp)
        along = u * columns + offset[course].astype(np.float32)
        stone = along.astype(np.intp) % columns
        value = values[course, stone]
        within = along - np.floor(along)
        gap_u = np.minimum(within, 1 - within) / columns
        gap_v = np.minimum(v * rows % 1, 1 - v * rows % 1) / rows
        return value, np.minimum(gap_u, gap_v) < joint / 2

    return laid


def planks(rng: np.random.Generator) -> Paint:
    courses = _courses(rng, int(rng.integers(7, 15)), int(rng.integers(1, 3)), 0.004, None)
    strength, grain = rng.uniform(0.1, 0.3), noise(rng, 0.8, 16.0)

    def paint() -> np.ndarray:
        value, joints = courses()
        tile = 0.72 + strength * (value - 0.5) + 0.07 * grain()
        return _graded(np.where(joints, tile * 0.45, tile), (0.85, 1.0, 1.2))

    return paint


def tiles(rng: np.random.Generator) -> Paint:
    count = int(rng.integers(3, 7))
    courses = _courses(rng, count, count, 0.008, 0.0 if rng.random() < 0.7 else 0.5)
    strength, clouds = rng.uniform(0.02, 0.15), noise(rng, 1.1)
    chequered = count % 2 == 0 and rng.random() < 0.4
    joint = rng.choice([0.35, 0.95])

    def paint() -> np.ndarray:
        value, joints = courses()
        tile = 0.8 + strength * (value - 0.5) + 0.05 * clouds()
        if chequered:
            v, u = _grid()
            tile = tile * np.where(((v * count).astype(int) + (u * count).astype(int)) % 2, 1.0, 0.45)
        return np.where(joints, joint, tile)

    return paint


def brick(rng: np.random.Generator) -> Paint:
    courses, clouds, grain = _courses(rng, 14, 5, 0.012, 0.5), noise(rng, 0.7), noise(rng, 0.5)

    def paint() -> np.ndarray:
        value, joints = courses()
        return np.where(joints, 0.85 + 0.05 * grain(), 0.65 + 0.35 * (value - 0.5) + 0.08 * clouds())

    return paint


def wallpaper(rng: np.random.Generator) -> Paint:
    count, striped = int(rng.integers(4, 12)), rng.random() < 0.5
    strength, grain = rng.uniform(0.03, 0.12), noise(rng, 0.8)

    def paint() -> np.ndarray:
        v, u = _grid()
        if striped:
            wave = np.sin(2 * np.pi * count * u) + 0 * v
        else:
            wave = np.sin(2 * np.pi * count * u) * np.sin(2 * np.pi * count * v)
            wave = wave + 0.6 * np.sin(4 * np.pi * count * (u + v)) * np.sin(4 * np.pi * count * (u - v))
        return 0.85 + strength * np.tanh(4 * wave) + 0.02 * grain()

    return paint


def fabric(rng: np.random.Generator) -> Paint:
    weave, clouds, kind = noise(rng, 0.2), noise(rng, 1.2), rng.random()

    def paint() -> np.ndarray:
        v, u = _grid()
        tile = 0.8 + 0.08 * weave() + 0.05 * clouds()
        if kind < 0.25:
            tile = tile * (1 - 0.35 * (np.sin(2 * np.pi * 8 * u) > 0.3))
        elif kind < 0.45:
            tile = tile * (1 - 0.2 * (np.sin(12 * np.pi * u) > 0)) * (1 - 0.2 * (np.sin(12 * np.pi * v) > 0))
        return tile

    return paint


def granite(rng: np.random.Generator) -> Paint:
    grain, clouds = noise(rng, 0.35), noise(rng, 1.0)
    return lambda: 0.7 + 0.15 * grain() + 0.08 * clouds()


def leaves(rng: np.random.Generator) -> Paint:
    clumps = noise(rng, 0.8)

    def paint() -> np.ndarray:
        light = 0.6 + 0.3 * np.tanh(2 * clumps())
        return light[..., None] * np.array([0.75, 1.0, 0.6], np.float32)

    return paint


def ceiling_panels(rng: np.random.Generator) -> Paint:
    courses, grain = _courses(rng, 3, 3, 0.01, 0.0), noise(rng, 0.2)

    def paint() -> np.ndarray:
        _, joints = courses()
        return np.where(joints, 0.6, 0.92 + 0.04 * grain())

    return paint


def books(rng: np.random.Generator) -> Paint:
    """Spines side by side, each of its own colour, with bands for title and author."""
    edges = np.sort(rng.choice(np.arange(8, SIZE - 8), int(rng.integers(10, 22)), replace=False))
    spine = np.searchsorted(edges, np.arange(SIZE), side="right")
    count = len(edges) + 1
    colours = np.stack([muted(rng, (0.2, 0.85), (0.05, 0.7)) for _ in range(count)])
    height = rng.uniform(0.0, 0.18, count)[spine]
    bands = [
        (start, depth, (rng.random(count) < 0.6)[spine])
        for start, depth in ((rng.uniform(0.25, 0.4), 0.12), (rng.uniform(0.6, 0.75), 0.05))
    ]

    def paint() -> np.ndarray:
        rows = (np.arange(SIZE) + 0.5) / SIZE
        plain = colours[spine].T
        # Every row is one of three (no band or one of the two), dark above the books.
        lines, line = [plain], np.zeros(SIZE, np.intp)
        for start, depth, titled in bands:
            line[(rows > start) & (rows < start + depth)] = len(lines)
            lines.append(np.where(titled, 0.6 * plain + 0.25, plain))
        between = np.where(np.abs(np.arange(SIZE)[:, None] - edges[None]).min(axis=1) < 3, 0.3, 1.0)
        table = np.stack(lines, axis=1)  # (3 channels, 3 lines, SIZE)
        lit, dark = ((table * light * between).astype(np.float32) for light in (1.0, 0.12))
        above = rows[:, None] < height[None]
        tile = lit[:, line]
        np.copyto(tile, dark[:, line], where=above)
        return tile.transpose(1, 2, 0)

    return paint


def painting(rng: np.random.Generator) -> Paint:
    """A landscape or an abstract canvas, with a pale mount around some."""
    first, second, third = (muted(rng, (0.25, 0.9), (0.1, 0.6)) for _ in range(3))
    field, landscape = noise(rng, 1.5), rng.random() < 0.5
    horizon = rng.uniform(0.4, 0.7) if landscape else 0.0
    shapes, canvas = noise(rng, 1.6), noise(rng, 0.6)
    edge = int(SIZE * rng.uniform(0.08, 0.2)) if rng.random() < 0.5 else 0

    def paint() -> np.ndarray:
        v, _ = _grid()
        ground, grain = field(), 1 + 0.1 * canvas()
        hidden = v > horizon + 0.08 * shapes()[:1] if landscape else shapes() > 0.7
        shade = 0.8 + 0.3 * np.tanh(ground)
        planes = []
        for a, b, c in zip(first, second, third, strict=True):
            if landscape:
                plane = np.where(hidden, c * shade, a + (b - a) * v + 0 * ground)
            else:
                plane = np.where(hidden, c, np.where(ground > 0.3, a, b))
            planes.append(plane * grain)
        tile = np.stack(planes)
        if edge:
            mount = np.full_like(tile, 0.8)
            mount[:, edge:-edge, edge:-edge] = tile[:, edge:-edge, edge:-edge]
            tile = mount
        return tile.transpose(1, 2, 0)

    return paint


def rug(rng: np.random.Generator) -> Paint:
    colours = [muted(rng, (0.25, 0.75), (0.1, 0.6)) for _ in range(3)]
    count = int(rng.integers(2, 6))
    reach, pile = rng.uniform(0.35, 0.6), noise(rng, 0.25)

    def paint() -> np.ndarray:
        v, u = _grid()
        border = np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v))
        diamonds = np.abs((u * count) % 1 - 0.5) + np.abs((v * count) % 1 - 0.5)
        which = np.where(diamonds > reach, 0, 1)
        which[border < 0.14] = 2
        which[(border > 0.04) & (border < 0.07)] = 1
        grain = 1 + 0.12 * pile()
        return np.stack([channel[which] * grain for channel in np.transpose(colours)]).transpose(1, 2, 0)

    return paint


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


def door(rng: np.random.Generator) -> Paint:
    rows, clouds = int(rng.integers(1, 4)), noise(rng, 1.0)

    def paint() -> np.ndarray:
        tile = _panels(1, rows, 0.1, None)
        v, u = _grid()
        tile[np.hypot((u - 0.92) * 0.45, v - 0.52) < 0.014] = 0.15
        return tile + 0.02 * clouds()

    return paint


def cupboard(rng: np.random.Generator) -> Paint:
    columns, edge, grain = int(rng.integers(2, 4)), rng.uniform(0.03, 0.06), noise(rng, 0.9, 8.0)
    return lambda: _panels(columns, 1, edge, 0.35) + 0.03 * grain()


def drawers(rng: np.random.Generator) -> Paint:
    rows, grain = int(rng.integers(3, 5)), noise(rng, 0.9, 8.0)

    def paint() -> np.ndarray:
        tile = _panels(1, rows, 0.03, None)
        v, u = _grid()
        tile[(np.abs(u - 0.5) < 0.07) & (np.abs(v * rows % 1 - 0.5) < 0.06)] = 0.3
        return tile + 0.03 * grain()

    return paint


def blinds(rng: np.random.Generator) -> Paint:
    slats = int(rng.integers(18, 32))

    def paint() -> np.ndarray:
        v, u = _grid()
        return 0.55 + 0.4 * (v * slats % 1) + 0 * u

    return paint


def curtain(rng: np.random.Generator) -> Paint:
    folds, cloth = int(rng.integers(5, 9)), noise(rng, 0.3)

    def paint() -> np.ndarray:
        _, u = _grid()
        wave = np.sin(2 * np.pi * folds * u + 0.5 * np.sin(2 * np.pi * 2 * u))
        return 0.7 + 0.25 * wave + 0.03 * cloth()

    return paint


def outdoors(rng: np.random.Generator) -> Paint:
    """Sky over foliage or houses, much brighter than the room."""
    ground = (0.22, 0.3, 0.16) if rng.random() < 0.6 else (0.4, 0.36, 0.32)
    horizon, hills, trees, shade = rng.uniform(0.35, 0.8), noise(rng, 1.4), noise(rng, 1.0), noise(rng, 1.0)

    def paint() -> np.ndarray:
        v, _ = _grid()
        sky = 1 - 0.2 * v
        below = v > horizon + 0.07 * hills()[:1] + 0.02 * trees()
        shades = 1 + 0.3 * shade()
        planes = (
            np.where(below, np.float64(near) * shades, np.float64(far) * sky)
            for near, far in zip(ground, (0.8, 0.9, 1.0), strict=True)
        )
        return np.stack([gaussian_filter(plane, 2) for plane in planes]).transpose(1, 2, 0)

    return paint


def whiteboard(rng: np.random.Generator) -> Paint:
    strokes = []
    for _ in range(int(rng.integers(6, 16))):
        row, column = rng.integers(30, SIZE - 60), rng.integers(20, SIZE // 2)
        length = int(rng.integers(60, SIZE // 2 - 20))
        along = np.arange(column, column + length)
        wiggle = (row + 6 * np.sin(along * rng.uniform(0.15, 0.5))).astype(int)
        strokes.append((wiggle, along, [muted(rng, (0.1, 0.4), (0.2, 0.8)) for _ in range(4)]))

    def paint() -> np.ndarray:
        tile = np.full((SIZE, SIZE, 3), 0.85, np.float32)
        for wiggle, along, colours in strokes:
            for thick, colour in enumerate(colours):
                tile[wiggle + thick, along] = colour
        return tile

    return paint


def screen(rng: np.random.Generator) -> Paint:
    """A dark screen, or one that shows windows of text."""
    lit = rng.random() < 0.5
    desk = muted(rng, (0.2, 0.6), (0.2, 0.6)) if lit else None
    corners = [rng.integers(40, 250, 2) for _ in range(3)] if lit else []

    def paint() -> np.ndarray:
        tile = np.full((SIZE, SIZE, 3), 0.03, np.float32)
        if desk is not None:
            tile[20:-20, 14:-14] = desk
        for top, left in corners:
            tile[top : top + 200, left : left + 220] = 0.8
            tile[top + 20 : top + 180 : 16, left + 15 : left + 180] = 0.3
        return tile

    return paint
