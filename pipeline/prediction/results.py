"""What is written for an image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.data.camera import Pinhole
from pipeline.data.pixels import to_millimetres
from pipeline.files import write_json, written_whole
from pipeline.prediction.cloud import FIELD_OF_VIEW, point_cloud, write_ply
from pipeline.prediction.estimator import enlarged
from pipeline.prediction.images import Photo
from pipeline.prediction.inputs import FACTS, OF_IMAGES, ending
from pipeline.prediction.pictures import colour_depth, side_by_side

SHOWN_PIXELS = 2**20
"""The most that the photo has in the side-by-side picture, and points in a cloud. The network sees 19,200."""


@dataclass(frozen=True)
class Wanted:
    """What is to be written of each image."""

    npy: bool = False
    ply: bool = False
    camera: Pinhole | None = None
    """in pixels of the image; None if a field of view is given, or nothing"""
    field_of_view: float | None = None
    """horizontal, in degrees; None for that of NYU's camera along the longer side"""
    range_m: tuple[float, float] | None = None
    """what the colours stand for; None for each image's own range"""

    @property
    def camera_from(self) -> str:
        return "camera" if self.camera is not None else "fov" if self.field_of_view is not None else "assumed"

    def camera_of(self, size: tuple[int, int]) -> Pinhole:
        if self.camera is not None:
            return self.camera
        if self.field_of_view is not None:
            return Pinhole.from_field_of_view(self.field_of_view, size[1], size)
        return Pinhole.from_field_of_view(FIELD_OF_VIEW, max(size), size)


def shown_photo(photo: Photo, pixels: int = SHOWN_PIXELS) -> Image.Image:
    """The photo with `pixels` at most, for looking at it."""
    height, width = photo.size
    share = min(1.0, math.sqrt(pixels / (height * width)))
    shown = (max(1, math.floor(width * share)), max(1, math.floor(height * share)))
    return photo.rgb if shown == photo.rgb.size else photo.rgb.resize(shown, Image.Resampling.LANCZOS)


def range_of(depth_m: np.ndarray) -> tuple[float, float]:
    return float(depth_m.min()), float(depth_m.max())


def write_results(
    name: Path, shown: Image.Image, size: tuple[int, int], small_m: Tensor, wanted: Wanted, facts: dict[str, Any]
) -> None:
    """Write an image's depth in all its forms, the JSON last.

    name: path to which each file adds its ending. shown: the photo, reduced. size: (height, width) of the image.
    small_m: (h, w) metres as the network gave them. facts: what the JSON says beside.
    """
    depth_m = enlarged(small_m, size)
    low_m, high_m = range_of(depth_m)
    near_m, far_m = wanted.range_m or (low_m, high_m)
    shown_m = enlarged(small_m, (shown.height, shown.width))
    kinds = ["depth_mm", "colours", "side_by_side", *["depth_m"] * wanted.npy, *["cloud"] * wanted.ply]
    written = {kind: ending(name, OF_IMAGES[kind]) for kind in kinds}
    with written_whole(written["depth_mm"]) as partial:
        depth_picture(depth_m).save(partial, format="PNG")
    with written_whole(written["colours"]) as partial:
        Image.fromarray(colour_depth(depth_m, near_m, far_m)).save(partial, format="PNG")
    with written_whole(written["side_by_side"]) as partial:
        side_by_side(shown, shown_m, near_m, far_m).save(partial, format="JPEG", quality=92)
    camera = wanted.camera_of(size)
    if wanted.npy:
        with written_whole(written["depth_m"]) as partial, partial.open("wb") as file:
            np.save(file, depth_m)
    if wanted.ply:
        points_m = point_cloud(shown_m, camera.resized(size, (shown.height, shown.width)))
        write_ply(written["cloud"], points_m, np.asarray(shown))
    content = {
        "width": size[1],
        "height": size[0],
        "depth": {"min": low_m, "median": float(np.median(depth_m)), "max": high_m, "unit": "metre"},
        "depth_png": {"unit": "millimetre", "missing": 0},
        "colours": {"near": near_m, "far": far_m, "unit": "metre"},
        "camera": vars(camera) | {"unit": "pixel", "from": wanted.camera_from},
        "files": {kind: path.name for kind, path in written.items()},
    }
    write_json(ending(name, FACTS), facts | content)


def depth_picture(depth_m: np.ndarray) -> Image.Image:
    """16-bit millimetres, 0 = missing."""
    return Image.fromarray(to_millimetres(torch.from_numpy(depth_m)).numpy().astype(np.uint16))
