"""Upright solids and where rays meet them.

World axes: x and y along the floor, z up, metres. A solid may be turned about z only, as furniture is.
"""

from __future__ import annotations

import functools
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


_ROOM, _BOX, _ELLIPSOID = int(Kind.ROOM), int(Kind.BOX), int(Kind.ELLIPSOID)
"""Plain numbers for the innermost loop, where looking up a member of the enumeration shows."""


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

    @functools.cached_property
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
    small = (table.kind[numbers] == _BOX) & (area > 0) & (area <= _SMALL_WINDOW)
    # Python's own numbers from here: looking one up in an array takes as long as meeting a small box.
    alone = [
        (number, (top, bottom, left, right))
        for number, (top, bottom, left, right) in zip(
            numbers[(area > 0) & ~small].tolist(), windows[(area > 0) & ~small].tolist(), strict=True
        )
    ]
    rays = _Rays(table, origin, direction, alone)
    for number, (top, bottom, left, right) in alone:
        step = max(1, _PIXELS_AT_ONCE // (right - left))
        for start in range(top, bottom, step):
            part = slice(start, min(start + step, bottom)), slice(left, right)
            found = rays.meet(number, part)
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


LocalRays = tuple[np.ndarray, np.ndarray, np.ndarray]


class _Rays:
    """Rays in the axes of one solid after another.

    Boxes of one yaw share 1 / direction over the window that all of them need, where that is less work.
    """

    def __init__(
        self, table: SolidTable, origin: np.ndarray, direction: np.ndarray, windows: list[tuple[int, Window]]
    ) -> None:
        self._direction = direction
        self._kind, self._half = table.kind.tolist(), table.half
        self._cos, self._sin = table.cos.tolist(), table.sin.tolist()
        x, y, z = (origin - table.centre).T
        cos, sin = table.cos.astype(np.float64), table.sin.astype(np.float64)
        self._origin = np.stack([x * cos + y * sin, y * cos - x * sin, z], axis=1).tolist()
        self._shared: dict[tuple[float, float], tuple[int, int, np.ndarray, np.ndarray]] = {}
        alike: dict[tuple[float, float], list[Window]] = {}
        for number, window in windows:
            if self._kind[number] in (_ROOM, _BOX):
                alike.setdefault((self._cos[number], self._sin[number]), []).append(window)
        for yaw, group in alike.items():
            tops, bottoms, lefts, rights = zip(*group, strict=True)
            top, bottom, left, right = min(tops), max(bottoms), min(lefts), max(rights)
            if (bottom - top) * (right - left) < sum((b - a) * (d - c) for a, b, c, d in group):
                rays = self._inverse(yaw, (slice(top, bottom), slice(left, right)))
                self._shared[yaw] = (top, left, *rays)

    def meet(self, number: int, part: Part) -> np.ndarray:
        """Ray parameter of each ray of a part of the picture where it meets the solid, or `NEVER`."""
        kind, origin, half = self._kind[number], self._origin[number], self._half[number]
        yaw = (self._cos[number], self._sin[number])
        if kind in (_ROOM, _BOX):
            meet_planes = _meet_room if kind == _ROOM else _meet_box
            if yaw not in self._shared:
                return meet_planes(origin, *self._inverse(yaw, part), half)
            top, left, inverse, magnitude = self._shared[yaw]
            rows, columns = part
            rows, columns = (
                slice(rows.start - top, rows.stop - top),
                slice(columns.start - left, columns.stop - left),
            )
            return meet_planes(origin, inverse[:, rows, columns], magnitude[:, rows, columns], half)
        meet = _meet_ellipsoid if kind == _ELLIPSOID else _meet_frustum
        return meet(origin, self._turned(yaw, part), half)

    def _inverse(self, yaw: tuple[float, float], part: Part) -> tuple[np.ndarray, np.ndarray]:
        """1 / direction and its magnitude, each (3, h, w)."""
        local = self._turned(yaw, part)
        inverse = np.empty((3, *local[0].shape), np.float32)
        for axis, turned in zip(inverse, local, strict=True):
            np.divide(1, np.add(turned, _NO_ZERO, out=axis), out=axis)
        return inverse, np.abs(inverse)

    def _turned(self, yaw: tuple[float, float], part: Part) -> LocalRays:
        dx, dy, dz = self._direction[(slice(None), *part)]
        if yaw[1] == 0.0:
            return dx, dy, dz
        cos, sin = np.float32(yaw[0]), np.float32(yaw[1])
        return dx * cos + dy * sin, dy * cos - dx * sin, dz


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
