"""A prediction as points: which pixels, at which depth, seen through which camera."""

from __future__ import annotations

import base64

import numpy as np

from pipeline.reporting.point_cloud import PointCloud, point_clouds
from tests.reporting.toy import predictions


def unpacked(cloud: PointCloud) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = (cloud.rows, cloud.columns)
    rgb = np.frombuffer(base64.b64decode(cloud.rgb), np.uint8).reshape(*shape, 3)
    truth, prediction = (
        np.frombuffer(base64.b64decode(text), "<u2").reshape(shape)
        for text in (cloud.truth_mm, cloud.prediction_mm)
    )
    return rgb, truth, prediction


def test_points_are_pixels_of_the_frame_with_their_own_colour_and_depths() -> None:
    given = predictions(("best",), (120, 160))
    # Colour and depths of a pixel name its place.
    rows, columns = np.mgrid[:120, :160]
    given.rgb_u8[0, 0], given.rgb_u8[0, 1] = rows, columns
    given.depth_mm[0, 0], given.prediction_mm[0, 0] = 1000 + rows, 2000 + columns
    rgb, truth, prediction = unpacked(point_clouds(given)[0])
    np.testing.assert_array_equal(truth, 1000 + rgb[..., 0].astype(int))
    np.testing.assert_array_equal(prediction, 2000 + rgb[..., 1].astype(int))
    # Evenly spread, without NYU's white frame.
    assert (rgb[0, 0, 0], rgb[-1, 0, 0], rgb[0, 0, 1], rgb[0, -1, 1]) == (4, 115, 5, 154)


def test_the_camera_is_nyus_at_any_size() -> None:
    """The point that the first pixel of 640 x 480 stands for, by NYU's toolbox, against the page's formula."""
    for size in ((480, 640), (120, 160)):
        cloud = point_clouds(predictions(("best",), size))[0]
        column = 40
        # Where the middle of this column lies in the whole image of 640 pixels.
        u = (0.03 + 0.94 * (column + 0.5) / cloud.columns) * 640 - 0.5
        ours = ((column + 0.5) / cloud.columns - cloud.cx) / cloud.fx
        np.testing.assert_allclose(ours, (u - 325.582) / 518.858, atol=1e-6)


def test_there_is_a_cloud_of_each_rank_the_median_first() -> None:
    clouds = point_clouds(predictions(("best", "best", "median", "worst")))
    assert [cloud.title.partition(":")[0] for cloud in clouds] == ["Median", "Best", "Worst"]
    assert point_clouds(predictions(())) == []


def test_missing_depth_stays_missing() -> None:
    given = predictions(("best",))
    given.depth_mm[:] = 0
    _, truth, prediction = unpacked(point_clouds(given)[0])
    assert not truth.any()
    assert prediction.all()
