"""Depth of single photographs: right way up, own size, 16-bit millimetres."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pipeline.inference import open_image, predict_image, write_depth
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.model.checkpoint import CheckpointInfo

INFO = CheckpointInfo("unet", {}, (32, 40), 1, 1, None, "", "", None)


class Red(nn.Module):
    """Depth is 1 m where there is no red, 9 m where it is full."""

    def forward(self, rgb: Tensor) -> Tensor:
        self.size = rgb.shape[-2:]
        return 1 + 8 * rgb[:, :1]


@pytest.mark.parametrize("size", [(64, 80), (33, 47), (200, 50)])
def test_the_prediction_has_the_size_of_the_image_and_the_network_sees_its_own(size: tuple[int, int]) -> None:
    network = Red()
    picture = np.zeros((*size, 3), np.uint8)
    picture[..., 0] = 51
    depth_m = predict_image(network, INFO, Image.fromarray(picture))
    assert depth_m.shape == size
    assert network.size == (32, 40)
    np.testing.assert_allclose(depth_m, 1 + 8 * 0.2, rtol=1e-6)


def test_an_image_lying_on_its_side_is_put_upright(tmp_path: Path) -> None:
    picture = np.zeros((20, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees
    Image.fromarray(picture).save(tmp_path / "phone.jpg", exif=exif)
    assert open_image(tmp_path / "phone.jpg").size == (20, 30)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_images_of_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (10, 8)).save(path)
    assert open_image(path).mode == "RGB"


def test_depth_is_written_in_millimetres_and_near_is_brighter(tmp_path: Path) -> None:
    depth_m = np.linspace(0.5, 9.5, 12 * 16, dtype=np.float32).reshape(12, 16)
    write_depth(tmp_path / "new", "room", depth_m)
    with Image.open(tmp_path / "new" / "room-depth.png") as image:
        assert image.mode == "I;16"
        np.testing.assert_allclose(np.array(image), 1000 * depth_m, atol=0.6)
    with Image.open(tmp_path / "new" / "room-depth-colour.png") as image:
        grey = np.array(image.convert("L")).astype(float)
    assert grey[0, 0] > grey[6, 8] > grey[-1, -1]


def test_a_flat_map_is_written_too(tmp_path: Path) -> None:
    write_depth(tmp_path, "wall", np.full((4, 5), 2.5, np.float32))
    assert (np.array(Image.open(tmp_path / "wall-depth.png")) == 2500).all()


def damaged_png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(buffer, format="PNG")
    content = bytearray(buffer.getvalue())
    content[37:41] = b"\0\0\0\1"  # the name of the chunk after the header
    return bytes(content)


@pytest.mark.parametrize("content", [b"", b"hello", damaged_png()], ids=["empty", "text", "chunk"])
def test_a_file_that_is_no_image_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(PipelineError, match=r"a\.png cannot be read as an image") as caught:
        open_image(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


def test_half_a_png_is_named_in_one_line(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with pytest.raises(PipelineError, match=r"a\.png cannot be read as an image"):
        open_image(tmp_path / "a.png")
