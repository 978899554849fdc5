"""The pinhole camera, and the one that took NYU Depth v2."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Pinhole:
    """In pixels of its image: pixel (row, column) looks along ((column - cx) / fx, (row - cy) / fy, 1).

    Pixel centres stand at whole numbers, the first at 0, as in NYU's toolbox and OpenCV.
    """

    fx: float
    fy: float
    cx: float
    cy: float

    @staticmethod
    def from_field_of_view(degrees: float, side: int, size: tuple[int, int]) -> Pinhole:
        """Square pixels, and an image of this (height, width), centred, whose `side` in pixels is seen at
        `degrees`."""
        focal = side / 2 / math.tan(math.radians(degrees) / 2)
        return Pinhole(focal, focal, (size[1] - 1) / 2, (size[0] - 1) / 2)

    def resized(self, size: tuple[int, int], new: tuple[int, int]) -> Pinhole:
        """Of the same image at another (height, width)."""
        down, across = new[0] / size[0], new[1] / size[1]
        return Pinhole(
            self.fx * across,
            self.fy * down,
            (self.cx + 0.5) * across - 0.5,
            (self.cy + 0.5) * down - 0.5,
        )


NYU_SIZE = (480, 640)
"""(height, width)"""
NYU = Pinhole(518.858, 519.470, 325.582, 253.736)
"""The colour camera of NYU Depth v2 in images of `NYU_SIZE`, by its toolbox."""
