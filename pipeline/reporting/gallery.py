"""Test frames by rank: image, truth, prediction and error, on one depth and one error scale for the whole page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.reporting.colours import (
    ColourScale,
    depth_scale,
    error_scale,
    missing_as_nan,
    signed_error_m,
    tick_labels,
)
from pipeline.reporting.inputs import Predictions
from pipeline.reporting.pictures import tile_size, tile_uri

PICTURE_COLUMNS = ("RGB", "True depth", "Predicted depth", "Error")
TILE_PX = 360
"""Width of a frame in the page; NYU's 640 pixels would triple it."""
THUMBNAIL_PX = 200

RANKS = (
    ("best", "Best", "lowest RMSE of all test frames"),
    ("median", "Median", "as many frames better as worse"),
    ("worst", "Worst", "highest RMSE of all test frames"),
)
BY_LOT = (
    "fixed",
    "By lot",
    "drawn by their names whatever the errors: the same in every report of these test frames",
)


@dataclass(frozen=True)
class Tile:
    kind: str
    """`image`, `truth`, `prediction` or `error`"""
    caption: str
    alt: str
    uri: str


@dataclass(frozen=True)
class GalleryFrame:
    title: str
    rank: str
    rmse: float | None
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class GalleryGroup:
    name: str
    meaning: str
    frames: Sequence[GalleryFrame]


@dataclass(frozen=True)
class ColourBar:
    label: str
    gradient: str
    ticks: Sequence[tuple[float, str]]
    """(percent of the bar's length, label)"""


@dataclass(frozen=True)
class Gallery:
    """Frames by rank, ranks without frames left out; one depth and one error scale for all of them."""

    groups: Sequence[GalleryGroup]
    thumbnails: Sequence[GalleryFrame]
    """the first frame of each rank by error, small"""
    bars: Sequence[ColourBar]
    tile_size: tuple[int, int]
    thumbnail_size: tuple[int, int]


def page_scale(predictions: Predictions) -> ColourScale:
    """The one scale of all depth maps of a page."""
    return depth_scale(predictions.depth_m, predictions.prediction_m)


def gallery(predictions: Predictions) -> Gallery:
    depth_m, prediction_m = predictions.depth_m, predictions.prediction_m
    errors_m = signed_error_m(prediction_m, depth_m)
    depths, errors = page_scale(predictions), error_scale(errors_m)

    def shown(index: int, rank: str, width_px: int) -> GalleryFrame:
        frame = predictions.frames[index]
        images = (
            Image.fromarray(predictions.rgb_u8[index].transpose(1, 2, 0)),
            depths.paint(missing_as_nan(depth_m[index, 0])),
            depths.paint(missing_as_nan(prediction_m[index, 0])),
            errors.paint(errors_m[index, 0]),
        )
        kinds = ("image", "truth", "prediction", "error")
        tiles = [
            Tile(kind, caption, f"{caption} of test frame {frame['frame']}", tile_uri(image, width_px))
            for kind, caption, image in zip(kinds, PICTURE_COLUMNS, images, strict=True)
        ]
        return GalleryFrame(f"Frame {frame['frame']}, {frame['scene']}", rank, frame["rmse"], tiles)

    groups, thumbnails = [], []
    for rank, name, meaning in (*RANKS, BY_LOT):
        members = [index for index, frame in enumerate(predictions.frames) if frame["rank"] == rank]
        if members:
            groups.append(GalleryGroup(name, meaning, [shown(index, name, TILE_PX) for index in members]))
            if rank == BY_LOT[0]:
                continue
            # Of the worst the worst, of the best the best: both ends stand at theirs of the list.
            first = max(members, key=lambda index: _rmse(predictions, index)) if rank == "worst" else members[0]
            thumbnails.append(shown(first, name, THUMBNAIL_PX))
    height, width = predictions.rgb_u8.shape[-2:]
    return Gallery(
        groups,
        thumbnails,
        (colour_bar("Depth (m)", depths), colour_bar("Predicted – true depth (m)", errors)),
        tile_size(width, height, TILE_PX),
        tile_size(width, height, THUMBNAIL_PX),
    )


def _rmse(predictions: Predictions, index: int) -> float:
    rmse = predictions.frames[index]["rmse"]
    return float("-inf") if rmse is None or np.isnan(rmse) else float(rmse)


def colour_bar(label: str, scale: ColourScale) -> ColourBar:
    places = [100 * (tick - scale.low_m) / (scale.high_m - scale.low_m) for tick in scale.ticks_m()]
    return ColourBar(label, scale.css_gradient(), list(zip(places, tick_labels(scale), strict=True)))
