"""Pictures inside of the page: sized, encoded and as data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from pipeline.reporting import style

WEBP_QUALITY = 82
"""Of photographs: at 75 the edges of furniture begin to ring, at 90 a tile is half as large again."""


@dataclass(frozen=True)
class Chart:
    """A chart as pixels, once for each theme."""

    width: int
    height: int
    light_uri: str
    dark_uri: str


def chart_of(light_png: bytes, dark_png: bytes) -> Chart:
    with Image.open(io.BytesIO(light_png)) as image:
        width, height = image.width // style.PIXEL_DENSITY, image.height // style.PIXEL_DENSITY
    return Chart(width, height, data_uri(light_png, "png"), data_uri(dark_png, "png"))


def tile_size(width: int, height: int, most_px: int) -> tuple[int, int]:
    shown = min(width, most_px)
    return shown, round(height * shown / width)


def tile_uri(image: Image.Image, most_px: int) -> str:
    """An image of at most this width.

    Photographs are shrunk by area and kept as WebP, a tenth of their PNG. Maps of a palette are shrunk by nearest
    pixel, so that missing pixels and depths never mix, and kept without loss.
    """
    buffer = io.BytesIO()
    size = tile_size(*image.size, most_px)
    if image.mode == "P":
        image.resize(size, Image.Resampling.NEAREST).save(buffer, format="PNG", optimize=True)
        return data_uri(buffer.getvalue(), "png")
    image.resize(size, Image.Resampling.BOX).save(buffer, format="WEBP", quality=WEBP_QUALITY, method=4)
    return data_uri(buffer.getvalue(), "webp")


def data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
