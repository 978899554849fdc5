"""NYU's camera, where it stands, and which pixels each solid can cover."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.data.camera import NYU, NYU_SIZE, Pinhole
from pipeline.data.rooms.solids import Kind, SolidTable

_EDGES = np.array([(a, a | 1 << axis) for axis in range(3) for a in range(8) if not a >> axis & 1])
_NEAR_M = 0.3
"""Below the 0.5 m that every frame keeps clear, so clipping there loses nothing."""


@dataclass(frozen=True)
class Intrinsics(Pinhole):
    """A pinhole and the size of its images."""

    height: int
    width: int


def nyu_intrinsics(height: int, width: int) -> Intrinsics:
    """NYU's field of view at another size."""
    return Intrinsics(**vars(NYU.resized(NYU_SIZE, (height, width))), height=height, width=width)


@dataclass(frozen=True)
class Pose:
    position: np.ndarray
    """(3,) metres in the world"""
    axes: np.ndarray
    """(3, 3): rows are the camera's right, down and forward in the world"""


def look(position: np.ndarray, yaw: float, pitch: float, roll: float) -> Pose:
    """A pose from angles in radians: yaw from +x about z, pitch up, roll clockwise about the view."""
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    level = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    under = np.cross(forward, level)
    right = np.cos(roll) * level + np.sin(roll) * under
    down = np.cos(roll) * under - np.sin(roll) * level
    return Pose(np.asarray(position, np.float64), np.stack([right, down, forward]))


def ray_directions(camera: Intrinsics, pose: Pose) -> np.ndarray:
    """(3, H, W) float32 in the world, scaled so that the ray parameter is the depth along the view."""
    right, down, forward = (axis.astype(np.float32)[:, None, None] for axis in pose.axes)
    x = ((np.arange(camera.width) - camera.cx) / camera.fx).astype(np.float32)[None, None, :]
    y = ((np.arange(camera.height) - camera.cy) / camera.fy).astype(np.float32)[None, :, None]
    return right * x + (down * y + forward)


def pixel_windows(
    table: SolidTable, camera: Intrinsics, pose: Pose, numbers: np.ndarray | slice = slice(None)
) -> np.ndarray:
    """(k, 4) int (top, bottom, left, right) around each of the solids in the picture; empty if out of sight."""
    points = np.einsum("nci,ki->nck", table.corners[numbers] - pose.position, pose.axes)
    start, stop = points[:, _EDGES[:, 0]], points[:, _EDGES[:, 1]]
    # An edge through the near plane is cut there; one behind it drops out.
    with np.errstate(divide="ignore", invalid="ignore"):
        cut = (_NEAR_M - start[..., 2:]) / (stop[..., 2:] - start[..., 2:])
        crossing = start + cut * (stop - start)
    start_ahead, stop_ahead = start[..., 2:] >= _NEAR_M, stop[..., 2:] >= _NEAR_M
    ends = np.concatenate(
        [
            np.where(start_ahead, start, np.where(stop_ahead, crossing, np.nan)),
            np.where(stop_ahead, stop, np.where(start_ahead, crossing, np.nan)),
        ],
        axis=1,
    )
    seen = ~np.isnan(ends[..., 2]).all(axis=1)
    ends[~seen] = 1.0
    column = camera.fx * ends[..., 0] / ends[..., 2] + camera.cx
    row = camera.fy * ends[..., 1] / ends[..., 2] + camera.cy
    windows = np.stack(
        [
            np.clip(np.floor(np.nanmin(row, 1)), 0, camera.height),
            np.clip(np.ceil(np.nanmax(row, 1)) + 1, 0, camera.height),
            np.clip(np.floor(np.nanmin(column, 1)), 0, camera.width),
            np.clip(np.ceil(np.nanmax(column, 1)) + 1, 0, camera.width),
        ],
        axis=1,
    ).astype(np.intp)
    windows[~seen] = 0
    # The room surrounds the camera.
    windows[table.kind[numbers] == Kind.ROOM] = (0, camera.height, 0, camera.width)
    return windows
