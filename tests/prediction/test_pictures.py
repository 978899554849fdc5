"""Pictures of depth: near is bright, and the legend says how near."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from pipeline.prediction.pictures import colour_depth, legend_picture, side_by_side


def brightness(rgb_u8: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb_u8).convert("L"), float)


def test_near_is_brighter_and_the_ends_of_the_range_are_the_ends_of_the_colours() -> None:
    depth_m = np.linspace(0.5, 9.5, 300, dtype=np.float32)[None]
    grey = brightness(colour_depth(depth_m, 0.5, 9.5))[0]
    assert (np.diff(grey) <= 0).all()
    assert grey[0] - grey[-1] > 150
    ends = np.array([[0.1, 0.5, 9.5, 12]], np.float32)
    colours = colour_depth(ends, 0.5, 9.5)[0]
    palette = colormaps["viridis_r"]
    for colour, wanted in zip(colours, [palette(0), palette(0), palette(255), palette(255)], strict=True):
        np.testing.assert_allclose(colour, 255 * np.array(wanted[:3]), atol=1)


def test_the_same_range_gives_the_same_depth_the_same_colour() -> None:
    one, other = np.array([[1.0, 2.0]], np.float32), np.array([[2.0, 9.0]], np.float32)
    np.testing.assert_array_equal(colour_depth(one, 0, 10)[0, 1], colour_depth(other, 0, 10)[0, 0])


def test_a_flat_map_has_one_colour() -> None:
    colours = colour_depth(np.full((4, 5), 2.5, np.float32), 2.5, 2.5)
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("size", [(60, 81), (61, 80), (1, 1), (700, 500)])
def test_photo_and_depth_stand_beside_each_other_with_even_sides(size: tuple[int, int]) -> None:
    height, width = size
    photo = Image.new("RGB", (width, height), (200, 10, 20))
    depth_m = np.linspace(1, 3, height * width, dtype=np.float32).reshape(size)
    picture = side_by_side(photo, depth_m, 1.0, 3.0)
    assert picture.width % 2 == picture.height % 2 == 0
    pixels = np.array(picture)
    assert (pixels[:height, :width] == (200, 10, 20)).all()
    gap = max(1, round(0.02 * height))
    np.testing.assert_array_equal(pixels[:height, width + gap : 2 * width + gap], colour_depth(depth_m, 1.0, 3.0))


def test_the_legend_has_the_nearest_at_its_foot_and_its_text_is_not_cut_off() -> None:
    legend = np.array(legend_picture(400, 0.5, 10.0))
    bar = brightness(legend)[:, 0]
    assert bar[-1] > bar[0]
    text = (legend.min(axis=2) < 128) & (np.arange(legend.shape[1]) > 20)
    rows = np.flatnonzero(text.any(axis=1))
    assert not text[:, -1].any()
    groups = np.split(rows, np.flatnonzero(np.diff(rows) > 3) + 1)
    assert len(groups) == 5
    heights = [len(group) for group in groups]
    assert max(heights) - min(heights) <= 1
