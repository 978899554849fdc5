"""Photographs of the formats that Pillow reads safely, as upright 8-bit RGB."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pipeline.errors import PipelineError

MAX_PIXELS = 89_478_485
"""More are refused by what the header says, before anything is decoded. Pillow's own first limit, above which it
warns of a decompression bomb; 256 MiB as RGB. At this size `depth predict` takes 1.8 GB of memory at its height."""
DECODED_SIDE = 2048
"""The shorter side that a JPEG is decoded to at least: 17 pixels for each of the network's at 120 x 160. One of
more than twice that is decoded at 1/2, 1/4 or 1/8, which takes a quarter of the memory or less."""
WHITE_16 = 65535
"""What is white in 16-bit grey."""
BACKGROUND = "white"
"""Seen through transparent pixels, as on most pages; what they hide is often black, or noise."""
SIDEWAYS = range(5, 9)
"""EXIF orientations in which width and height change places."""
FORMATS = (
    "AVIF",
    "BMP",
    "DIB",
    "GIF",
    "JPEG",
    "JPEG2000",
    "MPO",
    "PCX",
    "PNG",
    "PPM",
    "QOI",
    "SGI",
    "TGA",
    "TIFF",
    "WEBP",
)
"""By Pillow's names, those whose header tells the size of what is decoded. Of its others some wrap a file of any
kind (ICO, ICNS, IPTC), of which their own header tells nothing, and some are read by other programs: for EPS, also
if wrapped, it starts Ghostscript on the file."""


@dataclass(frozen=True)
class Photo:
    """An image as the estimator takes it."""

    rgb: Image.Image
    """mode RGB, upright; of a large JPEG a reduced one"""
    size: tuple[int, int]
    """(height, width) of the image itself, upright"""


def read_photo(source: str | Path | IO[bytes], max_pixels: int = MAX_PIXELS) -> Photo:
    """The image in a file, of several (a GIF, a TIFF) the first. Raises `PipelineError` that names the file.

    Turned upright by its EXIF orientation, transparent pixels over white. No colour profile is applied.
    """
    name = source if isinstance(source, (str, Path)) else getattr(source, "name", "the image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below, with a sentence
            with Image.open(source, formats=readable_formats()) as image:
                width, height = image.size
                _refuse_large(name, image, max_pixels)
                is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) in SIDEWAYS
                _decode_reduced(image)
                _refuse_large(name, image, max_pixels)  # more may have come out than the header said
                return Photo(as_rgb(image), (width, height) if is_turned else (height, width))
    except PipelineError:
        raise
    except UnidentifiedImageError as error:
        raise PipelineError(f"{name} cannot be read as an image: its format is none that is known here") from error
    except Exception as error:  # damaged files make Pillow's readers raise anything
        raise PipelineError(f"{name} cannot be read as an image: {error or type(error).__name__}") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as upright RGB. Raises `ValueError` if its values have no defined white."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        grey = np.asarray(image)
        if not (grey.min() >= 0 and grey.max() <= 1):  # also with NaN
            raise ValueError("its floating-point grey does not lie between 0 and 1")
        image = Image.fromarray((grey * 255).round().astype(np.uint8))
    elif image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > WHITE_16:
            raise ValueError("its grey has more than 16 bits")
        image = Image.fromarray((grey.astype(np.float32) * (255 / WHITE_16)).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image)
    return image.convert("RGB")


def readable_formats() -> list[str]:
    """Of `FORMATS` those that this build of Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def readable_extensions() -> set[str]:
    """Such as `.jpg`, in small letters."""
    formats = set(readable_formats())
    return {extension for extension, name in Image.registered_extensions().items() if name in formats}


def _decode_reduced(image: Image.Image) -> None:
    shrink = min(image.size) / DECODED_SIDE
    if shrink >= 2:
        image.draft(None, (round(image.width / shrink), round(image.height / shrink)))
    image.load()


def _refuse_large(name: str | Path, image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise PipelineError(
            f"{name} has {image.width} x {image.height} pixels; at most {max_pixels / 1e6:.3g} million are read, "
            "so make it smaller first"
        )
