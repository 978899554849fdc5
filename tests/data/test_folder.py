"""Lists of one's own images, against images written here by Pillow."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.folder import FolderFrames, check_folder, write_list
from pipeline.data.frames import read_slabs
from pipeline.errors import PipelineError

HEIGHT, WIDTH = 6, 9
HEADER = ["rgb", "depth", "split", "scene"]


def write_frame(folder: Path, name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Write NAME.png and NAME_depth.png; return their (H, W, 3) uint8 and (H, W) uint16 pixels."""
    random = np.random.default_rng(seed)
    rgb_u8 = random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    depth_mm = random.integers(500, 10_000, (HEIGHT, WIDTH), np.uint16)
    Image.fromarray(rgb_u8).save(folder / f"{name}.png")
    Image.fromarray(depth_mm).save(folder / f"{name}_depth.png")
    return rgb_u8, depth_mm


def write_csv(path: Path, *rows: list[str], header: list[str] = HEADER) -> Path:
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([header, *rows])
    return path


def row_of(name: str, split: str, scene: str) -> list[str]:
    return [f"{name}.png", f"{name}_depth.png", split, scene]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three frames a, b, c and the list.csv that puts one into each split."""
    for seed, name in enumerate("abc"):
        write_frame(tmp_path, name, seed)
    write_csv(
        tmp_path / "list.csv",
        row_of("a", "train", "kitchen_1"),
        row_of("b", "val", "kitchen_2"),
        row_of("c", "test", "office_1"),
    )
    return tmp_path


def problem(csv_path: Path) -> str:
    with pytest.raises(PipelineError) as caught:
        check_folder(csv_path)
    line = str(caught.value)
    assert "\n" not in line
    assert str(csv_path) in line
    return line


def problem_of_row(folder: Path, row: list[str]) -> str:
    """The error for a list whose third line is `row`, between two good ones."""
    listed = write_csv(folder / "bad.csv", row_of("a", "train", "x"), row, row_of("c", "test", "z"))
    line = problem(listed)
    assert line.startswith(f"{listed}, line 3: ")
    return line


def test_pixels_come_back_as_written(tmp_path: Path) -> None:
    written = [write_frame(tmp_path, name, seed) for seed, name in enumerate("abc")]
    listed = write_csv(
        tmp_path / "list.csv",
        *(row_of(n, s, n) for n, s in zip("abc", ["train", "val", "test"], strict=True)),
    )
    write_list(listed, tmp_path / "frames.csv")
    with FolderFrames(tmp_path / "frames.csv", 1000) as source:
        assert (len(source), source.size) == (3, (HEIGHT, WIDTH))
        frames = source.read(1, 3)
    assert frames.rgb_u8.dtype == np.uint8
    assert frames.depth_m.dtype == np.float32
    np.testing.assert_array_equal(frames.rgb_u8, [rgb for rgb, _ in written[1:]])
    np.testing.assert_allclose(frames.depth_m, [depth / 1000 for _, depth in written[1:]], rtol=1e-7)
    np.testing.assert_array_equal(frames.raw_depth_m, frames.depth_m)


def test_splits_scenes_and_names_follow_the_list(folder: Path) -> None:
    write_list(folder / "list.csv", folder / "frames.csv")
    with FolderFrames(folder / "frames.csv", 1000) as source:
        assert source.splits == {"train": [0], "val": [1], "test": [2]}
        assert source.scenes == ["kitchen_1", "kitchen_2", "office_1"]
        assert source.scene_types == ["kitchen", "kitchen", "office"]
        assert source.names == ["a.png", "b.png", "c.png"]


def test_a_given_scene_type_is_used(folder: Path) -> None:
    write_csv(
        folder / "list.csv",
        [*row_of("a", "train", "house_a"), "attic"],
        [*row_of("b", "test", "house_b"), ""],
        header=[*HEADER, "scene_type"],
    )
    assert [row.scene_type for row in check_folder(folder / "list.csv")] == ["attic", "house"]


def test_names_tell_equal_file_names_apart(tmp_path: Path) -> None:
    for scene in ("hall", "attic"):
        (tmp_path / scene).mkdir()
        write_frame(tmp_path / scene, "0", 0)
    rows = [row_of("hall/0", "train", "hall"), row_of("attic/0", "test", "attic")]
    write_list(write_csv(tmp_path / "list.csv", *rows), tmp_path / "frames.csv")
    with FolderFrames(tmp_path / "frames.csv", 1000) as source:
        assert source.names == ["hall/0.png", "attic/0.png"]


@pytest.mark.parametrize("depth_scale", [1000.0, 5000.0, 256.0, 6553.5])
def test_every_16_bit_depth_keeps_its_precision_and_zero_stays_missing(tmp_path: Path, depth_scale: float) -> None:
    units = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    for name in "ab":
        Image.fromarray(units).save(tmp_path / f"{name}_depth.png")
        Image.new("RGB", (256, 256)).save(tmp_path / f"{name}.png")
    listed = write_csv(tmp_path / "list.csv", row_of("a", "train", "x"), row_of("b", "test", "y"))
    with FolderFrames(listed, depth_scale) as source:
        depth_m = source.read(0, 1).depth_m[0]
    assert depth_m[0, 0] == 0
    assert (depth_m.ravel()[1:] > 0).all()
    np.testing.assert_allclose(depth_m, units.astype(np.float64) / depth_scale, rtol=1e-7)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_any_8_bit_image_becomes_rgb(folder: Path, mode: str) -> None:
    rgb = Image.open(folder / "b.png").convert(mode)
    rgb.save(folder / "a.png")
    with FolderFrames(folder / "list.csv", 1000) as source:
        rgb_u8 = source.read(0, 1).rgb_u8[0]
    if mode == "RGBA":
        np.testing.assert_array_equal(rgb_u8, np.asarray(Image.open(folder / "b.png")))
    elif mode in ("L", "LA", "1"):
        np.testing.assert_array_equal(rgb_u8, np.asarray(rgb.convert("L"))[:, :, None].repeat(3, 2))
    assert rgb_u8.shape == (HEIGHT, WIDTH, 3)


def test_a_jpeg_is_read(folder: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT), (200, 100, 50)).save(folder / "a.jpg")
    rows = [["a.jpg", "a_depth.png", "train", "x"], row_of("b", "test", "y")]
    with FolderFrames(write_csv(folder / "jpeg.csv", *rows), 1000) as source:
        assert np.abs(source.read(0, 1).rgb_u8[0].astype(int) - (200, 100, 50)).max() < 8


def test_the_written_list_can_be_read_from_anywhere(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(folder)
    write_list(Path("list.csv"), elsewhere / "raw" / "frames.csv")
    monkeypatch.chdir(elsewhere)
    with FolderFrames(Path("raw/frames.csv"), 1000) as source:
        assert source.read(0, 3).depth_m.shape == (3, HEIGHT, WIDTH)


def test_absolute_paths_are_taken_as_they_are(folder: Path) -> None:
    (folder / "lists").mkdir()
    rows = [
        [str(folder / "a.png"), str(folder / "a_depth.png"), "train", "x"],
        ["../b.png", "../b_depth.png", "test", "y"],
    ]
    checked = check_folder(write_csv(folder / "lists" / "list.csv", *rows))
    assert [row.rgb for row in checked] == [folder / "a.png", folder / "b.png"]


def test_the_written_list_changes_when_an_image_does_and_only_then(folder: Path) -> None:
    target = folder / "frames.csv"
    write_list(folder / "list.csv", target)
    before = target.read_bytes()
    write_list(folder / "list.csv", target)
    assert target.read_bytes() == before
    for name in ("b.png", "b_depth.png"):
        pixels = np.array(Image.open(folder / name))
        pixels.flat[0] ^= 1
        Image.fromarray(pixels).save(folder / name)
        write_list(folder / "list.csv", target)
        assert target.read_bytes() != before
        before = target.read_bytes()


def test_a_list_with_a_problem_is_not_written(folder: Path) -> None:
    (folder / "b.png").unlink()
    with pytest.raises(PipelineError):
        write_list(folder / "list.csv", folder / "frames.csv")
    assert not (folder / "frames.csv").exists()


def test_a_spreadsheet_with_byte_order_mark_and_spaces_is_read(folder: Path) -> None:
    text = (folder / "list.csv").read_text().replace(",", " , ")
    (folder / "list.csv").write_text(text, encoding="utf-8-sig")
    assert [row.scene for row in check_folder(folder / "list.csv")] == ["kitchen_1", "kitchen_2", "office_1"]


def test_checking_shows_a_progress_bar(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_list(folder / "list.csv", folder / "frames.csv")
    shown = capsys.readouterr().err
    assert "check images: 100%" in shown
    assert "hash images: 100%" in shown


def test_frames_are_read_one_by_one_without_waste(folder: Path) -> None:
    (folder / "b.png").write_bytes(b"damaged")  # not wanted, so not opened
    with FolderFrames(folder / "list.csv", 1000) as source:
        assert [indices for indices, _ in read_slabs(source, [2, 0])] == [[0], [2]]


def test_a_missing_list_is_an_error(tmp_path: Path) -> None:
    assert "does not exist" in problem(tmp_path / "none.csv")
    with pytest.raises(PipelineError, match="does not exist"), FolderFrames(tmp_path / "none.csv", 1000):
        pass


@pytest.mark.parametrize(
    "header",
    [
        "rgb,depth,split",
        "rgb;depth;split;scene",
        "",
        "rgb,depth,split,scene,scenetype",
        "rgb,rgb,depth,split,scene",
    ],
)
def test_another_header_is_an_error(tmp_path: Path, header: str) -> None:
    (tmp_path / "list.csv").write_text(header + "\n")
    assert f"the header is '{header}'; it must be 'rgb,depth,split,scene'" in problem(tmp_path / "list.csv")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00r", b"rgb,depth,split,scene\n\x00\xe9"])
def test_a_list_that_is_no_text_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    assert "is no UTF-8 text" in problem(tmp_path / "list.csv")


def test_an_image_as_list_is_an_error(folder: Path) -> None:
    problem(folder / "a.png")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (["b.png", "b_depth.png", "training", "y"], "split is 'training', not one of train, val, test"),
        (["b.png", "b_depth.png", "train", " "], "scene is empty"),
        (["", "b_depth.png", "train", "y"], "rgb is empty"),
        (["b.png", "b_depth.png", "train"], "scene is empty"),
        (["b.png", "b_depth.png", "train", "y", "kitchen"], "more fields than the header"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(folder: Path, row: list[str], complaint: str) -> None:
    assert complaint in problem_of_row(folder, row)


@pytest.mark.parametrize("gone", ["b.png", "b_depth.png"])
def test_a_missing_file_is_named(folder: Path, gone: str) -> None:
    (folder / gone).unlink()
    assert f"{folder / gone} does not exist" in problem_of_row(folder, row_of("b", "train", "y"))


@pytest.mark.parametrize("damaged", ["b.png", "b_depth.png"])
def test_a_file_that_is_no_image_is_named(folder: Path, damaged: str) -> None:
    (folder / damaged).write_bytes(b"no image")
    assert f"{folder / damaged} cannot be read" in problem_of_row(folder, row_of("b", "train", "y"))


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_depth_that_is_not_16_bit_grey_is_an_error(folder: Path, mode: str) -> None:
    Image.new(mode, (WIDTH, HEIGHT)).save(folder / "b_depth.png")
    complaint = problem_of_row(folder, row_of("b", "train", "y"))
    assert f"{folder / 'b_depth.png'} has mode {mode}; depth must be a 16-bit grey PNG" in complaint


def test_swapped_columns_are_an_error(folder: Path) -> None:
    complaint = problem_of_row(folder, ["b_depth.png", "b.png", "train", "y"])
    assert f"{folder / 'b_depth.png'} has mode I;16; rgb must be" in complaint


def test_depth_of_another_size_than_its_image_is_an_error(folder: Path) -> None:
    Image.fromarray(np.ones((5, 7), np.uint16)).save(folder / "b_depth.png")
    assert "b_depth.png is 7 x 5, its image" in problem_of_row(folder, row_of("b", "train", "y"))


def test_the_first_frame_of_another_size_is_named(folder: Path) -> None:
    for name in "bc":
        Image.new("RGB", (7, 5)).save(folder / f"{name}.png")
        Image.fromarray(np.ones((5, 7), np.uint16)).save(folder / f"{name}_depth.png")
    complaint = problem_of_row(folder, row_of("b", "train", "y"))
    assert f"{folder / 'b.png'} is 7 x 5, the frames before it 9 x 6" in complaint
    assert complaint.endswith("(and 1 more)")


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_scene_in_two_splits_is_an_error(folder: Path, split: str) -> None:
    complaint = problem_of_row(folder, row_of("b", split, "x"))
    assert f"scene 'x' is in {split} here and in train on line 2" in complaint


def test_a_frame_listed_twice_is_an_error(folder: Path) -> None:
    complaint = problem_of_row(folder, row_of("a", "train", "x"))
    assert f"{folder / 'a.png'} is listed already on line 2 (and 1 more)" in complaint


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_list_without_a_needed_split_is_an_error(folder: Path, split: str) -> None:
    others = [row_of(name, "val" if split == "train" else "train", name) for name in "ab"]
    rows = [*others, row_of("c", "test" if split == "train" else "val", "c")]
    assert f"has no {split} rows" in problem(write_csv(folder / "list.csv", *rows))


def test_a_list_without_rows_is_an_error(tmp_path: Path) -> None:
    listed = write_csv(tmp_path / "list.csv")
    assert "has no train rows" in problem(listed)
    with pytest.raises(PipelineError, match="lists no frames"), FolderFrames(listed, 1000):
        pass


def test_the_first_problem_stands_for_all(folder: Path) -> None:
    (folder / "c.png").unlink()
    rows = [row_of("a", "train", "x"), row_of("c", "test", "y"), row_of("b", "none", "z")]
    line = problem(write_csv(folder / "list.csv", *rows))
    assert "line 3: " in line
    assert line.endswith("c.png does not exist (and 1 more)")


@pytest.mark.parametrize("name", ["a.png", "a_depth.png"])
def test_an_image_cut_short_is_named_on_reading(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-40])
    with (
        FolderFrames(folder / "list.csv", 1000) as source,
        pytest.raises(PipelineError, match="cannot be read"),
    ):
        source.read(0, 1)


def test_an_image_replaced_since_the_fetch_is_named_on_reading(folder: Path) -> None:
    Image.new("L", (WIDTH, HEIGHT)).save(folder / "b_depth.png")
    Image.new("RGB", (7, 5)).save(folder / "c.png")
    with FolderFrames(folder / "list.csv", 1000) as source:
        with pytest.raises(PipelineError, match=r"b_depth\.png has mode L"):
            source.read(1, 2)
        with pytest.raises(PipelineError, match=r"c\.png is 7 x 5 and no longer 9 x 6"):
            source.read(2, 3)
