"""Images as a request over the network holds them."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import DepthEstimator
from pipeline.errors import PipelineError
from pipeline.prediction import requested
from pipeline.prediction.requested import depth_as_json, depth_of_requested


@pytest.fixture(scope="module")
def estimator(checkpoint: Path) -> DepthEstimator:
    return DepthEstimator(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode()


def test_the_same_picture_as_base64_data_url_numbers_and_array_has_the_depth_that_the_estimator_finds(
    estimator: DepthEstimator, picture: Image.Image
) -> None:
    text = encoded(picture)
    wrapped = base64.encodebytes(base64.b64decode(text)).decode()
    forms = [text, f"data:image/png;base64,{text}", wrapped, np.array(picture).tolist(), np.array(picture)]
    for depth_m in depth_of_requested(estimator, forms):
        np.testing.assert_allclose(depth_m, estimator(picture), atol=1e-5)


def test_images_of_several_sizes_are_answered_in_their_order_at_their_own_size(
    estimator: DepthEstimator, picture: Image.Image
) -> None:
    turned = encoded(picture.rotate(90, expand=True).convert("L"), "JPEG")
    found = depth_of_requested(estimator, [turned, encoded(picture)])
    assert [depth_m.shape for depth_m in found] == [(40, 30), (30, 40)]


def test_depth_as_json_is_metres_to_the_millimetre_with_their_unit() -> None:
    depth_m = np.array([[0.1, 2.00049], [10.0, 3.3]], np.float32)
    assert depth_as_json(depth_m) == {"depth_m": [[0.1, 2.0], [10.0, 3.3]], "height": 2, "width": 2, "unit": "m"}


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("photo.jpg", "the image is no base64"),
        ("http://127.0.0.1/photo.jpg", "the image is no base64"),
        ("file:///etc/passwd", "the image is no base64"),
        ("", "the image cannot be read as an image: its format is none that is known here"),
        (base64.b64encode(b"hello").decode(), "its format is none that is known here"),
        (base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n").decode(), "its format is none that is known here"),
        (None, "the image is of type NoneType; give the file as a base64 string"),
        (5, "the image is of type int"),
        ({"image": ""}, "the image is of type dict"),
        ([1, 2], "the image has the shape (2,)"),
        ([], "the image has the shape (0,)"),
        ([[[1, 2, 3, 4]]], "the image has the shape (1, 1, 4)"),
        ([[[1, 2, 3], [1, 2]]], "the image has rows of different lengths"),
        ([[[1, 2, 256]]], "something else than whole numbers from 0 to 255"),
        ([[[-1, 2, 3]]], "something else than whole numbers"),
        ([[[0.5, 0.5, 0.5]]], "something else than whole numbers"),
        ([[["a", "b", "c"]]], "something else than whole numbers"),
        ([[[None, 1, 2]]], "something else than whole numbers"),
        ([[[True, False, True]]], "something else than whole numbers"),
        ([[[10**30, 1, 2]]], "something else than whole numbers"),
    ],
)
def test_what_is_no_image_is_said_in_one_sentence(estimator: DepthEstimator, image: object, said: str) -> None:
    with pytest.raises(PipelineError) as caught:
        depth_of_requested(estimator, [image])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(PipelineError, match="there is no image"):
        depth_of_requested(estimator, [])


def test_a_wrong_image_among_several_is_told_by_its_number(estimator: DepthEstimator, picture: Image.Image) -> None:
    with pytest.raises(PipelineError, match="image 2 of 2 is no base64"):
        depth_of_requested(estimator, [encoded(picture), "?"])


def test_limits_hold_for_one_image_and_for_all_of_a_request(
    estimator: DepthEstimator, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requested, "MAX_PIXELS", 30 * 40)
    depth_of_requested(estimator, [encoded(picture)])
    for images in ([encoded(picture)] * 2, [np.array(picture).tolist()] * 2):
        with pytest.raises(PipelineError, match="image 2 of 2 brings the request to"):
            depth_of_requested(estimator, images)
    with pytest.raises(PipelineError, match="40 x 31 pixels"):
        depth_of_requested(estimator, [encoded(picture.resize((40, 31)))])
    monkeypatch.setattr(requested, "MAX_ENCODED", 100)
    with pytest.raises(PipelineError, match="characters of base64; at most 100"):
        depth_of_requested(estimator, [encoded(picture)])


BOMBS = """
import resource, sys
from pathlib import Path
from pipeline import DepthEstimator
from pipeline.errors import PipelineError
from pipeline.prediction.requested import depth_of_requested

estimator = DepthEstimator(Path(sys.argv[1]), device="cpu")
texts = [path.read_text() for path in sorted(Path(sys.argv[2]).iterdir())]
try:
    depth_of_requested(estimator, [5])
except PipelineError:
    pass
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for text in texts:
    try:
        depth_of_requested(estimator, [text])
    except PipelineError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_bombs_are_refused_by_their_header_in_no_more_memory_than_their_file(
    checkpoint: Path, tmp_path: Path
) -> None:
    bombs = {
        "400-megapixels": encoded(Image.new("1", (20000, 20000))),
        "100-megapixels": encoded(Image.new("1", (10000, 10000))),
        "100-megapixels-gif": encoded(Image.new("L", (10000, 10000)), "GIF"),
    }
    for name, text in bombs.items():
        (tmp_path / name).write_text(text)
        assert len(text) < 2**20
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, str(checkpoint), str(tmp_path)], capture_output=True, text=True, check=True
    )
    *refused, grown_kb = done.stdout.splitlines()
    assert len(refused) == len(bombs)
    assert all("pixels" in line for line in refused)
    assert int(grown_kb) < 16 * 1024  # a byte a pixel would be 100,000
