"""A prediction as points in space, which the page's script turns: pixels with their depth, packed for the page."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np

from pipeline.data.camera import NYU, NYU_SIZE
from pipeline.reporting.gallery import RANKS
from pipeline.reporting.inputs import Predictions

POINTS_ACROSS = 160
"""19 200 points of a 4:3 frame: 180 kB in the page, and a phone draws them in a few milliseconds."""
EDGE = 0.03
"""Share of each side that is left out: NYU's photographs have a white frame of 7 to 10 pixels of 640."""
# NYU's colour camera in shares of the image. The rooms are rendered with it; a folder's own camera is not known.
_HEIGHT, _WIDTH = NYU_SIZE
_FX, _FY = NYU.fx / _WIDTH, NYU.fy / _HEIGHT
_CX, _CY = (NYU.cx + 0.5) / _WIDTH, (NYU.cy + 0.5) / _HEIGHT


@dataclass(frozen=True)
class PointCloud:
    title: str
    rows: int
    columns: int
    fx: float
    """focal length across, in shares of the width that the points cover"""
    fy: float
    """down, in shares of the height"""
    cx: float
    cy: float
    rgb: str
    """rows x columns x 3 bytes, base64"""
    truth_mm: str
    """rows x columns little-endian uint16, 0 = missing, base64"""
    prediction_mm: str


def point_clouds(predictions: Predictions) -> list[PointCloud]:
    """One frame of each rank that there is, the median first: the usual case, neither praise nor blame."""
    ranked = {
        rank: next((n for n, frame in enumerate(predictions.frames) if frame["rank"] == rank), None)
        for rank, _, _ in sorted(RANKS, key=lambda rank: rank[0] != "median")
    }
    return [point_cloud(predictions, n, rank) for rank, n in ranked.items() if n is not None]


def point_cloud(predictions: Predictions, index: int, rank: str) -> PointCloud:
    """Every n-th pixel of a frame. Nearest pixels, not means: a mean across an edge floats in the air."""
    height, width = predictions.rgb_u8.shape[-2:]
    columns = min(POINTS_ACROSS, width)
    rows = max(1, round(columns * height / width))
    down = _places(rows, height)
    across = _places(columns, width)
    place = np.ix_(down, across)
    frame = predictions.frames[index]
    return PointCloud(
        title=f"{rank.capitalize()}: frame {frame['frame']}, {frame['scene']}",
        rows=rows,
        columns=columns,
        fx=_FX / (1 - 2 * EDGE),
        fy=_FY / (1 - 2 * EDGE),
        cx=(_CX - EDGE) / (1 - 2 * EDGE),
        cy=(_CY - EDGE) / (1 - 2 * EDGE),
        rgb=_packed(predictions.rgb_u8[index].transpose(1, 2, 0)[place]),
        truth_mm=_packed(_millimetres(predictions.depth_mm[index, 0][place])),
        prediction_mm=_packed(_millimetres(predictions.prediction_mm[index, 0][place])),
    )


def _places(points: int, pixels: int) -> np.ndarray:
    """So many pixels evenly along a side, its edges left out."""
    shares = EDGE + (1 - 2 * EDGE) * (np.arange(points) + 0.5) / points
    return (shares * pixels).astype(int)


def _millimetres(depth_mm: np.ndarray) -> np.ndarray:
    return np.clip(depth_mm, 0, None).astype("<u2")


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
