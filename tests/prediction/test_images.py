"""Photographs of every size and format: upright 8-bit RGB, or one line that names the file."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from pipeline.errors import PipelineError
from pipeline.prediction import images
from pipeline.prediction.images import MAX_PIXELS, as_rgb, read_photo, readable_extensions

GREY_16 = np.array([[0, 257, 65535], [128 * 257, 65535, 1000]], np.uint16)
GREY_8 = np.array([[0, 1, 255], [128, 255, 4]])


def picture(height: int = 20, width: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


# Where the first stored pixel is seen: EXIF names the sides of the scene that the first row and column are, such as
# top and left for 1, right and top for 6.
SEEN_AT = {
    1: (0, 0),
    2: (0, -1),
    3: (-1, -1),
    4: (-1, 0),
    5: (0, 0),
    6: (0, -1),
    7: (-1, -1),
    8: (-1, 0),
}


@pytest.mark.parametrize("orientation", SEEN_AT)
def test_an_image_lying_on_its_side_is_put_upright(tmp_path: Path, orientation: int) -> None:
    stored = np.zeros((20, 30, 3), np.uint8)
    stored[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "phone.png", exif=exif)
    photo = read_photo(tmp_path / "phone.png")
    assert photo.size == ((20, 30) if orientation <= 4 else (30, 20))
    upright = np.array(photo.rgb)
    assert upright.shape[:2] == photo.size
    assert upright[SEEN_AT[orientation]].tolist() == [255, 255, 255]
    assert upright.sum() == 3 * 255


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"])
def test_images_of_every_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tif"
    Image.new(mode, (10, 8)).save(path)
    photo = read_photo(path)
    assert (photo.rgb.mode, photo.rgb.size, photo.size) == ("RGB", (10, 8), (8, 10))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled_not_cut_off(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(GREY_16).save(tmp_path / f"grey.{suffix}")
    rgb = np.array(read_photo(tmp_path / f"grey.{suffix}").rgb)
    for channel in range(3):
        np.testing.assert_array_equal(rgb[..., channel], GREY_8)


def test_floating_point_grey_has_a_white_only_from_0_to_1(tmp_path: Path) -> None:
    grey = np.array([[0, 0.5], [1, 0.25]], np.float32)
    assert np.array(as_rgb(Image.fromarray(grey)))[..., 0].tolist() == [[0, 128], [255, 64]]
    Image.fromarray(3 * grey).save(tmp_path / "hdr.tif")
    with pytest.raises(PipelineError, match=r"hdr\.tif cannot be read as an image: its floating-point grey"):
        read_photo(tmp_path / "hdr.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_seen_over_white(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (2, 1), (0,) * len(mode))
    image.putpixel((1, 0), (0,) * (len(mode) - 1) + (51,))  # a fifth of the way from white to black
    image.save(tmp_path / "a.png")
    assert np.array(read_photo(tmp_path / "a.png").rgb)[0, :, 0].tolist() == [255, 204]


def test_the_transparent_colour_of_a_palette_is_white_too(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.gif", transparency=0)
    assert np.array(read_photo(tmp_path / "a.gif").rgb)[0].tolist() == [[255, 255, 255], [10, 20, 30]]


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_of_several_images_in_a_file_the_first_is_taken(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    path = tmp_path / f"moving.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert np.array(read_photo(path).rgb)[0, 0].tolist() == [255, 0, 0]


def test_an_opened_file_is_read_as_well() -> None:
    content = io.BytesIO()
    picture().save(content, "PNG")
    content.seek(0)
    np.testing.assert_array_equal(np.array(read_photo(content).rgb), np.array(picture()))


def test_a_large_jpeg_is_decoded_reduced_and_keeps_its_size(tmp_path: Path) -> None:
    gradient = np.linspace(0, 255, 6000)[None, :, None].repeat(4200, 0).repeat(3, 2).astype(np.uint8)
    Image.fromarray(gradient).save(tmp_path / "large.jpg", quality=95)
    photo = read_photo(tmp_path / "large.jpg")
    assert photo.size == (4200, 6000)
    assert photo.rgb.size == (3000, 2100)
    halves = gradient.reshape(2100, 2, 3000, 2, 3).mean((1, 3))
    assert np.abs(np.array(photo.rgb) - halves).max() < 3


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred kilobytes at most that is as large as its header says, all black."""
    row = zlib.compressobj(9)
    content = b"".join(row.compress(bytes(1 + width // 8)) for _ in range(height)) + row.flush()

    def chunk(name: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 13_600, 40_000])  # Pillow is silent, warns of, and refuses the like
def test_a_decompression_bomb_is_refused_in_one_line_and_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb(side, side))

    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    with warnings.catch_warnings(), pytest.raises(PipelineError, match=r"bomb\.png") as caught:
        warnings.simplefilter("error")
        read_photo(tmp_path / "bomb.png")
    assert "\n" not in str(caught.value)
    assert "pixels" in str(caught.value)


def test_the_limit_is_that_of_pillow_and_an_image_just_below_it_is_read(tmp_path: Path) -> None:
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS
    (tmp_path / "large.png").write_bytes(bomb(9456, MAX_PIXELS // 9456))
    assert read_photo(tmp_path / "large.png").size == (MAX_PIXELS // 9456, 9456)


def damaged_png() -> bytes:
    buffer = io.BytesIO()
    picture(40, 40).save(buffer, format="PNG")
    content = bytearray(buffer.getvalue())
    content[37:41] = b"\0\0\0\1"  # the name of the chunk after the header
    return bytes(content)


def half_a_png() -> bytes:
    buffer = io.BytesIO()
    picture(40, 40).save(buffer, format="PNG")
    return buffer.getvalue()[:2000]


@pytest.mark.parametrize(
    "content", [b"", b"hello", damaged_png(), half_a_png()], ids=["empty", "text", "chunk", "half"]
)
def test_a_file_that_is_no_image_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(PipelineError, match=r"a\.png cannot be read as an image") as caught:
        read_photo(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="cannot be read as an image"):
        read_photo(tmp_path)  # a folder


def ico(content: bytes) -> bytes:
    """An icon that says 16 x 16 of the PNG in it."""
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(content), 22) + content


def icns(content: bytes) -> bytes:
    return b"icns" + struct.pack(">I", 16 + len(content)) + b"ic07" + struct.pack(">I", 8 + len(content)) + content


def iptc(content: bytes) -> bytes:
    """An IPTC record that says 16 x 16 of the picture, of any format, in it."""

    def field(record: int, number: int, body: bytes) -> bytes:
        return bytes([0x1C, record, number, 0x84, 0]) + struct.pack(">I", len(body)) + body

    size = field(3, 20, b"\0\x10") + field(3, 30, b"\0\x10")
    return field(3, 60, b"\1\0") + size + field(3, 120, b"\5") + field(8, 10, content)


@pytest.mark.parametrize("wrapped", [ico, icns, iptc])
def test_a_bomb_that_is_wrapped_in_another_format_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrapped: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "small.jpg").write_bytes(wrapped(bomb(1000, 1000)))
    with Image.open(tmp_path / "small.jpg") as image:  # Pillow takes it for one
        assert image.format == wrapped.__name__.upper()
    with pytest.raises(PipelineError, match="its format is none that is known here"):
        read_photo(tmp_path / "small.jpg")


@pytest.mark.filterwarnings("ignore:Image was not the expected size")
def test_what_comes_out_larger_than_the_header_said_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "FORMATS", ("ICO",))  # no accepted format is known to do it
    (tmp_path / "small.ico").write_bytes(ico(bomb(1000, 1000)))
    with pytest.raises(PipelineError, match=r"1000 x 1000 pixels; at most 0\.5 million"):
        read_photo(tmp_path / "small.ico", max_pixels=500_000)


@pytest.mark.parametrize("kind", images.readable_formats())
def test_every_format_tells_its_size_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "photo"
    picture().save(path, format=kind)
    assert read_photo(path).size == (20, 30)

    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image, "_getdecoder", decode)
    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    with pytest.raises(PipelineError, match="30 x 20 pixels"):
        read_photo(path, max_pixels=599)


@pytest.mark.parametrize("wrapped", [bytes, iptc])
def test_postscript_is_not_handed_to_ghostscript(tmp_path: Path, wrapped: Callable[[bytes], bytes]) -> None:
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\n: > {tmp_path}/ran\n")
    ghostscript.chmod(0o755)
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    (tmp_path / "page.jpg").write_bytes(wrapped(page))
    reads = f"from pipeline.prediction.images import read_photo; read_photo({str(tmp_path / 'page.jpg')!r})"
    environment = {"PATH": str(ghostscript.parent)}
    done = subprocess.run([sys.executable, "-c", reads], env=environment, capture_output=True, text=True)
    assert "page.jpg cannot be read as an image" in done.stderr
    assert not (tmp_path / "ran").exists()
    assert ".eps" not in readable_extensions()
    # The trap works: Pillow itself falls into it.
    opens = f"from PIL import Image; Image.open({str(tmp_path / 'page.jpg')!r}).load()"
    subprocess.run([sys.executable, "-c", opens], env=environment, capture_output=True)
    assert (tmp_path / "ran").exists()


def test_the_common_formats_are_among_those_that_folders_are_searched_for() -> None:
    assert {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".avif"} <= readable_extensions()
    assert not {".h5", ".ico", ".iim", ".mpg", ".pdf", ".txt"} & readable_extensions()
