"""Light that reaches surfaces: shadowed direct light, one averaged bounce, ambient occlusion.

What depends on the scene alone is worked out once and shared by all its pictures.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from pipeline.data.rooms.scene import Light, Scene
from pipeline.data.rooms.solids import Kind, SolidTable, nearest_hits

_MAP_SIZE = 192
"""Texels a side of a shadow map: 6 cm at 3 m, about as soft as window light."""
_CELL_M = 0.09
"""Cell of the occupancy grid; 0.09 m shows the gap under a sofa and keeps a hall at 0.4 M cells."""
_OCCLUSION_REACH_M = (0.16, 0.5)
"""Distances along the normal at which occupancy is felt; the blur is 0.6 of each."""
_NEAREST_M2 = 0.15
"""Squared distance below which a point light grows no brighter: lamps have a size."""


@dataclass(frozen=True)
class ShadowMap:
    """Distance to the first solid over the hemisphere around a light's axis, in stereographic projection.

    That projection turns the cone around a solid into a circle, so each is looked for in a small square.
    """

    light: Light
    frame: np.ndarray
    """(3, 3): rows are two directions across the axis and the axis"""
    distance_m: np.ndarray
    """(_MAP_SIZE, _MAP_SIZE) float32"""


@dataclass(frozen=True)
class Illumination:
    shadow_maps: tuple[ShadowMap, ...]
    bounce: np.ndarray
    """(6, 3) irradiance on surfaces that face -x, +x, -y, +y, -z, +z after reflection in the room"""
    occupancy: tuple[np.ndarray, ...]
    """For each of `_OCCLUSION_REACH_M`, blurred occupancy in cells, one cell of wall around the room"""


Vectors = np.ndarray | tuple[np.ndarray, np.ndarray, np.ndarray]
"""(3, H, W), or its three parts"""


def illuminate(scene: Scene) -> Illumination:
    return Illumination(
        shadow_maps=tuple(_shadow_map(scene.solids, light) for light in scene.lights),
        bounce=_bounced_light(scene),
        occupancy=_blurred_occupancy(scene),
    )


@functools.cache
def _stereographic_directions() -> np.ndarray:
    """(3, _MAP_SIZE, _MAP_SIZE) unit vectors: components across the axis, then along it."""
    steps = ((np.arange(_MAP_SIZE) + 0.5) * (2 / _MAP_SIZE) - 1).astype(np.float32)
    u, v = steps[None, :], steps[:, None]
    square = u * u + v * v
    return np.stack(np.broadcast_arrays(2 * u, 2 * v, 1 - square)) / (1 + square)


def _shadow_map(table: SolidTable, light: Light) -> ShadowMap:
    axis = light.axis
    helper = np.array([1.0, 0, 0]) if abs(axis[0]) < 0.6 else np.array([0, 1.0, 0])
    across = np.cross(axis, helper)
    across /= np.linalg.norm(across)
    frame = np.stack([across, np.cross(axis, across), axis])
    local = _stereographic_directions()
    world = sum(local[k] * frame[k].astype(np.float32)[:, None, None] for k in range(3))
    numbers = np.flatnonzero(table.casts_shadow)
    towards = (table.centre[numbers] - light.position) @ frame.T
    radius = np.linalg.norm(table.extent[numbers], axis=1)
    away = np.linalg.norm(towards, axis=1)
    theta = np.arccos(np.clip(towards[:, 2] / away, -1, 1))
    alpha = np.arcsin(np.clip(radius / away, 0, 1))
    low, high = np.tan((theta - alpha) / 2), np.tan(np.minimum(theta + alpha, 3.0) / 2)
    azimuth = towards[:, :2] / np.maximum(np.linalg.norm(towards[:, :2], axis=1, keepdims=True), 1e-6)
    middle, reach = azimuth * ((low + high) / 2)[:, None], ((high - low) / 2)[:, None]
    everywhere = (away <= radius)[:, None]
    first = np.where(everywhere, 0, np.floor((middle - reach + 1) * _MAP_SIZE / 2))
    last = np.where(everywhere, _MAP_SIZE, np.ceil((middle + reach + 1) * _MAP_SIZE / 2) + 1)
    first, last = (np.clip(edge, 0, _MAP_SIZE).astype(np.intp) for edge in (first, last))
    windows = np.stack([first[:, 1], last[:, 1], first[:, 0], last[:, 0]], axis=1)
    hits = nearest_hits(table, light.position, np.asarray(world), numbers, windows)
    return ShadowMap(light, frame, hits.t)


def _bounced_light(scene: Scene) -> np.ndarray:
    """Mean irradiance after reflections, Φ ρ / (A (1 - ρ)) as in an integrating sphere.

    Each direction sees the wall opposite, so it takes half of that wall's colour.
    """
    flux = np.zeros(3)
    for light in scene.lights:
        # Cosine part: π I over the hemisphere; even part: 4 π I over the sphere.
        flux += light.intensity * np.pi * ((1 - light.spill) + 4 * light.spill)
    sx, sy, sz = scene.size
    area = np.array([sy * sz, sy * sz, sx * sz, sx * sz, sx * sy, sx * sy])
    faces = scene.materials.reflectance(scene.solids.material[0]).astype(np.float64)
    # Furniture, curtains and windows swallow light: a furnished room never acts paler than 0.4.
    mean = np.minimum((faces * area[:, None]).sum(axis=0) / area.sum(), 0.4)
    even = flux * mean / (area.sum() * (1 - mean))
    # A surface that faces +z sees the ceiling, whose face number is that of +z.
    return (even * (0.5 + 0.5 * faces / mean)).astype(np.float32)


def _blurred_occupancy(scene: Scene) -> tuple[np.ndarray, ...]:
    cells = [int(np.ceil(side / _CELL_M)) + 2 for side in scene.size]
    grid = np.ones(cells, np.float32)
    grid[1:-1, 1:-1, 1:-1] = 0
    table = scene.solids
    corners = table.corners
    low = np.floor(corners.min(axis=1) / _CELL_M).astype(int)
    high = np.ceil(corners.max(axis=1) / _CELL_M).astype(int) + 1
    for number in np.flatnonzero(table.casts_shadow):
        ranges = [
            np.arange(max(0, low[number, axis]), min(cells[axis] - 2, high[number, axis])) for axis in range(3)
        ]
        x, y, z = (
            ((cell + 0.5) * _CELL_M - table.centre[number, axis]).astype(np.float32)
            for axis, cell in enumerate(ranges)
        )
        x, y = x[:, None], y[None, :]
        cos, sin = table.cos[number], table.sin[number]
        hx, hy, hz = table.extent[number]
        if table.kind[number] == Kind.BOX:
            flat = _coverage(x * cos + y * sin, hx) * _coverage(y * cos - x * sin, hy)
        else:
            flat = np.clip((hx - np.hypot(x, y * (hx / hy))) / _CELL_M + 0.5, 0, 1) * min(1, 2 * hx / _CELL_M)
        where = tuple(slice(cell[0] + 1, cell[-1] + 2) if len(cell) else slice(0) for cell in ranges)
        filled = flat[:, :, None] * _coverage(z, hz)[None, None, :]
        np.maximum(grid[where], filled, out=grid[where])
    return tuple(gaussian_filter(grid, 0.6 * reach / _CELL_M, truncate=2.5) for reach in _OCCLUSION_REACH_M)


def _coverage(offset: np.ndarray, half: float) -> np.ndarray:
    """Part of a cell at `offset` from the middle of a slab of ±half that the slab fills."""
    overlap = np.minimum(offset + _CELL_M / 2, half) - np.maximum(offset - _CELL_M / 2, -half)
    return np.clip(overlap / _CELL_M, 0, 1)


def openness(illumination: Illumination, point: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """(H, W) in (0, 1]: how much of the surroundings a surface sees; low in corners and under furniture."""
    result = np.ones(point.shape[1:], np.float32)
    for reach, occupancy in zip(_OCCLUSION_REACH_M, illumination.occupancy, strict=True):
        # Cell 0 is wall, so the room's origin lies at the start of cell 1.
        place = normal * np.float32(reach)
        place += point
        place *= np.float32(1 / _CELL_M)
        place += np.float32(0.5)
        result *= 1 - np.float32(0.85) * _trilinear(occupancy, place)
    return result


def _trilinear(grid: np.ndarray, place: np.ndarray) -> np.ndarray:
    """scipy's `map_coordinates(grid, place, order=1, mode="nearest")` to the bit, in half its time.

    In float64, the corners in the grid's order; `place` is (3, H, W).
    """
    start = np.zeros(place.shape[1:], np.intp)
    weights = []
    for size, axis in zip(grid.shape, place, strict=True):
        inside = axis.astype(np.float64)
        np.maximum(inside, 0, out=inside)
        np.minimum(inside, size - 1, out=inside)
        # At the far end the cell before takes a weight of zero.
        cell = np.minimum(inside.astype(np.intp), size - 2)
        inside -= cell
        weights.append((1 - inside, inside))
        start *= size
        start += cell
    values = grid.ravel()
    total = np.zeros(start.shape)
    for x, y, z in np.ndindex(2, 2, 2):
        term = values[(x * grid.shape[1] + y) * grid.shape[2] + z :].take(start) * weights[0][x]
        term *= weights[1][y]
        term *= weights[2][z]
        total += term
    return total.astype(np.float32)


def bounced(illumination: Illumination, normal: np.ndarray) -> np.ndarray:
    """(3, H, W) irradiance from the bounce, blended over the six directions by the squared normal."""
    result = np.zeros_like(normal)
    for axis in range(3):
        square = normal[axis] * normal[axis]
        positive = np.where(normal[axis] > 0, square, 0)
        for channel in range(3):
            behind, ahead = illumination.bounce[2 * axis : 2 * axis + 2, channel]
            result[channel] += behind * square + (ahead - behind) * positive
    return result


def direct(
    illumination: Illumination,
    point: np.ndarray,
    normal: np.ndarray,
    to_eye: np.ndarray,
    gloss: np.ndarray,
) -> np.ndarray:
    """(6, H, W) diffuse irradiance in three channels and specular radiance, from all lights with their shadows.

    All vectors are (3, H, W) float32; `normal` and `to_eye` are unit vectors.
    """
    result = np.zeros((6, *gloss.shape), np.float32)
    diffuse, specular = result[:3], result[3:].reshape(3, -1)
    lifted = normal * np.float32(0.03)
    lifted += point
    # Most surfaces are dull.
    shiny = np.flatnonzero(gloss)
    shiny_gloss = gloss.ravel()[shiny]
    shiny_normal, shiny_to_eye = (field.reshape(3, -1)[:, shiny] for field in (normal, to_eye))
    for shadow in illumination.shadow_maps:
        light = shadow.light
        px, py, pz = (np.float32(value) for value in light.position)
        lx, ly, lz = px - lifted[0], py - lifted[1], pz - lifted[2]
        square = _dot((lx, ly, lz), (lx, ly, lz))
        inverse = np.sqrt(square)
        np.divide(1, inverse, out=inverse)
        strength = _dot(normal, (lx, ly, lz))
        strength *= inverse
        np.maximum(strength, 0, out=strength)
        first, second, along = (_along(row, (lx, ly, lz)) for row in -shadow.frame.astype(np.float32))
        along *= inverse
        spill = np.float32(light.spill)
        emitted = np.maximum(along, 0)
        if spill:
            emitted *= 1 - spill
            emitted += spill
        strength *= emitted
        strength /= np.maximum(square, np.float32(_NEAREST_M2), out=emitted)
        # The map reaches over a hemisphere; behind the axis nothing stands but the ceiling.
        shaded = np.flatnonzero((strength > 0) & (along >= 0))
        if len(shaded):
            short = inverse.ravel().take(shaded)
            scale = np.float32(_MAP_SIZE / 2) / (1 + along.ravel().take(shaded))
            row, column = (across.ravel().take(shaded) * short for across in (second, first))
            for place in (row, column):
                place *= scale
                place += np.float32(_MAP_SIZE / 2 - 0.5)
            short *= square.ravel().take(shaded)
            strength.ravel()[shaded] *= _lit_part(shadow.distance_m, row, column, short)
        for channel in range(3):
            diffuse[channel] += np.multiply(strength, np.float32(light.intensity[channel]), out=emitted)
        if not len(shiny):
            continue
        # Blinn-Phong with exponent 32: the sheen of floors and cupboards, no mirror.
        short = inverse.ravel()[shiny]
        hx, hy, hz = (
            to_eye + axis.ravel()[shiny] * short for to_eye, axis in zip(shiny_to_eye, (lx, ly, lz), strict=True)
        )
        half = shiny_normal[0] * hx + shiny_normal[1] * hy + shiny_normal[2] * hz
        half /= np.sqrt(hx * hx + hy * hy + hz * hz)
        sheen = np.maximum(half, 0)
        for _ in range(5):
            sheen *= sheen
        sheen *= strength.ravel()[shiny] * shiny_gloss
        for channel in range(3):
            specular[channel, shiny] += sheen * np.float32(light.intensity[channel])
    return result


def _dot(a: Vectors, b: Vectors) -> np.ndarray:
    result = a[0] * b[0]
    product = a[1] * b[1]
    result += product
    result += np.multiply(a[2], b[2], out=product)
    return result


def _along(axis: np.ndarray, vectors: Vectors) -> np.ndarray:
    """The part of `vectors` along `axis`; a lamp's axes are the room's, with two components of zero each."""
    terms = [(value, component) for value, component in zip(axis, vectors, strict=True) if value != 0]
    result = terms[0][1] * terms[0][0]
    for value, component in terms[1:]:
        result += component * value
    return result


def _lit_part(occluder_m: np.ndarray, row: np.ndarray, column: np.ndarray, distance_m: np.ndarray) -> np.ndarray:
    """(k,) in [0, 1]: bilinear share of the four nearest texels whose occluder lies behind the surface.

    `row` and `column` are cut to the map in place.
    """
    limit = np.float32(_MAP_SIZE - 1.001)
    for place in (row, column):
        np.maximum(place, 0, out=place)
        np.minimum(place, limit, out=place)
    top, left = row.astype(np.intp), column.astype(np.intp)
    down, right = row - top.astype(np.float32), column - left.astype(np.float32)
    # 2 % and 3 cm: a texel is up to 6 cm wide on a floor that it meets at a slant.
    nearer_m = (distance_m - np.float32(0.03)) * np.float32(1 / 1.02)
    texels, corner = occluder_m.ravel(), top * _MAP_SIZE + left
    upper = (texels.take(corner) > nearer_m) * (1 - right) + (texels.take(corner + 1) > nearer_m) * right
    corner += _MAP_SIZE
    lower = (texels.take(corner) > nearer_m) * (1 - right) + (texels.take(corner + 1) > nearer_m) * right
    return upper * (1 - down) + lower * down
