"""Upright solids and where rays meet them.

World axes: x and y along the floor, z up, metres. A solid may be turned about z only, as furniture is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

import numpy as np

Vector = tuple[float, float, float]
FACES = 6
"""Face number of a box: 2 * axis + (1 on the positive side). Curved solids use face 0 only."""
NEVER = np.float32(1e9)
"""Ray parameter of a miss."""
_NO_ZERO = np.float32(1e-12)
"""Added to directions: keeps 1 / d finite and is far below the rounding of any d that matters."""


class Kind(IntEnum):
    ROOM = 0
    """A box seen from inside."""
    BOX = 1
    ELLIPSOID = 2
    FRUSTUM = 3
    """An upright capped cone; `half` is (bottom radius, top radius, half height)."""


@dataclass(frozen=True)
class Solid:
    kind: Kind
    centre: Vector
    half: Vector
    """Half extents (m) along the solid's own axes; see `Kind.FRUSTUM` for its meaning there."""
    materials: tuple[int, ...]
    """One material for each of the six faces."""
    yaw: float = 0.0
    """Radians about z, counter-clockwise seen from above."""
    casts_shadow: bool = True

    @property
    def extent(self) -> Vector:
        """Half extents of the bounding box along the solid's own axes."""
        if self.kind != Kind.FRUSTUM:
            return self.half
        radius = max(self.half[0], self.half[1])
        return (radius, radius, self.half[2])


@dataclass(frozen=True)
class SolidTable:
    """n solids as columns, so that a picture's worth of pixels can look up theirs at once."""

    kind: np.ndarray
    """(n,) int"""
    centre: np.ndarray
    """(n, 3) float32"""
    half: np.ndarray
    """(n, 3) float32"""
    extent: np.ndarray
    """(n, 3) float32"""
    cos: np.ndarray
    """(n,) float32, cosine of the yaw"""
    sin: np.ndarray
    material: np.ndarray
    """(n, 6) int"""
    casts_shadow: np.ndarray
    """(n,) bool"""

    @classmethod
    def of(cls, solids: Sequence[Solid]) -> Self:
        yaw = np.array([solid.yaw for solid in solids])
        return cls(
            kind=np.array([solid.kind for solid in solids], np.intp),
            centre=np.array([solid.centre for solid in solids], np.float32),
            half=np.array([solid.half for solid in solids], np.float32),
            extent=np.array([solid.extent for solid in solids], np.float32),
            cos=np.cos(yaw).astype(np.float32),
            sin=np.sin(yaw).astype(np.float32),
            material=np.array([solid.materials for solid in solids], np.intp),
            casts_shadow=np.array([solid.casts_shadow for solid in solids]),
        )

    def __len__(self) -> int:
        return len(self.kind)

    def corners(self) -> np.ndarray:
        """(n, 8, 3) corners of the bounding boxes in the world; bit k of the corner's number is axis k."""
        signs = np.array([[1 if corner >> axis & 1 else -1 for axis in range(3)] for corner in range(8)])
        local = self.extent[:, None] * signs.astype(np.float32)
        x = local[..., 0] * self.cos[:, None] - local[..., 1] * self.sin[:, None]
        y = local[..., 0] * self.sin[:, None] + local[..., 1] * self.cos[:, None]
        return np.stack([x, y, local[..., 2]], axis=-1) + self.centre[:, None]

    def distance_from(self, point: np.ndarray) -> np.ndarray:
        """(n,) metres from `point` to each bounding box; 0 inside."""
        dx, dy, dz = (point.astype(np.float32) - self.centre).T
        local = np.stack([dx * self.cos + dy * self.sin, dy * self.cos - dx * self.sin, dz], axis=-1)
        return np.linalg.norm(np.maximum(np.abs(local) - self.extent, 0), axis=-1)


@dataclass(frozen=True)
class Hits:
    """What each ray of a picture meets first."""

    t: np.ndarray
    """(H, W) float32 ray parameter; `NEVER` where nothing is met"""
    solid: np.ndarray
    """(H, W) int number of the solid in its table"""


def nearest_hits(
    table: SolidTable, origin: np.ndarray, direction: np.ndarray, numbers: np.ndarray, windows: np.ndarray
) -> Hits:
    """First hits of the rays origin + t·direction, t > 0; of several solids at one t, the first in the table.

    `direction` is (3, H, W) float32. `windows` holds one (top, bottom, left, right) in pixels for each of the
    solids `numbers`, which ascend: outside its window a solid is not looked for, which is what makes this fast.
    The origin stands outside every solid except the room.
    """
    height, width = direction.shape[1:]
    t = np.full((height, width), NEVER, np.float32)
    solid = np.zeros((height, width), np.intp)
    area = np.maximum(windows[:, 1] - windows[:, 0], 0) * np.maximum(windows[:, 3] - windows[:, 2], 0)
    boxes = table.kind[numbers] == Kind.BOX
    small = boxes & (area > 0) & (area <= _SMALL_WINDOW)
    turned: dict[tuple[float, float], _InverseRays] = {}
    for number, window, alone in zip(
        numbers.tolist(), windows.tolist(), ((area > 0) & ~small).tolist(), strict=True
    ):
        if not alone:
            continue
        inverse = None
        if table.kind[number] <= Kind.BOX:
            yaw = (float(table.cos[number]), float(table.sin[number]))
            if yaw not in turned:
                alike = boxes & ~small & (area > 0) & (table.cos[numbers] == yaw[0]) & (table.sin[numbers] == yaw[1])
                reach = windows[alike | (numbers == number)]
                turned[yaw] = _InverseRays(
                    direction, yaw, (reach[:, 0].min(), reach[:, 1].max(), reach[:, 2].min(), reach[:, 3].max())
                )
            inverse = turned[yaw]
        top, bottom, left, right = window
        step = max(1, _PIXELS_AT_ONCE // (right - left))
        for start in range(top, bottom, step):
            part = slice(start, min(start + step, bottom)), slice(left, right)
            found = _meet(table, number, origin, direction, inverse, part)
            behind = t[part]
            nearer = found < behind
            np.copyto(behind, found, where=nearer)
            np.copyto(solid[part], number, where=nearer)
    if small.any():
        _meet_small_boxes(table, origin, direction, numbers[small], windows[small], t, solid)
    return Hits(t, solid)


_PIXELS_AT_ONCE = 32768
"""128 kB a float32 array: the dozen that one solid needs stay in a core's second cache."""
_SMALL_WINDOW = 600
"""Pixels: about where the calls of numpy for one box cost what gathering its rays among those of others does."""
Window = tuple[int, int, int, int]
Part = tuple[slice, slice]


class _InverseRays:
    """1 / direction and its magnitude in axes turned by a yaw, over the window that all boxes so turned need."""

    def __init__(self, direction: np.ndarray, yaw: tuple[float, float], window: Window) -> None:
        self._top, bottom, self._left, right = window
        local = _turned(direction[:, self._top : bottom, self._left : right], *yaw)
        self._inverse = np.stack([1 / (axis + _NO_ZERO) for axis in local])
        self._magnitude = np.abs(self._inverse)

    def part(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = part
        where = (
            slice(None),
            slice(rows.start - self._top, rows.stop - self._top),
            slice(columns.start - self._left, columns.stop - self._left),
        )
        return self._inverse[where], self._magnitude[where]


LocalRays = tuple[np.ndarray, np.ndarray, np.ndarray]


def _turned(direction: np.ndarray, cos: float, sin: float) -> LocalRays:
    dx, dy, dz = direction
    if sin == 0.0:
        return dx, dy, dz
    c, s = np.float32(cos), np.float32(sin)
    return dx * c + dy * s, dy * c - dx * s, dz


def _meet(
    table: SolidTable,
    number: int,
    origin: np.ndarray,
    direction: np.ndarray,
    inverse: _InverseRays | None,
    part: Part,
) -> np.ndarray:
    ox, oy, oz = (float(value) for value in origin - table.centre[number])
    cos, sin = float(table.cos[number]), float(table.sin[number])
    if sin != 0.0:
        ox, oy = ox * cos + oy * sin, oy * cos - ox * sin
    half = table.half[number]
    if inverse is not None:
        meet_planes = _meet_room if table.kind[number] == Kind.ROOM else _meet_box
        return meet_planes((ox, oy, oz), *inverse.part(part), half)
    meet = _meet_ellipsoid if table.kind[number] == Kind.ELLIPSOID else _meet_frustum
    return meet((ox, oy, oz), _turned(direction[(slice(None), *part)], cos, sin), half)


def _meet_room(origin: Vector, inverse: np.ndarray, magnitude: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Where the rays leave the first of the three pairs of planes."""
    leave = np.empty(inverse.shape[1:], np.float32)
    middle, reach = np.empty_like(leave), np.empty_like(leave)
    for axis in range(3):
        np.multiply(inverse[axis], np.float32(-origin[axis]), out=middle)
        np.multiply(magnitude[axis], half[axis], out=reach)
        middle += reach
        if axis == 0:
            leave[:] = middle
        else:
            np.minimum(leave, middle, out=leave)
    return leave


def _meet_box(origin: Vector, inverse: np.ndarray, magnitude: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Where the rays enter the last of the three pairs of planes, unless they left another before."""
    enter, leave = np.empty(inverse.shape[1:], np.float32), np.empty(inverse.shape[1:], np.float32)
    middle, reach, edge = (np.empty_like(enter) for _ in range(3))
    for axis in range(3):
        np.multiply(inverse[axis], np.float32(-origin[axis]), out=middle)
        np.multiply(magnitude[axis], half[axis], out=reach)
        if axis == 0:
            np.subtract(middle, reach, out=enter)
            np.add(middle, reach, out=leave)
        else:
            np.maximum(enter, np.subtract(middle, reach, out=edge), out=enter)
            np.minimum(leave, np.add(middle, reach, out=edge), out=leave)
    np.copyto(enter, NEVER, where=(enter > leave) | (enter <= 0))
    return enter


def _meet_small_boxes(
    table: SolidTable,
    origin: np.ndarray,
    direction: np.ndarray,
    numbers: np.ndarray,
    windows: np.ndarray,
    t: np.ndarray,
    solid: np.ndarray,
) -> None:
    """Put the hits of boxes with small windows into `t` and `solid`: all their pixels in one go.

    A room has a hundred such boxes, and twenty calls of numpy for each would take ten times as long.
    """
    top, bottom, left, right = windows.T
    area, width = (bottom - top) * (right - left), right - left
    box = np.repeat(np.arange(len(numbers)), area)
    place = np.arange(len(box)) - np.repeat(np.cumsum(area) - area, area)
    row = place // width[box]
    pixel = (row + top[box]) * t.shape[1] + place - row * width[box] + left[box]
    dx, dy, dz = (axis.ravel().take(pixel) for axis in direction)
    cos, sin = table.cos[numbers], table.sin[numbers]
    c, s = cos[box], sin[box]
    ox, oy, oz = (origin - table.centre[numbers]).T
    cos, sin = cos.astype(np.float64), sin.astype(np.float64)
    enter = leave = None
    for axis, (o, d) in enumerate(
        ((ox * cos + oy * sin, dx * c + dy * s), (oy * cos - ox * sin, dy * c - dx * s), (oz, dz))
    ):
        inverse = 1 / (d + _NO_ZERO)
        middle = inverse * (-o).astype(np.float32)[box]
        reach = np.abs(inverse) * table.half[numbers, axis][box]
        enter = middle - reach if enter is None else np.maximum(enter, middle - reach)
        leave = middle + reach if leave is None else np.minimum(leave, middle + reach)
    assert enter is not None and leave is not None
    hit = np.flatnonzero((enter <= leave) & (enter > 0) & (enter <= t.ravel().take(pixel)))
    # Positive floats are ordered like their bits: the smallest key is the nearest hit of the first solid.
    key = enter[hit].view(np.int32).astype(np.int64) << 32 | numbers[box[hit]]
    best = t.view(np.int32).astype(np.int64) << 32 | solid
    np.minimum.at(best.ravel(), pixel[hit], key)
    t[:] = (best >> 32).astype(np.int32).view(np.float32)
    solid[:] = best & 0xFFFFFFFF


def _meet_ellipsoid(origin: Vector, direction: LocalRays, half: np.ndarray) -> np.ndarray:
    """Unit sphere in scaled axes, from the ray's point nearest to the centre; b² - ac would cancel."""
    o = [np.float32(value / h) for value, h in zip(origin, half, strict=True)]
    d = [axis * (1 / h) for axis, h in zip(direction, half, strict=True)]
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    middle = -(o[0] * d[0] + o[1] * d[1] + o[2] * d[2]) / a
    nearest = [value + middle * axis for value, axis in zip(o, d, strict=True)]
    inside = 1 - (nearest[0] ** 2 + nearest[1] ** 2 + nearest[2] ** 2)
    t = middle - np.sqrt(np.maximum(inside, 0) / a)
    t[(inside < 0) | (t <= 0)] = NEVER
    return t


def _meet_frustum(origin: Vector, direction: LocalRays, half: np.ndarray) -> np.ndarray:
    """Side: x² + y² = (m + k z)², the smaller root; caps: the plane on the origin's side."""
    bottom, top, h = (float(value) for value in half)
    ox, oy, oz = (np.float32(value) for value in origin)
    dx, dy, dz = direction
    slope = (top - bottom) / (2 * h)
    k = np.float32(slope)
    r = np.float32((bottom + top) / 2 + slope * origin[2])
    # A ray steeper than the cone itself has a <= 0 and meets a cap first.
    a = np.maximum(dx * dx + dy * dy - k * k * dz * dz, np.float32(1e-9))
    b = ox * dx + oy * dy - k * r * dz
    discriminant = b * b - a * (ox * ox + oy * oy - r * r)
    t = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
    t[(discriminant < 0) | (np.abs(oz + t * dz) > h) | (t <= 0)] = NEVER
    if abs(float(oz)) > h:
        cap = np.copysign(np.float32(h), oz)
        t_cap = (cap - oz) / (dz + _NO_ZERO)
        x, y = ox + t_cap * dx, oy + t_cap * dy
        radius = top if float(oz) > 0 else bottom
        on_cap = (x * x + y * y <= np.float32(radius * radius)) & (t_cap > 0)
        np.copyto(t, t_cap, where=on_cap & (t_cap < t))
    return t
