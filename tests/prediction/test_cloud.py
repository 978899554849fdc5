"""Points in metres where the pinhole camera has them, and a PLY that others read."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.camera import Pinhole
from pipeline.prediction.cloud import FIELD_OF_VIEW, point_cloud, write_ply


def test_points_lie_where_the_pinhole_camera_sees_them() -> None:
    camera = Pinhole(fx=100, fy=50, cx=1, cy=2)
    depth_m = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], np.float32)
    points_m = point_cloud(depth_m, camera).reshape(4, 2, 3)
    for row in range(4):
        for column in range(2):
            z = depth_m[row, column]
            there = ((column - 1) / 100 * z, -(row - 2) / 50 * z, -z)
            np.testing.assert_allclose(points_m[row, column], there, rtol=1e-6)


def test_a_wall_seen_at_90_degrees_is_twice_as_wide_as_it_is_far() -> None:
    camera = Pinhole.from_field_of_view(90, 1000, (500, 1000))
    points_m = point_cloud(np.full((500, 1000), 3.0, np.float32), camera)
    pixel = 6 / 1000
    assert np.ptp(points_m[:, 0]) == pytest.approx(6 - pixel, rel=1e-5)
    assert np.ptp(points_m[:, 1]) == pytest.approx(3 - pixel, rel=1e-5)
    np.testing.assert_allclose(points_m.mean(0), [0, 0, -3], atol=1e-5)


def test_the_default_field_of_view_is_that_of_nyus_camera() -> None:
    camera = Pinhole.from_field_of_view(FIELD_OF_VIEW, 640, (480, 640))
    assert camera.fx == camera.fy == pytest.approx(518.857901)
    assert math.degrees(2 * math.atan(320 / camera.fx)) == pytest.approx(63.3, abs=0.05)


def test_the_ply_holds_positions_and_colours_in_the_order_that_its_header_tells(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    points_m = random.normal(size=(7, 3)).astype(np.float32)
    rgb_u8 = random.integers(0, 256, (7, 3), np.uint8)
    write_ply(tmp_path / "new" / "a.ply", points_m, rgb_u8)
    header, _, body = (tmp_path / "new" / "a.ply").read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    assert "element vertex 7" in lines
    fields = [line.split()[1:] for line in lines if line.startswith("property")]
    types = {"float": "<f4", "uchar": "u1"}
    vertices = np.frombuffer(body, [(name, types[kind]) for kind, name in fields])
    assert len(vertices) == 7
    for index, (axis, colour) in enumerate(zip("xyz", ("red", "green", "blue"), strict=True)):
        np.testing.assert_array_equal(vertices[axis], points_m[:, index])
        np.testing.assert_array_equal(vertices[colour], rgb_u8[:, index])
