"""Frames of a list that the fetch stage wrote, against images written here by Pillow."""

from __future__ import annotations

import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.folder import FolderFrames
from pipeline.data.frames import read_slabs
from pipeline.errors import PipelineError
from tests.data.own_images import HEIGHT, WIDTH, fetched, row_of, write_csv, write_frame


def test_pixels_come_back_as_written(tmp_path: Path) -> None:
    written = [write_frame(tmp_path, name, seed) for seed, name in enumerate("abc")]
    listed = write_csv(
        tmp_path / "list.csv",
        *(row_of(n, s, n) for n, s in zip("abc", ["train", "val", "test"], strict=True)),
    )
    with FolderFrames(fetched(listed)) as source:
        assert (len(source), source.size) == (3, (HEIGHT, WIDTH))
        frames = source.read(1, 3)
    assert frames.rgb_u8.dtype == np.uint8
    assert frames.depth_m.dtype == np.float32
    np.testing.assert_array_equal(frames.rgb_u8, [rgb for rgb, _ in written[1:]])
    np.testing.assert_allclose(frames.depth_m, [depth / 1000 for _, depth in written[1:]], rtol=1e-7)
    np.testing.assert_array_equal(frames.raw_depth_m, frames.depth_m)


def test_a_reader_that_has_travelled_reads_its_frames_by_their_index_and_carries_no_others(images: Path) -> None:
    with FolderFrames(fetched(images / "list.csv")) as source:
        reader = pickle.loads(pickle.dumps(source.reader([2, 0])))
        for index in (0, 2):
            for here, there in zip(source.read(index, index + 1), reader.read(index), strict=True):
                np.testing.assert_array_equal(here, there)
    with pytest.raises(KeyError):
        reader.read(1)


def test_splits_scenes_and_names_follow_the_list(images: Path) -> None:
    with FolderFrames(fetched(images / "list.csv")) as source:
        assert source.splits == {"train": [0], "val": [1], "test": [2]}
        assert source.scenes == ["kitchen_1", "kitchen_2", "office_1"]
        assert source.scene_types == ["kitchen", "kitchen", "office"]
        assert source.names == ["a.png", "b.png", "c.png"]


def test_names_tell_equal_file_names_apart(tmp_path: Path) -> None:
    for scene in ("hall", "attic"):
        write_frame(tmp_path / scene, "0", 0)
    rows = [row_of("hall/0", "train", "hall"), row_of("attic/0", "test", "attic")]
    with FolderFrames(fetched(write_csv(tmp_path / "list.csv", *rows))) as source:
        assert source.names == ["hall/0.png", "attic/0.png"]


@pytest.mark.parametrize("depth_scale", [1000.0, 5000.0, 256.0, 6553.5])
def test_every_16_bit_depth_keeps_its_precision_and_zero_stays_missing(tmp_path: Path, depth_scale: float) -> None:
    units = np.minimum(np.arange(65_536), int(32.767 * depth_scale)).astype(np.uint16).reshape(256, 256)
    for name in "ab":
        Image.fromarray(units).save(tmp_path / f"{name}_depth.png")
        Image.new("RGB", (256, 256)).save(tmp_path / f"{name}.png")
    listed = write_csv(tmp_path / "list.csv", row_of("a", "train", "x"), row_of("b", "test", "y"))
    with FolderFrames(fetched(listed, scale=depth_scale)) as source:
        depth_m = source.read(0, 1).depth_m[0]
    assert depth_m[0, 0] == 0
    assert (depth_m.ravel()[1:] > 0).all()
    np.testing.assert_allclose(depth_m, units.astype(np.float64) / depth_scale, rtol=1e-7)


def test_a_depth_beyond_what_shards_hold_asks_for_the_scale(images: Path) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), 5000, np.uint16)).save(images / "b_depth.png")
    frames = fetched(images / "list.csv", scale=152.0)
    with (
        FolderFrames(frames) as source,
        pytest.raises(
            PipelineError,
            match=r"list\.csv, line 3: .*b_depth\.png has a depth of 32\.8947 m, and 32\.767 m is the most; is "
            r"fetch\.folder\.depth_scale right \(152 to the metre\)\?",
        ),
    ):
        source.read(1, 2)
    with FolderFrames(fetched(images / "list.csv", scale=153.0)) as source:
        assert source.read(1, 2).depth_m.max() == pytest.approx(5000 / 153)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_any_8_bit_image_becomes_rgb(images: Path, mode: str) -> None:
    rgb = Image.open(images / "b.png").convert(mode)
    rgb.save(images / "a.png")
    with FolderFrames(fetched(images / "list.csv")) as source:
        rgb_u8 = source.read(0, 1).rgb_u8[0]
    if mode == "RGBA":
        np.testing.assert_array_equal(rgb_u8, np.asarray(Image.open(images / "b.png")))
    elif mode in ("L", "LA", "1"):
        np.testing.assert_array_equal(rgb_u8, np.asarray(rgb.convert("L"))[:, :, None].repeat(3, 2))
    assert rgb_u8.shape == (HEIGHT, WIDTH, 3)


def test_a_jpeg_is_read(images: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT), (200, 100, 50)).save(images / "a.jpg")
    rows = [["a.jpg", "a_depth.png", "train", "x"], row_of("b", "test", "y")]
    with FolderFrames(fetched(write_csv(images / "jpeg.csv", *rows))) as source:
        assert np.abs(source.read(0, 1).rgb_u8[0].astype(int) - (200, 100, 50)).max() < 8


def test_frames_are_read_one_by_one_without_waste(images: Path) -> None:
    frames = fetched(images / "list.csv")
    (images / "b.png").write_bytes(b"damaged")  # not wanted, so not opened
    with FolderFrames(frames) as source:
        assert [indices for indices, _ in read_slabs(source, [2, 0])] == [[0], [2]]


def test_a_frame_that_has_changed_since_the_fetch_is_named_with_its_line(images: Path) -> None:
    frames = fetched(images / "list.csv")
    pixels = np.array(Image.open(images / "b_depth.png"))
    pixels[0, 0] += 1
    Image.fromarray(pixels).save(images / "b_depth.png")
    (images / "c.png").unlink()
    with FolderFrames(frames) as source:
        with pytest.raises(PipelineError, match=r"list\.csv, line 3: .*b_depth\.png has changed since; run"):
            source.read(1, 2)
        with pytest.raises(PipelineError, match=r"list\.csv, line 4: .*c\.png does not exist"):
            source.read(2, 3)


def test_pixels_that_cannot_be_decoded_are_named_with_list_and_line(images: Path) -> None:
    # Of a PNG the fetch stage looks at the check sums only; this one's last rows were never compressed.
    content = (images / "b.png").read_bytes()
    start = content.index(b"IDAT")
    length = int.from_bytes(content[start - 4 : start])
    part = b"IDAT" + zlib.compress(zlib.decompress(content[start + 4 : start + 4 + length])[:40])
    part = struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
    (images / "b.png").write_bytes(content[: start - 4] + part + content[start + 8 + length :])
    rows = [row_of("a", "train", "x"), row_of("b", "train", "x"), row_of("c", "test", "z")]
    frames = fetched(write_csv(images / "list.csv", *rows))
    with (
        FolderFrames(frames) as source,
        pytest.raises(PipelineError, match=r"list\.csv, line 3: .*b\.png cannot be read as an image"),
    ):
        source.read(1, 2)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "does not exist; run the fetch stage"),
        ("rgb,depth\na.png,b.png\n", "is damaged .*; run the fetch stage again"),
        ("{header}\na.png,b.png\n", "is damaged .*; run the fetch stage again"),
        ("{header}\n", "lists no frames; run the fetch stage again"),
    ],
)
def test_a_written_list_that_is_none_any_more_is_one_line(images: Path, content: str | None, told: str) -> None:
    frames = fetched(images / "list.csv")
    header = frames.read_text(encoding="utf-8").partition("\n")[0]
    frames.unlink()
    if content is not None:
        frames.write_text(content.replace("{header}", header), encoding="utf-8")
    with pytest.raises(PipelineError, match=rf"frames\.csv {told}") as caught, FolderFrames(frames):
        pass
    assert "\n" not in str(caught.value)
