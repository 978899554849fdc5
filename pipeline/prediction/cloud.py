"""Depth maps as coloured point clouds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.files import written_whole

FIELD_OF_VIEW = 2 * math.degrees(math.atan(320 / 518.857901))
"""63.3 degrees, horizontally, of the camera that took NYU Depth v2 (its toolbox's fx at 640 pixels): depth that was
learned there supposes it. An upright photo of the same lens has it vertically."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera in pixels of its image; the centre of the first pixel is 0, as in NYU's toolbox and
    OpenCV."""

    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def from_field_of_view(cls, degrees: float, side: int, size: tuple[int, int]) -> Camera:
        """Square pixels, and an image of this (height, width), centred, whose `side` in pixels is seen at
        `degrees`."""
        focal = side / 2 / math.tan(math.radians(degrees) / 2)
        return cls(focal, focal, (size[1] - 1) / 2, (size[0] - 1) / 2)

    def resized(self, size: tuple[int, int], new: tuple[int, int]) -> Camera:
        """Of the same image at another (height, width)."""
        down, across = new[0] / size[0], new[1] / size[1]
        return Camera(
            self.fx * across,
            self.fy * down,
            (self.cx + 0.5) * across - 0.5,
            (self.cy + 0.5) * down - 0.5,
        )


def point_cloud(depth_m: np.ndarray, camera: Camera) -> np.ndarray:
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
