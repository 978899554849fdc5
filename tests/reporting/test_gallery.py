"""Frames of the page: by rank, on one scale, small."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
from PIL import Image

from pipeline.reporting.gallery import TILE_PX, gallery
from tests.reporting.toy import predictions


def picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_missing_pixels_stay_grey_when_a_map_is_shrunk() -> None:
    full_size = predictions(("best",), (480, 640))
    full_size.depth_mm[..., :240, :] = 0
    truth = gallery(full_size).groups[0].frames[0].tiles[1]
    painted = np.asarray(picture(truth.uri).convert("RGB"))
    height, width = painted.shape[:2]
    assert (width, height) == (TILE_PX, TILE_PX * 480 // 640)
    assert len(np.unique(painted[: height // 2].reshape(-1, 3), axis=0)) == 1
    red, green, blue = (int(channel) for channel in painted[0, 0])
    assert max(red, green, blue) - min(red, green, blue) < 16


def test_photographs_are_webp_and_maps_lossless_palettes() -> None:
    tiles = gallery(predictions(("best",))).groups[0].frames[0].tiles
    assert [(tile.kind, picture(tile.uri).format, picture(tile.uri).mode) for tile in tiles] == [
        ("image", "WEBP", "RGB"),
        ("truth", "PNG", "P"),
        ("prediction", "PNG", "P"),
        ("error", "PNG", "P"),
    ]


def test_a_photograph_keeps_its_colours() -> None:
    plain = predictions(("best",))
    plain.rgb_u8[:] = np.array([200, 90, 30], np.uint8)[:, None, None]
    shown = np.asarray(picture(gallery(plain).groups[0].frames[0].tiles[0].uri).convert("RGB")).astype(int)
    assert np.abs(shown - [200, 90, 30]).max() <= 4


def test_the_first_screen_shows_one_frame_of_each_rank_and_of_the_worst_the_worst() -> None:
    given = predictions(("best", "best", "median", "worst", "worst"))
    shown = gallery(given)
    assert [(frame.rank, frame.rmse) for frame in shown.thumbnails] == [
        ("Best", 0.2),
        ("Median", 2.2),
        ("Worst", 4.2),
    ]
    assert [(group.name, len(group.frames)) for group in shown.groups] == [("Best", 2), ("Median", 1), ("Worst", 2)]
    by_lot = gallery(predictions(("best", "worst", "fixed", "fixed")))
    assert [(group.name, len(group.frames)) for group in by_lot.groups] == [
        ("Best", 1),
        ("Worst", 1),
        ("By lot", 2),
    ]
    assert [frame.rank for frame in by_lot.thumbnails] == ["Best", "Worst"], "they stand for no rank"
    without = gallery(replace(given, frames=[{**frame, "rank": "best"} for frame in given.frames]))
    assert [frame.rank for frame in without.thumbnails] == ["Best"]
