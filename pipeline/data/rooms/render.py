"""One picture of a scene: linear radiance and exact depth."""

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


def render(scene: Scene, illumination: Illumination, camera: Intrinsics, pose: Pose) -> Picture:
    """The picture as an ideal pinhole camera would see it."""
    direction = ray_directions(camera, pose)
    hits = see(scene.solids, camera, pose, direction)
    point = pose.position.astype(np.float32)[:, None, None] + direction * hits.t
    surface = _surface(scene, hits, point)
    to_eye = -direction / np.sqrt(direction[0] ** 2 + direction[1] ** 2 + direction[2] ** 2)
    facing = np.maximum(np.einsum("khw,khw->hw", surface.normal, to_eye), 0)
    materials = scene.materials
    # A pixel covers t / fx metres across the view and more along a slanted surface; the square root is the
    # compromise between blur and shimmer that a tile without anisotropic levels has to make.
    pixel_m = hits.t / np.float32(camera.fx) / np.sqrt(np.maximum(facing, np.float32(0.05)))
    albedo = _look_up(materials, surface, pixel_m)
    diffuse, specular = _light(illumination, materials, surface, point, to_eye)
    glow = materials.glow.take(surface.material, axis=0).transpose(2, 0, 1)
    radiance = albedo * (diffuse * np.float32(1 / np.pi) + glow) + specular
    infrared = materials.infrared.take(surface.material)
    return Picture(radiance, hits.t, facing, infrared, albedo.mean(axis=0))


def _light(
    illumination: Illumination,
    materials: MaterialTable,
    surface: _Surface,
    point: np.ndarray,
    to_eye: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(3, H, W) irradiance and (3, H, W) specular radiance, worked out at every second row and column.

    Light changes slowly over one face, so the pixels between take it from neighbours on their own face.
    """
    point, normal, to_eye = (field[:, ::2, ::2] for field in (point, surface.normal, to_eye))
    gloss = materials.gloss.take(surface.material[::2, ::2])
    diffuse, specular = direct(illumination, point, normal, to_eye, gloss)
    diffuse += bounced(illumination, normal) * openness(illumination, point, normal)
    coarse = np.concatenate([diffuse, specular])
    wide = _filled_between(coarse, surface.face[::2])
    tall = _filled_between(wide.transpose(0, 2, 1), surface.face.T)
    fine = np.ascontiguousarray(tall.transpose(0, 2, 1))
    return fine[:3], fine[3:]


def _filled_between(values: np.ndarray, face: np.ndarray) -> np.ndarray:
    """(c, H, W) from (c, H, (W + 1) // 2) values of the even columns; `face` (H, W) tells which may mix."""
    height, width = face.shape
    result = np.empty((len(values), height, width), values.dtype)
    result[:, :, ::2] = values
    between = face[:, 1::2]
    left, right = values[:, :, : between.shape[1]], values[:, :, 1:]
    if right.shape[2] < left.shape[2]:
        right = np.concatenate([right, left[:, :, -1:]], axis=2)
    on_left = face[:, ::2][:, : between.shape[1]] == between
    on_right = np.zeros_like(on_left)
    on_right[:, : face[:, 2::2].shape[1]] = face[:, 2::2] == between[:, : face[:, 2::2].shape[1]]
    share = np.where(on_left == on_right, np.float32(0.5), on_right.astype(np.float32))
    result[:, :, 1::2] = left + (right - left) * share
    return result


def _surface(scene: Scene, hits: Hits, point: np.ndarray) -> _Surface:
    table, number = scene.solids, hits.solid
    cos, sin = table.cos.take(number), table.sin.take(number)
    x, y, z = (point[axis] - table.centre[:, axis].take(number) for axis in range(3))
    local = [x * cos + y * sin, y * cos - x * sin, z]
    along, sign = _box_faces(table, number, local)
    curved = table.kind.take(number) >= Kind.ELLIPSOID
    along[curved] = sign[curved] = 0
    normal = _box_normals(number, along, sign, cos, sin)
    curved_number, curved_local = number[curved], [axis[curved] for axis in local]
    normal[:, curved] = _curved_normals(table, curved_number, curved_local)
    face = number * FACES + 2 * along + sign
    frame = _pattern_frame(scene)
    across = np.choose(frame.across.take(face), local)
    up = np.choose(frame.up.take(face), local)
    # Around a curved solid the pattern follows the circumference.
    radius = table.extent[:, 0].take(curved_number)
    across[curved] = np.arctan2(curved_local[1], curved_local[0]) * radius
    up[curved] = curved_local[2]
    return _Surface(
        normal=normal,
        face=face,
        material=table.material.ravel().take(face),
        u=across * frame.u_per_m.take(face) + frame.u_start.take(face),
        v=frame.v_start.take(face) - up * frame.v_per_m.take(face),
        tiles_per_m=np.maximum(frame.u_per_m, frame.v_per_m).take(face),
    )


def _box_faces(table: SolidTable, number: np.ndarray, local: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The axis (0..2) and the side (0, 1) of the face that each point of a box lies on."""
    inverse = 1 / table.half
    reach = [np.abs(axis) * inverse[:, k].take(number) for k, axis in enumerate(local)]
    along = np.where(reach[0] > reach[1], 0, 1)
    along = np.where(reach[2] > np.maximum(reach[0], reach[1]), 2, along)
    return along, (np.choose(along, local) > 0).astype(np.intp)


def _box_normals(
    number: np.ndarray, along: np.ndarray, sign: np.ndarray, cos: np.ndarray, sin: np.ndarray
) -> np.ndarray:
    """(3, H, W) outward, for the room (number 0) inward."""
    side = (2 * sign - 1).astype(np.float32)
    side = np.where(number == 0, -side, side)
    on_x, on_y = np.where(along == 0, side, 0), np.where(along == 1, side, 0)
    return np.stack([on_x * cos - on_y * sin, on_x * sin + on_y * cos, np.where(along == 2, side, 0)])


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
    """For every face of every solid, (n * FACES,): which own axes u and v follow, how fast, from where."""

    across: np.ndarray
    up: np.ndarray
    u_per_m: np.ndarray
    v_per_m: np.ndarray
    u_start: np.ndarray
    v_start: np.ndarray


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
    return _PatternFrame(
        across.ravel(), up.ravel(), *(f.astype(np.float32).ravel() for f in (u_per_m, v_per_m, start, start))
    )


def _look_up(materials: MaterialTable, surface: _Surface, pixel_m: np.ndarray) -> np.ndarray:
    """(3, H, W) linear reflectance: bilinear in the level whose texel is nearest to the pixel's footprint."""
    texels = pixel_m * surface.tiles_per_m * np.float32(textures.SIZE)
    level = np.clip(np.rint(np.log2(np.maximum(texels, 1))), 0, textures.LEVELS - 1).astype(np.intp)
    size = textures.SIZE >> level
    texels_per_tile = size.astype(np.float32)
    start = materials.texture.take(surface.material) * textures.TEXELS + textures.LEVEL_START.take(level)
    x, y = surface.u * texels_per_tile - np.float32(0.5), surface.v * texels_per_tile - np.float32(0.5)
    left, top = np.floor(x), np.floor(y)
    right_part, bottom_part = x - left, y - top
    columns = [(left.astype(np.intp) + step) & (size - 1) for step in (0, 1)]
    rows = [start + ((top.astype(np.intp) + step) & (size - 1)) * size for step in (0, 1)]
    albedo = np.zeros((*level.shape, 3), np.float32)
    for row, row_part in zip(rows, (1 - bottom_part, bottom_part), strict=True):
        for column, part in zip(columns, (1 - right_part, right_part), strict=True):
            albedo += materials.texels.take(row + column, axis=0) * (row_part * part)[..., None]
    albedo *= np.float32(1 / 255)
    albedo *= albedo
    albedo *= materials.tint.take(surface.material, axis=0)
    return albedo.transpose(2, 0, 1)
