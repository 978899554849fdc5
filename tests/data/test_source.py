"""What the fetch stage left behind, opened whichever source it came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.lists import write_list
from pipeline.data.nyu import NyuWriter, pack_frame, write_splits
from pipeline.data.source import describe_source, open_source
from pipeline.errors import PipelineError

FRAMES, HEIGHT, WIDTH = 4, 24, 32
RANDOM = np.random.default_rng(0)
RGB_U8 = RANDOM.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
DEPTH_MM = RANDOM.integers(500, 10_000, (FRAMES, HEIGHT, WIDTH)).astype(np.uint16)
DEPTH_M = DEPTH_MM.astype(np.float32) / 1000


def fill_with_mat(raw: Path) -> None:
    with NyuWriter(raw / "nyu_depth_v2_labeled.mat", FRAMES, (HEIGHT, WIDTH)) as writer:
        for index in range(FRAMES):
            packed = pack_frame(RGB_U8[index], DEPTH_M[index], DEPTH_M[index])
            writer.append(packed, f"study_{index:04d}", "study")
    write_splits(raw / "splits.mat", {"train": [0, 2], "test": [1, 3]})


@pytest.mark.parametrize("kind", ["rooms", "nyu_v2", "file"])
def test_a_labelled_file_is_opened_with_its_splits(tmp_path: Path, kind: str) -> None:
    fill_with_mat(tmp_path)
    describe_source(tmp_path / "source.json", kind)
    with open_source(tmp_path) as source:
        frames = source.frames.read(0, FRAMES)
        assert source.kind == kind
        assert source.splits == {"train": [0, 2], "test": [1, 3]}
        assert list(source.frames.scenes) == [f"study_{index:04d}" for index in range(FRAMES)]
    np.testing.assert_array_equal(frames.rgb_u8, RGB_U8)
    np.testing.assert_array_equal(frames.depth_m, DEPTH_M)


def test_a_list_of_images_is_opened_with_its_depth_scale_and_its_own_validation_split(tmp_path: Path) -> None:
    images, raw = tmp_path / "images", tmp_path / "raw"
    images.mkdir()
    rows = ["rgb,depth,split,scene"]
    for index, split in enumerate(["train", "val", "test", "train"]):
        Image.fromarray(RGB_U8[index]).save(images / f"{index}.png")
        Image.fromarray(DEPTH_MM[index]).save(images / f"{index}_depth.png")
        rows.append(f"{index}.png,{index}_depth.png,{split},study_{index}")
    (images / "list.csv").write_text("\n".join(rows), encoding="utf-8")
    raw.mkdir()
    write_list(images / "list.csv", raw / "frames.csv", problems=tmp_path / "problems.csv", depth_scale=5000.0)
    describe_source(raw / "source.json", "folder")
    with open_source(raw) as source:
        frames = source.frames.read(0, FRAMES)
        assert source.kind == "folder"
        assert source.splits == {"train": [0, 3], "val": [1], "test": [2]}
    np.testing.assert_array_equal(frames.rgb_u8, RGB_U8)
    np.testing.assert_allclose(frames.depth_m, DEPTH_MM / 5000, rtol=1e-6)


def test_an_empty_folder_asks_for_the_stage_that_fills_it(tmp_path: Path) -> None:
    with (
        pytest.raises(PipelineError, match=r"source\.json does not exist; run the fetch stage"),
        open_source(tmp_path),
    ):
        pass


@pytest.mark.parametrize("missing", ["nyu_depth_v2_labeled.mat", "splits.mat"])
def test_a_file_that_has_gone_is_named(tmp_path: Path, missing: str) -> None:
    fill_with_mat(tmp_path)
    describe_source(tmp_path / "source.json", "rooms")
    (tmp_path / missing).unlink()
    with pytest.raises(PipelineError, match=missing), open_source(tmp_path):
        pass
