"""Images and depth maps as JSON carries them, for a service: nothing large is made of what was not checked."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.errors import PipelineError
from pipeline.prediction.estimator import DepthEstimator, ImageLike
from pipeline.prediction.images import read_photo

MAX_PIXELS = 4096 * 3072
"""Of all images of a request together: a telephone's photograph. Each pixel is answered by a number, these by 87 MB
of JSON."""
MAX_ENCODED = 32 * 2**20
"""Characters of an image as base64."""
WANTED = "give the file as a base64 string, or (height, width, 3) numbers from 0 to 255"


def depth_of_requested(estimator: DepthEstimator, images: Sequence[Any]) -> list[np.ndarray]:
    """The depth map of each image, float32 metres (H, W) at its own size.

    An image is the content of a file in base64, with or without the head of a data URL before it, or the pixels
    as nested lists of uint8 (H, W, 3), or as an array that `DepthEstimator` takes. Raises `PipelineError`, one
    sentence, for anything else and for more than `MAX_PIXELS`.
    """
    if not images:
        raise PipelineError(f"there is no image; {WANTED}")
    taken: list[ImageLike] = []
    pixels = 0
    for number, image in enumerate(images, 1):
        place = f"image {number} of {len(images)}" if len(images) > 1 else "the image"
        if isinstance(image, str):
            photo = read_photo(_opened(image, place), MAX_PIXELS)
            taken.append(photo)
            pixels += photo.size[0] * photo.size[1]
        else:
            array = image if isinstance(image, np.ndarray) else _pixels(image, place)
            taken.append(array)
            pixels += array.size // 3
        if pixels > MAX_PIXELS:
            raise PipelineError(
                f"{place} brings the request to {pixels / 1e6:.1f} million pixels; "
                f"at most {MAX_PIXELS / 1e6:.3g} million are taken at once"
            )
    return estimator(taken)


def depth_as_json(depth_m: np.ndarray) -> dict[str, Any]:
    """A depth map (H, W) with its unit, as JSON takes it: rows from the top, metres, rounded to a millimetre."""
    height, width = depth_m.shape
    # As float32 0.1 would be told as 0.10000000149.
    rows = depth_m.astype(np.float64).round(3).tolist()
    return {"depth_m": rows, "height": height, "width": width, "unit": "m"}


def _opened(text: str, place: str) -> io.BytesIO:
    """The file whose content the text is, in base64."""
    if len(text) > MAX_ENCODED:
        raise PipelineError(
            f"{place} has {len(text)} characters of base64; at most {MAX_ENCODED} are taken, so make it smaller"
        )
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        file = io.BytesIO(base64.b64decode("".join(text.split()), validate=True))
    except (binascii.Error, ValueError) as error:
        raise PipelineError(f"{place} is no base64 ({error}); {WANTED}") from error
    file.name = place
    return file


def _pixels(image: object, place: str) -> np.ndarray:
    """Nested lists of numbers as (H, W, 3) uint8."""
    if not isinstance(image, list):
        raise PipelineError(f"{place} is of type {type(image).__name__}; {WANTED}")
    try:
        numbers = np.array(image)
    except (ValueError, OverflowError) as error:
        raise PipelineError(f"{place} has rows of different lengths; {WANTED}") from error
    if numbers.ndim != 3 or numbers.shape[2] != 3 or 0 in numbers.shape:
        raise PipelineError(f"{place} has the shape {numbers.shape}; {WANTED}")
    if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() > 255:
        raise PipelineError(f"{place} holds something else than whole numbers from 0 to 255; {WANTED}")
    return numbers.astype(np.uint8)
