"""Units, the white frame and resizing, against block means and rounding in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.pixels import (
    drop_border,
    fill_border,
    from_millimetres,
    resize_depth,
    resize_rgb,
    to_millimetres,
    to_u8,
    to_unit_rgb,
    training_depth,
    training_rgb,
)


def random_tensor(*shape: int, low: float = 0.0, high: float = 1.0, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32))


def block_mean(array: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Mean of each `rows` x `columns` block of (..., H, W), in float64."""
    *lead, height, width = array.shape
    blocks = array.astype(np.float64).reshape(*lead, height // rows, rows, width // columns, columns)
    return blocks.mean(axis=(-3, -1))


def test_rgb_is_resized_by_the_mean_of_each_block() -> None:
    rgb = random_tensor(2, 3, 12, 20)
    np.testing.assert_allclose(resize_rgb(rgb, (4, 5)).numpy(), block_mean(rgb.numpy(), 3, 4), atol=1e-6)


def test_rgb_of_the_wanted_size_is_left_as_it_is() -> None:
    rgb = random_tensor(1, 3, 7, 9)
    assert torch.equal(resize_rgb(rgb, (7, 9)), rgb)


def test_depth_without_holes_is_resized_by_the_mean_of_each_block() -> None:
    depth_m = random_tensor(2, 1, 12, 20, low=0.5, high=10)
    resized = resize_depth(depth_m, (4, 5)).numpy()
    np.testing.assert_allclose(resized, block_mean(depth_m.numpy(), 3, 4), rtol=1e-6)


def test_missing_depth_neither_pulls_the_mean_down_nor_spreads() -> None:
    depth_m = random_tensor(3, 1, 16, 24, low=0.5, high=10)
    missing = np.random.default_rng(1).random(depth_m.shape) < 0.4
    depth_m[torch.from_numpy(missing)] = 0
    resized = resize_depth(depth_m, (4, 6)).numpy()

    expected = np.zeros(resized.shape)
    for index in np.ndindex(*resized.shape):
        frame, _, row, column = index
        block = depth_m.numpy()[frame, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].astype(float)
        measured = block[block > 0]
        if len(measured) >= 8:
            expected[index] = measured.mean()
    assert (expected == 0).any(), "the case needs blocks that are mostly missing"
    np.testing.assert_allclose(resized, expected, rtol=1e-6)


@pytest.mark.parametrize(("measured", "result_m"), [(7, 0.0), (8, 3.0), (9, 3.0), (16, 3.0)])
def test_a_pixel_of_which_less_than_half_was_measured_is_missing(measured: int, result_m: float) -> None:
    depth_m = torch.zeros(1, 1, 4, 4)
    depth_m.view(-1)[:measured] = 3.0
    assert float(resize_depth(depth_m, (1, 1))) == pytest.approx(result_m)


def test_depth_with_nothing_measured_stays_missing() -> None:
    assert torch.equal(resize_depth(torch.zeros(1, 1, 8, 8), (2, 2)), torch.zeros(1, 1, 2, 2))


@given(st.lists(st.integers(0, 32767), min_size=1, max_size=20))
def test_millimetres_survive_the_way_to_metres_and_back(depth_mm: list[int]) -> None:
    stored = torch.tensor(depth_mm, dtype=torch.int16)
    assert torch.equal(to_millimetres(from_millimetres(stored)), stored)


@given(st.floats(0.001, 32.767))
def test_metres_become_the_nearest_millimetre(depth_m: float) -> None:
    assert abs(int(to_millimetres(torch.tensor([depth_m]))) - 1000 * depth_m) <= 0.5 + 2e-3  # float32 at 32 m


def test_millimetres_are_rounded_not_cut() -> None:
    assert to_millimetres(torch.tensor([1.2346, 1.2344, 9.99547])).tolist() == [1235, 1234, 9995]


@pytest.mark.parametrize("depth_m", [0.0, -1.0, 1e-4, 32.769, 65.536, 1e30, math.inf, -math.inf, math.nan])
def test_depth_that_is_no_measurement_becomes_missing(depth_m: float) -> None:
    assert int(to_millimetres(torch.tensor([depth_m]))) == 0


def test_stored_types_are_int16_millimetres_and_float32_metres() -> None:
    assert to_millimetres(torch.ones(2)).dtype == torch.int16
    assert from_millimetres(torch.ones(2, dtype=torch.int16)).dtype == torch.float32


def test_every_byte_of_rgb_survives_the_way_to_unit_range_and_back() -> None:
    bytes_u8 = torch.arange(256, dtype=torch.uint8)
    rgb = to_unit_rgb(bytes_u8)
    assert (float(rgb.min()), float(rgb.max())) == (0.0, 1.0)
    assert torch.equal(to_u8(rgb), bytes_u8)


def test_a_filled_border_repeats_the_nearest_pixel_inside() -> None:
    images = random_tensor(2, 3, 9, 11)
    inside = images.numpy()[..., 2:-2, 2:-2]
    expected = np.pad(inside, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    np.testing.assert_array_equal(fill_border(images, 2).numpy(), expected)


def test_a_dropped_border_is_missing_and_the_inside_is_kept() -> None:
    depth_m = random_tensor(2, 1, 9, 11, low=0.5, high=10)
    expected = np.zeros(depth_m.shape, np.float32)
    expected[..., 2:-2, 2:-2] = depth_m.numpy()[..., 2:-2, 2:-2]
    np.testing.assert_array_equal(drop_border(depth_m, 2).numpy(), expected)


def test_no_border_changes_nothing() -> None:
    images = random_tensor(1, 3, 5, 6)
    assert torch.equal(fill_border(images, 0), images)
    assert torch.equal(drop_border(images[:, :1], 0), images[:, :1])


SIZES = [
    ((96, 128), (24, 32)),  # blocks of 4 x 4, as from 480 x 640 to 120 x 160
    ((96, 128), (48, 64)),
    ((96, 128), (96, 128)),
    ((64, 128), (32, 16)),
    ((96, 128), (32, 64)),  # three rows, which no power of two is
    ((101, 131), (32, 64)),
]


def frames_of(old: tuple[int, int], *channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Equal random bytes (3, H, W, ...), with the pixels of a frame row by row and column by column in memory."""
    by_rows = np.random.default_rng(0).integers(0, 256, (3, *old, *channels), np.uint8)
    axes = (0, *range(by_rows.ndim - 1, 0, -1))
    return by_rows, np.ascontiguousarray(by_rows.transpose(axes)).transpose(axes)


@pytest.mark.parametrize("border", [0, 4, 5, 8])
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_training_rgb_is_the_filled_and_resized_frame_bit_for_bit(
    old: tuple[int, int], new: tuple[int, int], border: int
) -> None:
    by_rows, by_columns = frames_of(old, 3)
    expected = resize_rgb(fill_border(to_unit_rgb(torch.from_numpy(by_rows).permute(0, 3, 1, 2)), border), new)
    assert torch.equal(training_rgb(by_rows, new, border), expected)
    assert torch.equal(training_rgb(by_columns, new, border), expected)


@pytest.mark.parametrize("holes", ["none", "zeros", "everything that is no depth"])
@pytest.mark.parametrize("border", [0, 4, 5, 8])
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_training_depth_is_the_cropped_and_resized_map_bit_for_bit(
    old: tuple[int, int], new: tuple[int, int], border: int, holes: str
) -> None:
    by_rows, by_columns = (0.5 + codes.astype(np.float32) / 27 for codes in frames_of(old))
    clean = by_rows.copy()
    if holes != "none":
        for depth_m in (by_rows, by_columns):
            depth_m[1] = np.where(depth_m[1] > 6, np.float32(0), depth_m[1])
        clean = by_rows.copy()
    if holes == "everything that is no depth":
        wrong = [math.nan, math.inf, -math.inf, -1.0]
        by_rows[0, 10:14, 20] = by_columns[0, 10:14, 20] = wrong
        clean[0, 10:14, 20] = 0
    expected = resize_depth(drop_border(torch.from_numpy(clean)[:, None], border), new)
    for depth_m in (by_rows, by_columns):
        before = depth_m.copy()
        assert torch.equal(training_depth(depth_m, new, border), expected)
        np.testing.assert_array_equal(depth_m, before)


def test_depths_of_training_size_are_block_means_of_what_was_measured() -> None:
    depth_m = np.random.default_rng(0).uniform(0.5, 10, (2, 16, 24)).astype(np.float32)
    np.testing.assert_allclose(
        training_depth(depth_m, (4, 6), 0).numpy()[:, 0], block_mean(depth_m, 4, 4), rtol=1e-6
    )
