"""The Kinect of NYU Depth v2: disparity to metres, and depth projected into the RGB camera. Arrays in, arrays out.

Formulas, constants and signs are those of the data set's MATLAB toolbox (N. Silberman, camera_params.m,
depth_rel2depth_abs.m, project_depth_map.m). Done otherwise than there, each for a reason:

- Each depth pixel's own ray is freed of lens distortion. The toolbox resamples the disparity image bilinearly,
  which mixes near with far at edges, and so it must throw away what comes out below 600 (nearer than 0.71 m);
  here nothing is mixed, and near measurements stay.
- A pixel holds the distance along the RGB camera's axis. The toolbox writes the depth camera's own, which differs
  by up to 0.4 % at the image's corners (the cameras are turned by 0.4 degrees against each other).
- Pixels count from 0, as they did in the calibration. The toolbox counts them from 1 when it makes and uses rays;
  that shifts its depth by 0.1 pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

HEIGHT, WIDTH = 480, 640
MAX_DEPTH_M = 10.0
"""maxDepth of camera_params.m; the sensor tells nothing beyond, and farther readings are clamped to it"""


class Camera(NamedTuple):
    """A pinhole in pixels, counted from 0 at the centre of the first, with Brown's distortion as OpenCV has it."""

    fx: float
    fy: float
    cx: float
    cy: float
    k1: float
    k2: float
    p1: float
    p2: float
    k3: float


class Rig(NamedTuple):
    """Two cameras: a point p of the depth camera's axes is `rotation` @ p + `translation_m` in the RGB camera's."""

    depth: Camera
    rgb: Camera
    rotation: tuple[tuple[float, float, float], ...]
    translation_m: tuple[float, float, float]


def _nyu_rig() -> Rig:
    # The toolbox has R = inv(-M), p_rgb = R p + (t_x, t_z, t_y): a mirrored space in which z is negative. Its
    # projection is that of inv(M) p - (t_x, t_z, t_y), which is a rotation, with the RGB camera 25 mm to the right.
    m = [
        [9.9997798940829263e-01, 5.0518419386157446e-03, 4.3011152014118693e-03],
        [-5.0359919480810989e-03, 9.9998051861143999e-01, -3.6879781309514218e-03],
        [-4.3196624923060242e-03, 3.6662365748484798e-03, 9.9998394948385538e-01],
    ]
    return Rig(
        depth=Camera(
            fx=5.8262448167737955e02,
            fy=5.8269103270988637e02,
            cx=3.1304475870804731e02,
            cy=2.3844389626620386e02,
            k1=-9.9897236553084481e-02,
            k2=3.9065324602765344e-01,
            p1=1.9290592870229277e-03,
            p2=-1.9422022475975055e-03,
            k3=-5.1031725053400578e-01,
        ),
        rgb=Camera(
            fx=5.1885790117450188e02,
            fy=5.1946961112127485e02,
            cx=3.2558244941119034e02,
            cy=2.5373616633400465e02,
            k1=2.0796615318809061e-01,
            k2=-5.8613825163911781e-01,
            p1=7.2231363135888329e-04,
            p2=1.0479627195765181e-03,
            k3=4.9856986684705107e-01,
        ),
        rotation=tuple(tuple(row) for row in np.linalg.inv(m).tolist()),
        translation_m=(-2.5031875059141302e-02, 2.9342312935846411e-04, -6.6238747008330102e-04),
    )


NYU_RIG = _nyu_rig()


def _depth_of_disparity() -> np.ndarray:
    """(65536,) float32 metres for every 16-bit reading."""
    disparity = np.arange(65536, dtype=np.float64)
    depth_m = np.minimum(351.3 / (1092.5 - disparity), MAX_DEPTH_M)
    # 2047 says "nothing measured"; it and all from 1093 on come out negative. The sensor never reads 0.
    return np.where((depth_m > 0) & (disparity > 0), depth_m, 0).astype(np.float32)


_DEPTH_OF_DISPARITY_M = _depth_of_disparity()


def decode_disparity(disparity: np.ndarray) -> np.ndarray:
    """Readings of any shape, uint16 in the machine's byte order, to float32 metres of the depth camera.

    z = 351.3 / (1092.5 - disparity), at most 10 m; 0 where nothing was measured (depth_rel2depth_abs.m).
    """
    return _DEPTH_OF_DISPARITY_M[disparity]


def project_to_rgb(depth_m: np.ndarray, rig: Rig = NYU_RIG) -> np.ndarray:
    """(H, W) float32 metres seen by the depth camera, as the RGB camera without its distortion would see them.

    0 = missing, in and out. Each pixel's point is moved to the nearest pixel of the RGB image; of several the
    nearest point stays, at most 10 m away.
    """
    height, width = depth_m.shape
    rays = _rays_in_rgb(rig, height, width)
    shift_x, shift_y, shift_z = rig.translation_m
    nearest_m = np.full(height * width + 1, np.inf, np.float32)
    outside = height * width
    # A block of 32 rows stays in the cache of the processor: 7 ms a frame where the whole at once took 10 to 17.
    for top in range(0, height, 32):
        z_m = depth_m[top : top + 32].astype(np.float64)
        x, y, z = rays[:, top : top + 32] * z_m
        z += shift_z
        measured = (z_m > 0) & (z > 0)
        np.copyto(z, 1.0, where=~measured)
        x += shift_x
        x *= rig.rgb.fx
        x /= z
        x += rig.rgb.cx
        y += shift_y
        y *= rig.rgb.fy
        y /= z
        y += rig.rgb.cy
        column, row = np.rint(x, out=x), np.rint(y, out=y)
        measured &= (column >= 0) & (column < width) & (row >= 0) & (row < height)
        row *= width
        row += column
        pixel = np.where(measured, row, outside).astype(np.intp)
        np.minimum.at(nearest_m, pixel.ravel(), z.astype(np.float32).ravel())
    seen_m = nearest_m[:-1].reshape(height, width)
    return np.where(np.isfinite(seen_m), np.minimum(seen_m, np.float32(MAX_DEPTH_M)), np.float32(0))


def undistort_rgb(rgb_u8: np.ndarray, camera: Camera = NYU_RIG.rgb) -> np.ndarray:
    """(H, W, 3) uint8 as a camera without lens distortion would see it, bilinearly; white where it saw nothing.

    The images of the labelled file are made so: their white frame is, in all 13,834 pixels and no other, what this
    leaves white.
    """
    height, width, channels = rgb_u8.shape
    weights, white = _resampling(camera, height, width)
    pixels = weights @ rgb_u8.reshape(-1, channels).astype(np.float32)
    pixels += white
    return np.rint(pixels, out=pixels).astype(np.uint8).reshape(rgb_u8.shape)


def distort(camera: Camera, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the lens puts a ray through (x, y, 1), on the same plane (Brown's model)."""
    r2 = x * x + y * y
    radial = 1 + r2 * (camera.k1 + r2 * (camera.k2 + r2 * camera.k3))
    return (
        x * radial + 2 * camera.p1 * x * y + camera.p2 * (r2 + 2 * x * x),
        y * radial + camera.p1 * (r2 + 2 * y * y) + 2 * camera.p2 * x * y,
    )


def undistort(camera: Camera, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ray (x, y, 1) that the lens puts at the given place: the inverse of `distort`."""
    ray_x, ray_y = x.copy(), y.copy()
    # The error falls to less than a third at each turn for lenses as weak as the Kinect's.
    for _ in range(40):
        there_x, there_y = distort(camera, ray_x, ray_y)
        off_x, off_y = x - there_x, y - there_y
        ray_x += off_x
        ray_y += off_y
        if max(np.abs(off_x).max(), np.abs(off_y).max()) < 1e-12:
            break
    return ray_x, ray_y


@lru_cache(maxsize=2)
def _rays_in_rgb(rig: Rig, height: int, width: int) -> np.ndarray:
    """(3, H, W) float64: what one metre along the depth camera's axis is at each of its pixels, in RGB axes."""
    row, column = np.mgrid[0.0:height, 0.0:width]
    camera = rig.depth
    x, y = undistort(camera, (column - camera.cx) / camera.fx, (row - camera.cy) / camera.fy)
    rays = np.tensordot(np.array(rig.rotation), np.stack([x, y, np.ones_like(x)]), axes=1)
    rays.flags.writeable = False
    return rays


@lru_cache(maxsize=2)
def _resampling(camera: Camera, height: int, width: int) -> tuple[csr_matrix, np.ndarray]:
    """Bilinear weights (H·W, H·W) float32 of `undistort_rgb`, and (H·W, 1) float32: 255 where it saw nothing."""
    row, column = np.mgrid[0.0:height, 0.0:width]
    x, y = distort(camera, (column - camera.cx) / camera.fx, (row - camera.cy) / camera.fy)
    x, y = (x * camera.fx + camera.cx).ravel(), (y * camera.fy + camera.cy).ravel()
    seen = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    left = np.clip(np.floor(x), 0, max(width - 2, 0))
    top = np.clip(np.floor(y), 0, max(height - 2, 0))
    right_share, lower_share = (x - left) * seen, (y - top) * seen
    first = (top * width + left).astype(np.int32)
    columns = np.stack([first, first + 1, first + width, first + width + 1], axis=1)
    shares = np.stack(
        [
            (seen - right_share) * (1 - lower_share),
            right_share * (1 - lower_share),
            (seen - right_share) * lower_share,
            right_share * lower_share,
        ],
        axis=1,
    )
    starts = np.arange(0, columns.size + 1, 4, dtype=np.int32)
    weights = csr_matrix(
        (shares.ravel().astype(np.float32), columns.ravel(), starts), shape=(height * width, height * width)
    )
    return weights, np.where(seen, 0, 255).astype(np.float32)[:, None]
