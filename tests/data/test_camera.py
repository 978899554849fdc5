"""The pinhole camera of an image at other sizes."""

from __future__ import annotations

import pytest

from pipeline.data.camera import Pinhole


def test_a_camera_of_the_image_at_another_size_sees_the_same() -> None:
    camera = Pinhole(400, 300, 310.2, 200.9)
    half = camera.resized((480, 640), (240, 320))
    # The centre of a pixel of half the resolution is the corner that four pixels share.
    left, right = (2 * 100 + 0.5 - camera.cx) / camera.fx, (100 - half.cx) / half.fx
    assert left == pytest.approx(right)
    up, down = (2 * 7 + 0.5 - camera.cy) / camera.fy, (7 - half.cy) / half.fy
    assert up == pytest.approx(down)
