"""One picture of a scene: linear radiance and exact depth.

Surfaces and light are worked out in strips of rows, whose arrays fit a core's cache: over whole pictures the same
steps took 1.3 times as long.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.data.rooms import textures
from pipeline.data.rooms.camera import Intrinsics, Pose, pixel_windows, ray_directions
from pipeline.data.rooms.lighting import Illumination, bounced, direct, openness
from pipeline.data.rooms.materials import MaterialTable
from pipeline.data.rooms.scene import Scene
from pipeline.data.rooms.solids import FACES, Hits, Kind, SolidTable, nearest_hits

_ACROSS = ((1, 2), (0, 2), (0, 1))
"""Axes that span a face, by the axis it is square to: first along the pattern's rows, then up."""


@dataclass(frozen=True)
class Picture:
    radiance: np.ndarray
    """(3, H, W) float32 linear RGB"""
    depth_m: np.ndarray
    """(H, W) float32 along the optical axis"""
    facing: np.ndarray
    """(H, W) float32 cosine between the surface's normal and the way to the camera"""
    infrared: np.ndarray
    """(H, W) float32 part of the surface that answers the depth sensor"""
    reflectance: np.ndarray
    """(H, W) float32 mean of the three channels"""


@dataclass(frozen=True)
class _Surface:
    normal: np.ndarray
    """(3, H, W) float32 unit vectors towards the camera's side"""
    face: np.ndarray
    """(H, W) int: number of the solid times `FACES` plus its face"""
    material: np.ndarray
    """(H, W) int"""
    u: np.ndarray
    """(H, W) float32 along the rows of the material's tile, in tiles"""
    v: np.ndarray
    tiles_per_m: np.ndarray
    """(H, W) float32"""


def see(table: SolidTable, camera: Intrinsics, pose: Pose, direction: np.ndarray) -> Hits:
    return nearest_hits(table, pose.position, direction, np.arange(len(table)), pixel_windows(table, camera, pose))


_STRIP_ROWS = 32
"""Even. 32 rows of 640 are 80 kB a float32 array, so some twenty of them fit the second cache."""
_LIGHT_ROWS = 64
"""Of the light's, which has a quarter of the pixels and many steps: in smaller strips the calls of numpy show."""


def render(scene: Scene, illumination: Illumination, camera: Intrinsics, pose: Pose) -> Picture:
    """The picture as an ideal pinhole camera would see it."""
    materials = scene.materials
    height, width = camera.height, camera.width
    direction = ray_directions(camera, pose)
    hits = see(scene.solids, camera, pose, direction)
    position = pose.position.astype(np.float32)[:, None, None]
    frame = _pattern_frame(scene)
    # Filled strip by strip.
    face, material = np.empty((height, width), np.intp), np.empty((height, width), np.intp)
    coarse = np.empty((3, 3, (height + 1) // 2, (width + 1) // 2), np.float32)
    albedo, facing = np.empty((3, height, width), np.float32), np.empty((height, width), np.float32)
    strips = [slice(top, min(top + _STRIP_ROWS, height)) for top in range(0, height, _STRIP_ROWS)]
    for rows in strips:
        t, rays = hits.t[rows], direction[:, rows]
        point = position + rays * t
        surface = _surface(scene, frame, hits.solid[rows], point)
        face[rows], material[rows] = surface.face, surface.material
        to_eye = -rays / np.sqrt(rays[0] ** 2 + rays[1] ** 2 + rays[2] ** 2)
        cosine = surface.normal[0] * to_eye[0]
        cosine += surface.normal[1] * to_eye[1]
        cosine += surface.normal[2] * to_eye[2]
        facing[rows] = np.maximum(cosine, 0)
        # A pixel covers t / fx metres across the view and more along a slanted surface; the square root is the
        # compromise between blur and shimmer that a tile without anisotropic levels has to make.
        pixel_m = t / np.float32(camera.fx) / np.sqrt(np.maximum(facing[rows], np.float32(0.05)))
        _look_up(materials, surface, pixel_m, albedo[:, rows])
        for field, vectors in zip(coarse, (point, surface.normal, to_eye), strict=True):
            field[:, rows.start // 2 : (rows.stop + 1) // 2] = vectors[:, ::2, ::2]
    gloss = materials.gloss.take(material[::2, ::2])
    light = np.empty((6, *gloss.shape), np.float32)
    for top in range(0, len(gloss), _LIGHT_ROWS):
        lines = slice(top, top + _LIGHT_ROWS)
        point, normal, to_eye = coarse[:, :, lines]
        light[:, lines] = _light(illumination, point, normal, to_eye, gloss[lines])
    reflectance, radiance = np.empty((height, width), np.float32), albedo
    for rows in strips:
        reflectance[rows] = albedo[:, rows].mean(axis=0)
        # Its last row may need the light of the row below.
        fine = _light_between(light[:, rows.start // 2 : rows.stop // 2 + 1], face[rows.start : rows.stop + 1])
        for channel in range(3):
            received = fine[channel, : rows.stop - rows.start]
            received *= np.float32(1 / np.pi)
            received += materials.glow[:, channel].take(material[rows])
            radiance[channel, rows] *= received
            radiance[channel, rows] += fine[3 + channel, : rows.stop - rows.start]
    return Picture(radiance, hits.t, facing, materials.infrared.take(material), reflectance)


def _light(
    illumination: Illumination, point: np.ndarray, normal: np.ndarray, to_eye: np.ndarray, gloss: np.ndarray
) -> np.ndarray:
    """(6, H, W): irradiance and specular radiance at each of the points."""
    light = direct(illumination, point, normal, to_eye, gloss)
    around = bounced(illumination, normal)
    around *= openness(illumination, point, normal)
    light[:3] += around
    return light


def _light_between(light: np.ndarray, face: np.ndarray) -> np.ndarray:
    """(c, H, W) from (c, (H + 1) // 2, (W + 1) // 2) values of the even rows and columns.

    Light changes slowly over one face, so the pixels between take it from neighbours on their own face.
    """
    height, width = face.shape
    wide = np.empty((len(light), len(light[0]), width), np.float32)
    _fill_between(light, face[::2], wide)
    tall = np.empty((len(light), height, width), np.float32)
    _fill_between(wide.swapaxes(1, 2), face.T, tall.swapaxes(1, 2))
    return tall


def _fill_between(values: np.ndarray, face: np.ndarray, result: np.ndarray) -> None:
    """(c, H, W) `result` from (c, H, (W + 1) // 2) values of the even columns; `face` (H, W) tells which mix."""
    result[:, :, ::2] = values
    between = face[:, 1::2]
    left, right = values[:, :, : between.shape[1]], values[:, :, 1:]
    if right.shape[2] < left.shape[2]:
        right = np.concatenate([right, left[:, :, -1:]], axis=2)
    on_left = face[:, ::2][:, : between.shape[1]] == between
    on_right = np.zeros_like(on_left)
    on_right[:, : face[:, 2::2].shape[1]] = face[:, 2::2] == between[:, : face[:, 2::2].shape[1]]
    share = np.where(on_left == on_right, np.float32(0.5), on_right.astype(np.float32))
    mixed = right - left
    mixed *= share
    mixed += left
    result[:, :, 1::2] = mixed


def _surface(scene: Scene, frame: _PatternFrame, number: np.ndarray, point: np.ndarray) -> _Surface:
    """Of the solids `number` (H, W) at `point` (3, H, W)."""
    table = scene.solids
    cos, sin = table.cos.take(number), table.sin.take(number)
    x, y, z = (point[axis] - table.centre[:, axis].take(number) for axis in range(3))
    local = [x * cos + y * sin, y * cos - x * sin, z]
    along, sign = _box_faces(table, number, local)
    curved = np.flatnonzero(table.kind.take(number) >= Kind.ELLIPSOID)
    along.ravel()[curved] = sign.ravel()[curved] = 0
    face = number * FACES
    face += sign
    face += 2 * along
    normal = np.stack([axis.take(face) for axis in frame.normal])
    across, up = (_chosen(axis.take(face), local) for axis in (frame.across, frame.up))
    if len(curved):
        curved_number, curved_local = number.ravel()[curved], [axis.ravel()[curved] for axis in local]
        normal.reshape(3, -1)[:, curved] = _curved_normals(table, curved_number, curved_local)
        # Around a curved solid the pattern follows the circumference.
        radius = table.extent[:, 0].take(curved_number)
        across.ravel()[curved] = np.arctan2(curved_local[1], curved_local[0]) * radius
        up.ravel()[curved] = curved_local[2]
    across *= frame.u_per_m.take(face)
    across += frame.u_start.take(face)
    up *= frame.v_per_m.take(face)
    return _Surface(
        normal=normal,
        face=face,
        material=table.material.ravel().take(face),
        u=across,
        v=frame.v_start.take(face) - up,
        tiles_per_m=frame.tiles_per_m.take(face),
    )


def _chosen(axis: np.ndarray, local: list[np.ndarray]) -> np.ndarray:
    """np.choose, which takes five times as long."""
    chosen = local[2].copy()
    np.copyto(chosen, local[1], where=axis == 1)
    np.copyto(chosen, local[0], where=axis == 0)
    return chosen


def _box_faces(table: SolidTable, number: np.ndarray, local: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The axis (0..2) and the side (0, 1) of the face that each point of a box lies on."""
    inverse = 1 / table.half
    reach = [np.abs(axis) * inverse[:, k].take(number) for k, axis in enumerate(local)]
    along = (reach[0] <= reach[1]).astype(np.intp)
    along[reach[2] > np.maximum(reach[0], reach[1])] = 2
    return along, (_chosen(along, local) > 0).astype(np.intp)


def _box_normals(table: SolidTable) -> np.ndarray:
    """(3, n * FACES) outward normal of every face of every box, for the room (number 0) inward."""
    side = np.tile(np.array([-1, 1], np.float32), (len(table), 1))
    side[table.kind == Kind.ROOM] *= -1
    normal = np.zeros((3, len(table), 3, 2), np.float32)
    cos, sin = table.cos[:, None], table.sin[:, None]
    normal[0, :, 0], normal[1, :, 0] = side * cos, side * sin
    normal[0, :, 1], normal[1, :, 1] = -side * sin, side * cos
    normal[2, :, 2] = side
    return normal.reshape(3, -1)


def _curved_normals(table: SolidTable, number: np.ndarray, local: list[np.ndarray]) -> np.ndarray:
    """(3, k) outward normals of ellipsoids and frustums, turned into the world."""
    half = table.half[number]
    ellipsoid = table.kind[number] == Kind.ELLIPSOID
    bottom, top, h = half.T
    slope = (top - bottom) / (2 * h)
    radius = np.hypot(local[0], local[1])
    cap = ~ellipsoid & (np.abs(local[2]) > h - np.float32(1e-4))
    x = np.where(ellipsoid, local[0] / half[:, 0] ** 2, np.where(cap, 0, local[0]))
    y = np.where(ellipsoid, local[1] / half[:, 1] ** 2, np.where(cap, 0, local[1]))
    z = np.where(ellipsoid, local[2] / half[:, 2] ** 2, np.where(cap, np.sign(local[2]), -slope * radius))
    length = np.sqrt(x * x + y * y + z * z)
    x, y, z = x / length, y / length, z / length
    cos, sin = table.cos[number], table.sin[number]
    return np.stack([x * cos - y * sin, x * sin + y * cos, z])


@dataclass(frozen=True)
class _PatternFrame:
    """For every face of every solid, (n * FACES,): which own axes u and v follow, how fast, and from where."""

    across: np.ndarray
    up: np.ndarray
    u_per_m: np.ndarray
    v_per_m: np.ndarray
    u_start: np.ndarray
    v_start: np.ndarray
    tiles_per_m: np.ndarray
    normal: np.ndarray
    """(3, n * FACES) of boxes"""


def _pattern_frame(scene: Scene) -> _PatternFrame:
    table = scene.solids
    solid = np.arange(len(table))[:, None]
    tile_m = scene.materials.tile_m[table.material]
    across, up = (np.tile(np.repeat([pair[side] for pair in _ACROSS], 2), (len(table), 1)) for side in (0, 1))
    # Wood and cloth run along the longest side of a piece. Walls and whole pictures stay upright.
    longest = np.argmax(table.extent, axis=1)[:, None]
    turned = (up == longest) & (tile_m > 0) & (table.kind[:, None] != Kind.ROOM)
    across, up = np.where(turned, up, across), np.where(turned, across, up)
    fitted = tile_m == 0
    tiles = 1 / np.where(fitted, 1, tile_m)
    u_per_m = np.where(fitted, 0.5 / table.half[solid, across], tiles)
    v_per_m = np.where(fitted, 0.5 / table.half[solid, up], tiles)
    # Solids of one material must not all begin its pattern at the same place.
    start = np.where(fitted, 0.5, 0.37 * solid % 1)
    u_per_m, v_per_m, start = (rate.astype(np.float32).ravel() for rate in (u_per_m, v_per_m, start))
    return _PatternFrame(
        across=across.ravel(),
        up=up.ravel(),
        u_per_m=u_per_m,
        v_per_m=v_per_m,
        u_start=start,
        v_start=start,
        tiles_per_m=np.maximum(u_per_m, v_per_m),
        normal=_box_normals(table),
    )


def _look_up(materials: MaterialTable, surface: _Surface, pixel_m: np.ndarray, albedo: np.ndarray) -> None:
    """Linear reflectance into (3, H, W): bilinear in the level whose texel is nearest to the pixel's footprint."""
    tiles = materials.tiles
    texture = materials.texture.take(surface.material)
    tiles.paint(np.bincount(texture.ravel(), minlength=len(tiles.coloured)) > 0)
    texels = pixel_m * surface.tiles_per_m
    texels *= np.float32(textures.SIZE)
    level = np.clip(np.rint(np.log2(np.maximum(texels, 1))), 0, textures.LEVELS - 1).astype(np.intp)
    size = _LEVEL_SIZE.take(level)
    texels_per_tile = size.astype(np.float32)
    start = texture * textures.TEXELS + textures.LEVEL_START.take(level)
    x, y = surface.u * texels_per_tile - np.float32(0.5), surface.v * texels_per_tile - np.float32(0.5)
    left, top = np.floor(x), np.floor(y)
    right_part, bottom_part = x - left, y - top
    mask = size - 1
    columns = [left.astype(np.intp), left.astype(np.intp) + 1]
    rows = [top.astype(np.intp), top.astype(np.intp) + 1]
    for column, row in zip(columns, rows, strict=True):
        column &= mask
        row &= mask
        row *= size
        row += start
    corners = [
        (row + column, row_part * part)
        for row, row_part in zip(rows, (1 - bottom_part, bottom_part), strict=True)
        for column, part in zip(columns, (1 - right_part, right_part), strict=True)
    ]
    _blend(tiles.texels[0], corners, albedo[0])
    # Most tiles are grey; only the others have two more planes.
    coloured = np.flatnonzero(tiles.coloured.take(texture))
    picked = [(place.ravel().take(coloured), part.ravel().take(coloured)) for place, part in corners]
    blended = np.empty(len(coloured), np.float32)
    for channel in (1, 2):
        albedo[channel] = albedo[0]
        _blend(tiles.texels[channel], picked, blended)
        albedo[channel].reshape(-1)[coloured] = blended
    albedo *= np.float32(1 / 255)
    albedo *= albedo
    for channel in range(3):
        albedo[channel] *= materials.tint[:, channel].take(surface.material)


_LEVEL_SIZE = textures.SIZE >> np.arange(textures.LEVELS)


def _blend(texels: np.ndarray, corners: list[tuple[np.ndarray, np.ndarray]], result: np.ndarray) -> None:
    for number, (place, part) in enumerate(corners):
        if number == 0:
            np.multiply(texels.take(place), part, out=result)
        else:
            result += texels.take(place) * part
