"""Kinect disparity and its projection, against float64 formulas written out here and scenes of known depth."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import map_coordinates
from scipy.optimize import fsolve

from pipeline.data.kinect import (
    MAX_DEPTH_M,
    NYU_RIG,
    Camera,
    Rig,
    decode_disparity,
    distort,
    project_to_rgb,
    undistort,
    undistort_rgb,
)

NYU = Path(__file__).resolve().parents[3] / "shared" / "nyu"

# camera_params.m of the toolbox, once more and as it stands there.
TOOLBOX_R = -np.array(
    [
        9.9997798940829263e-01, 5.0518419386157446e-03, 4.3011152014118693e-03,
        -5.0359919480810989e-03, 9.9998051861143999e-01, -3.6879781309514218e-03,
        -4.3196624923060242e-03, 3.6662365748484798e-03, 9.9998394948385538e-01,
    ]
)  # fmt: skip
TOOLBOX_T = np.array([2.5031875059141302e-02, -2.9342312935846411e-04, 6.6238747008330102e-04])  # t_x, t_z, t_y
PLAIN = Camera(fx=10, fy=10, cx=5, cy=3, k1=0, k2=0, p1=0, p2=0, k3=0)


def smaller(camera: Camera, times: int) -> Camera:
    """The camera of an image that is `times` smaller each way."""
    return camera._replace(
        fx=camera.fx / times,
        fy=camera.fy / times,
        cx=(camera.cx + 0.5) / times - 0.5,
        cy=(camera.cy + 0.5) / times - 0.5,
    )


SMALL_RIG = NYU_RIG._replace(depth=smaller(NYU_RIG.depth, 20), rgb=smaller(NYU_RIG.rgb, 20))
SMALL_HEIGHT, SMALL_WIDTH = 24, 32


def brown(camera: Camera, x: float, y: float) -> tuple[float, float]:
    """Brown's distortion as OpenCV's manual has it."""
    r2 = x**2 + y**2
    radial = 1 + camera.k1 * r2 + camera.k2 * r2**2 + camera.k3 * r2**3
    return (
        x * radial + 2 * camera.p1 * x * y + camera.p2 * (r2 + 2 * x**2),
        y * radial + camera.p1 * (r2 + 2 * y**2) + 2 * camera.p2 * x * y,
    )


@cache
def true_ray(camera: Camera, row: int, column: int) -> tuple[float, float]:
    """The (x, y) that the lens puts into a pixel, by a solver of equations."""
    at = ((column - camera.cx) / camera.fx, (row - camera.cy) / camera.fy)
    return tuple(fsolve(lambda point: np.subtract(brown(camera, *point), at), at, xtol=1e-11))


def reference_projection(depth_m: np.ndarray, rig: Rig) -> np.ndarray:
    """project_depth_map.m pixel by pixel in float64, with R = inv(R') and T as the toolbox has them."""
    r = np.linalg.inv(TOOLBOX_R.reshape(3, 3, order="F").T)
    height, width = depth_m.shape
    seen_m = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            z = float(depth_m[row, column])
            if z == 0:
                continue
            ray = true_ray(rig.depth, row, column)
            mirrored = r @ np.array([ray[0] * z, ray[1] * z, z]) + TOOLBOX_T
            u = round(mirrored[0] * rig.rgb.fx / mirrored[2] + rig.rgb.cx)
            v = round(mirrored[1] * rig.rgb.fy / mirrored[2] + rig.rgb.cy)
            distance = min(-mirrored[2], 10.0)
            if 0 <= u < width and 0 <= v < height and (seen_m[v, u] == 0 or distance < seen_m[v, u]):
                seen_m[v, u] = distance
    return seen_m


def true_rays(camera: Camera, height: int, width: int) -> np.ndarray:
    """(H, W, 3) rays of a camera with distortion, by Bouguet's comp_distortion_oulu.m."""
    row, column = np.mgrid[0.0:height, 0.0:width]
    xd, yd = (column - camera.cx) / camera.fx, (row - camera.cy) / camera.fy
    x, y = xd, yd
    for _ in range(60):
        r2 = x**2 + y**2
        radial = 1 + camera.k1 * r2 + camera.k2 * r2**2 + camera.k3 * r2**3
        x, y = (
            (xd - 2 * camera.p1 * x * y - camera.p2 * (r2 + 2 * x**2)) / radial,
            (yd - camera.p1 * (r2 + 2 * y**2) - 2 * camera.p2 * x * y) / radial,
        )
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def test_every_reading_of_the_sensor_becomes_metres() -> None:
    disparity = np.arange(1, 1093, dtype=np.uint16)
    expected = [min(351.3 / (1092.5 - reading), 10.0) for reading in range(1, 1093)]
    np.testing.assert_allclose(decode_disparity(disparity), expected, rtol=1e-7)


@pytest.mark.parametrize("reading", [0, 1093, 2046, 2047, 2048, 65535])
def test_a_reading_that_measured_nothing_is_missing(reading: int) -> None:
    assert decode_disparity(np.full((2, 3), reading, np.uint16)).tolist() == [[0, 0, 0]] * 2


def test_depths_are_metres_in_float32() -> None:
    depth_m = decode_disparity(np.array([[741]], np.uint16))
    assert depth_m.dtype == np.float32
    assert depth_m[0, 0] == pytest.approx(351.3 / 351.5)


@pytest.mark.parametrize("camera", [NYU_RIG.depth, NYU_RIG.rgb])
def test_the_lens_bends_rays_as_the_published_model_says_and_back(camera: Camera) -> None:
    x, y = np.meshgrid(np.linspace(-0.6, 0.6, 9), np.linspace(-0.45, 0.45, 7))
    bent = distort(camera, x, y)
    expected = [[brown(camera, *point) for point in zip(*line, strict=True)] for line in zip(x, y, strict=True)]
    np.testing.assert_allclose(np.stack(bent, axis=-1), expected, rtol=1e-12)
    np.testing.assert_allclose(undistort(camera, *bent), (x, y), atol=1e-11)


def test_both_cameras_are_those_of_camera_params() -> None:
    """As the toolbox lists them: f, c, k1, k2, p1, p2, k3."""
    assert [NYU_RIG.depth.fx, NYU_RIG.depth.fy] == [5.8262448167737955e02, 5.8269103270988637e02]
    assert [NYU_RIG.depth.cx, NYU_RIG.depth.cy] == [3.1304475870804731e02, 2.3844389626620386e02]
    assert list(NYU_RIG.depth[4:]) == [
        -9.9897236553084481e-02, 3.9065324602765344e-01, 1.9290592870229277e-03, -1.9422022475975055e-03,
        -5.1031725053400578e-01,
    ]  # fmt: skip
    assert [NYU_RIG.rgb.fx, NYU_RIG.rgb.fy] == [5.1885790117450188e02, 5.1946961112127485e02]
    assert [NYU_RIG.rgb.cx, NYU_RIG.rgb.cy] == [3.2558244941119034e02, 2.5373616633400465e02]
    assert list(NYU_RIG.rgb[4:]) == [
        2.0796615318809061e-01, -5.8613825163911781e-01, 7.2231363135888329e-04, 1.0479627195765181e-03,
        4.9856986684705107e-01,
    ]  # fmt: skip


def test_the_cameras_axes_are_turned_by_less_than_half_a_degree_and_25_mm_apart() -> None:
    rotation = np.array(NYU_RIG.rotation)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=2e-5)
    assert math.degrees(math.acos((np.trace(rotation) - 1) / 2)) == pytest.approx(0.43, abs=0.01)
    assert NYU_RIG.translation_m[0] == pytest.approx(-0.025, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_depth_is_projected_as_a_slow_reference_does(seed: int) -> None:
    random = np.random.default_rng(seed)
    depth_m = random.uniform(0.4, 10, (SMALL_HEIGHT, SMALL_WIDTH)).astype(np.float32)
    depth_m[random.random(depth_m.shape) < 0.2] = 0
    projected_m = project_to_rgb(depth_m, SMALL_RIG)
    assert projected_m.dtype == np.float32
    np.testing.assert_allclose(projected_m, reference_projection(depth_m, SMALL_RIG), rtol=1e-6)


def rays_in_pixels(camera: Camera, height: int, width: int) -> np.ndarray:
    """(25, H, W, 3) rays of a camera without distortion."""
    row, column = np.mgrid[0.0:height, 0.0:width]
    x, y = (column - camera.cx) / camera.fx, (row - camera.cy) / camera.fy
    steps = np.linspace(-0.5, 0.5, 5)
    return np.stack(
        [np.stack([x + dx / camera.fx, y + dy / camera.fy, 1 + 0 * x], axis=-1) for dy in steps for dx in steps]
    )


NORMAL, OFFSET_M = np.array([0.25, -0.35, 0.9]), 2.5
CENTRE_M, RADIUS_M = np.array([0.1, -0.05, 3.0]), 4.5


def plane_z(rays: np.ndarray) -> np.ndarray:
    """NORMAL · (z ray) = OFFSET_M"""
    return OFFSET_M / (rays @ NORMAL)


def bowl_z(rays: np.ndarray) -> np.ndarray:
    """The inside of a sphere around both cameras: |z ray - CENTRE_M| = RADIUS_M."""
    a, b = (rays * rays).sum(axis=-1), rays @ CENTRE_M
    return (b + np.sqrt(b**2 - a * (CENTRE_M @ CENTRE_M - RADIUS_M**2))) / a


@pytest.mark.parametrize("surface", [plane_z, bowl_z])
def test_a_surface_of_known_shape_keeps_its_place(
    surface: Callable[[np.ndarray], np.ndarray],
) -> None:
    """A scene given in RGB axes is looked at from the depth camera and projected back."""
    m = -TOOLBOX_R.reshape(3, 3)
    # p_rgb = inv(M) p_depth - T, so a depth ray z·d is the RGB point z·inv(M)d - T: scaled out by bisection.
    direction = true_rays(NYU_RIG.depth, 480, 640) @ np.linalg.inv(m).T
    near, far = np.full((480, 640), 0.1), np.full((480, 640), 9.9)
    for _ in range(60):
        middle = (near + far) / 2
        point = middle[..., None] * direction - TOOLBOX_T
        in_front = point[..., 2] < surface(point / point[..., 2:])
        near, far = np.where(in_front, middle, near), np.where(in_front, far, middle)
    assert near.min() > 0.2 and near.max() < 9.8
    projected_m = project_to_rgb(near.astype(np.float32))
    z = surface(rays_in_pixels(NYU_RIG.rgb, 480, 640))
    least, greatest = z.min(axis=0), z.max(axis=0)
    seen = projected_m > 0
    # The depth camera sees 58 of the 63 degrees that the RGB camera sees; the rest stays missing.
    assert seen[60:420, 60:580].mean() > 0.999
    slack = 1e-4
    assert ((projected_m >= least - slack) & (projected_m <= greatest + slack))[seen].all()


def one_row(readings: dict[int, float], translation_m: tuple[float, float, float]) -> dict[int, float]:
    """Depths by column of a camera of focal length 10, seen by a twin moved by `translation_m`."""
    rig = Rig(PLAIN, PLAIN, ((1, 0, 0), (0, 1, 0), (0, 0, 1)), translation_m)
    depth_m = np.zeros((7, 11), np.float32)
    for column, z in readings.items():
        depth_m[3, column] = z
    projected_m = project_to_rgb(depth_m, rig)
    rows, columns = np.nonzero(projected_m)
    assert set(rows) <= {3}
    return {int(column): float(projected_m[3, column]) for column in columns}


def test_of_several_points_in_one_pixel_the_nearest_is_seen_whatever_their_order() -> None:
    # A point at z moves by 10 · 0.1 / z = 1 pixel at 1 m and 2 pixels at half a metre.
    assert one_row({5: 1.0, 6: 0.5}, (-0.1, 0, 0)) == {4: 0.5}
    assert one_row({5: 1.0, 4: 0.5}, (0.1, 0, 0)) == {6: 0.5}


def test_points_outside_the_image_or_behind_the_camera_are_not_seen() -> None:
    assert one_row({0: 1.0, 10: 1.0}, (-0.1, 0, 0)) == {9: 1.0}
    assert one_row({0: 1.0, 10: 1.0}, (0.1, 0, 0)) == {1: 1.0}
    assert one_row({5: 1.0, 6: 3.0}, (0, 0, -2)) == {8: 1.0}


def test_no_depth_is_beyond_ten_metres() -> None:
    assert one_row({5: 9.5}, (0, 0, 1)) == {5: MAX_DEPTH_M}


def test_a_frame_that_measured_nothing_stays_empty() -> None:
    with np.errstate(all="raise"):
        assert not project_to_rgb(np.zeros((480, 640), np.float32)).any()
        assert one_row({}, (0, 0, 0)) == {}


def test_images_are_resampled_bilinearly_and_white_where_the_camera_saw_nothing() -> None:
    camera = SMALL_RIG.rgb
    rgb_u8 = np.random.default_rng(0).integers(0, 256, (SMALL_HEIGHT, SMALL_WIDTH, 3), np.uint8)
    x = np.zeros((SMALL_HEIGHT, SMALL_WIDTH))
    y = np.zeros((SMALL_HEIGHT, SMALL_WIDTH))
    for row in range(SMALL_HEIGHT):
        for column in range(SMALL_WIDTH):
            bent = brown(camera, (column - camera.cx) / camera.fx, (row - camera.cy) / camera.fy)
            x[row, column] = bent[0] * camera.fx + camera.cx
            y[row, column] = bent[1] * camera.fy + camera.cy
    outside = (x < 0) | (x > SMALL_WIDTH - 1) | (y < 0) | (y > SMALL_HEIGHT - 1)
    assert 0 < outside.mean() < 0.2
    straight = undistort_rgb(rgb_u8, camera)
    for channel in range(3):
        expected = map_coordinates(rgb_u8[..., channel].astype(np.float64), [y, x], order=1, mode="nearest")
        # Halves may be rounded either way after float32.
        assert np.abs(straight[..., channel] - np.rint(expected))[~outside].max() <= 1
        assert np.mean(straight[..., channel] != np.rint(expected), where=~outside) < 0.01
        assert (straight[..., channel][outside] == 255).all()


def test_a_lens_without_distortion_leaves_the_image_as_it_is() -> None:
    rgb_u8 = np.random.default_rng(0).integers(0, 256, (7, 11, 3), np.uint8)
    np.testing.assert_array_equal(undistort_rgb(rgb_u8, PLAIN), rgb_u8)


@pytest.mark.skipif(not NYU.is_dir(), reason="needs real frames of NYU Depth v2 in ../shared/nyu")
def test_the_labelled_images_have_the_white_frame_that_the_calibration_predicts() -> None:
    files = sorted((NYU / "rgb").glob("*.jpg"))[::20]
    mean = np.mean([np.array(Image.open(file)).min(axis=-1) for file in files], axis=0)
    predicted = undistort_rgb(np.zeros((480, 640, 3), np.uint8))[..., 0] == 255
    np.testing.assert_array_equal(mean > 200, predicted)
    assert predicted.sum() == 13_834
