"""Depth maps as coloured point clouds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from pipeline.data.camera import NYU, NYU_SIZE, Pinhole
from pipeline.files import written_whole

FIELD_OF_VIEW = 2 * math.degrees(math.atan(NYU_SIZE[1] / 2 / NYU.fx))
"""63.3 degrees, horizontally, of the camera that took NYU Depth v2: depth that was learned there supposes it. An
upright photo of the same lens has it vertically."""


def point_cloud(depth_m: np.ndarray, camera: Pinhole) -> np.ndarray:
    """(H, W) metres to (H * W, 3) float32 positions in metres: x to the right, y up, z towards the viewer.

    Viewers show that upright; the depth is -z. x = (column - cx) * depth / fx, and y likewise.
    """
    height, width = depth_m.shape
    across = (np.arange(width) - camera.cx) / camera.fx
    up = (camera.cy - np.arange(height)) / camera.fy
    points_m = np.stack([across * depth_m, up[:, None] * depth_m, -depth_m], axis=-1)
    return points_m.reshape(-1, 3).astype(np.float32)


def write_ply(path: Path, points_m: np.ndarray, rgb_u8: np.ndarray) -> None:
    """Write (n, 3) positions and (n, 3) colours as binary little-endian PLY."""
    fields = [(axis, "<f4") for axis in "xyz"] + [(colour, "u1") for colour in ("red", "green", "blue")]
    vertices = np.empty(len(points_m), fields)
    for axis, values in zip("xyz", points_m.T, strict=True):
        vertices[axis] = values
    for colour, values in zip(("red", "green", "blue"), rgb_u8.reshape(-1, 3).T, strict=True):
        vertices[colour] = values
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment metres; x to the right, y up, z towards the viewer; depth = -z",
        f"element vertex {len(vertices)}",
        *(f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, kind in fields),
        "end_header",
    ]
    with written_whole(path) as partial, partial.open("wb") as file:
        file.write(("\n".join(header) + "\n").encode("ascii"))
        vertices.tofile(file)
