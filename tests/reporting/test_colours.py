"""Metres as colours: scales that cover what they show, and missing pixels that look like no depth."""

from __future__ import annotations

import matplotlib
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reporting import colours


@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=30))
@settings(deadline=None)
def test_the_depth_scale_covers_all_valid_depths_and_no_missing_one(depths: list[float]) -> None:
    truth_m = np.array([0.0, *depths], dtype=np.float32)
    scale = colours.depth_scale(truth_m, truth_m[::-1])
    assert scale.low_m <= truth_m[1:].min()
    assert scale.high_m >= truth_m.max()
    assert scale.ticks_m()[0] == scale.low_m
    assert scale.ticks_m()[-1] == scale.high_m
    assert scale.high_m - scale.low_m <= max(truth_m.max() - truth_m[1:].min() + 1, 0.5)


def test_the_depth_scale_of_nothing_is_that_of_the_sensor() -> None:
    scale = colours.depth_scale(np.zeros((2, 2), dtype=np.float32))
    assert (scale.low_m, scale.high_m) == (0.0, 10.0)


def test_labels_keep_their_distance_from_those_of_the_ends() -> None:
    """From 0.5 to 6.5 m in steps of 1 m the label of 1 m would stand 8 % from the end, upon its label."""
    for low in np.arange(0, 9, 0.5):
        for high in np.arange(low + 0.5, 10.5, 0.5):
            ticks = np.array(colours.ColourScale(low, high, "magma_r").ticks_m())
            assert (np.diff(ticks) > 0).all()
            assert (np.diff(ticks) >= 0.12 * (high - low) - 1e-9).all(), (low, high)
    assert colours.tick_labels(colours.ColourScale(0.5, 6.5, "magma_r")) == ["0.5", "2", "3", "4", "5", "6.5"]


def test_the_error_scale_is_symmetric_and_says_where_it_clips() -> None:
    errors_m = np.concatenate([np.linspace(-0.9, 0.9, 999), [7.0, np.nan]])
    scale = colours.error_scale(errors_m)
    assert (scale.low_m, scale.high_m) == (-1.0, 1.0)
    assert colours.tick_labels(scale) == ["≤ −1", "−0.5", "0", "+0.5", "≥ +1"]
    covered = colours.error_scale(errors_m[:999])
    assert colours.tick_labels(covered)[0] == "−1"


def test_errors_are_signed_and_absent_where_either_depth_is() -> None:
    error_m = colours.signed_error_m(np.array([3.0, 1.0, 0.0, 2.0]), np.array([2.0, 2.0, 2.0, 0.0]))
    np.testing.assert_array_equal(error_m, [1.0, -1.0, np.nan, np.nan])


def test_painted_depth_is_the_colour_map_and_missing_pixels_are_grey() -> None:
    scale = colours.ColourScale(1.0, 5.0, "magma_r")
    painted = np.asarray(scale.paint(np.array([[1.0, 3.0, 5.0, np.nan, 9.0]])).convert("RGB"))[0]
    expected = matplotlib.colormaps["magma_r"]([0.0, 0.5, 1.0], bytes=True)[:, :3]
    assert np.abs(painted[:3].astype(int) - expected).max() <= 2  # 255 steps instead of a continuum
    assert tuple(painted[3]) == tuple(bytes.fromhex(colours.MISSING_COLOUR[1:]))
    np.testing.assert_array_equal(painted[4], painted[2])
