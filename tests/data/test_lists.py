"""Lists of one's own images in each layout, and everything that is wrong with them."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.folder import FolderFrames
from pipeline.data.lists import write_list
from pipeline.errors import PipelineError
from tests.data.own_images import HEADER, HEIGHT, WIDTH, fetched, row_of, write_csv, write_frame


def problem(listed: Path, test_list: Path | None = None) -> str:
    with pytest.raises(PipelineError) as caught:
        fetched(listed, test_list)
    line = str(caught.value)
    assert "\n" not in line
    assert str(listed) in line
    assert not listed.with_name("frames.csv").exists()
    return line


def listed_problems(folder: Path) -> list[dict[str, str]]:
    with (folder / "problems.csv").open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def problem_of_row(folder: Path, row: list[str]) -> str:
    """The error for a list whose third line is `row`, between two good ones."""
    listed = write_csv(folder / "bad.csv", row_of("a", "train", "x"), row, row_of("c", "test", "z"))
    line = problem(listed)
    assert line.startswith(f"{listed}, line 3: ")
    return line


def scenes_and_splits(
    listed: Path, test_list: Path | None = None, root: Path | None = None
) -> list[tuple[str, ...]]:
    with FolderFrames(fetched(listed, test_list, root=root)) as source:
        split_of = {index: split for split, indices in source.splits.items() for index in indices}
        rows = zip(source.names, source.scenes, source.scene_types, strict=True)
        return [(*row, split_of[index]) for index, row in enumerate(rows)]


# DenseDepth's layout: 8 bits for training, 16 for testing, paths that begin with the folder of the list.


def write_densedepth(root: Path) -> tuple[Path, Path]:
    """data/nyu2_train.csv and data/nyu2_test.csv, whose paths count from `root`."""
    for number, scene in enumerate(["living_room_0038_out", "living_room_0038_out", "office_0012_out"]):
        folder = root / "data" / "nyu2_train" / scene
        rgb, _ = write_frame(folder, "unused", number)
        Image.fromarray(rgb).save(folder / f"{number}.jpg")
        ramp = np.linspace(0, 255, HEIGHT * WIDTH).round().astype(np.uint8).reshape(HEIGHT, WIDTH)
        Image.fromarray(ramp).save(folder / f"{number}.png")
    write_frame(root / "data" / "nyu2_test", "00000", 7)
    train = ["living_room_0038_out/0", "living_room_0038_out/1", "office_0012_out/2"]
    lines = [f"data/nyu2_train/{name}.jpg,data/nyu2_train/{name}.png" for name in train]
    (root / "data" / "nyu2_train.csv").write_text("\r\n".join(lines) + "\r\n\r\n", encoding="utf-8")
    test = "data/nyu2_test/00000.png,data/nyu2_test/00000_depth.png\n"
    (root / "data" / "nyu2_test.csv").write_text(test, encoding="utf-8")
    return root / "data" / "nyu2_train.csv", root / "data" / "nyu2_test.csv"


def test_densedepths_lists_are_read_with_scenes_from_their_folders(tmp_path: Path) -> None:
    train, test = write_densedepth(tmp_path)
    assert scenes_and_splits(train, test, tmp_path) == [
        ("nyu2_train/living_room_0038_out/0.jpg", "living_room_0038", "living_room", "train"),
        ("nyu2_train/living_room_0038_out/1.jpg", "living_room_0038", "living_room", "train"),
        ("nyu2_train/office_0012_out/2.jpg", "office_0012", "office", "train"),
        ("nyu2_test/00000.png", "nyu2_test", "nyu2_test", "test"),
    ]


def test_densedepths_8_bits_stand_for_10_m_and_its_16_bits_for_millimetres(tmp_path: Path) -> None:
    train, test = write_densedepth(tmp_path)
    with FolderFrames(fetched(train, test, root=tmp_path)) as source:
        eight, sixteen = source.read(0, 1).depth_m[0], source.read(3, 4).depth_m[0]
    ramp = np.asarray(Image.open(tmp_path / "data/nyu2_train/living_room_0038_out/0.png"))
    millimetres = np.asarray(Image.open(tmp_path / "data/nyu2_test/00000_depth.png"))
    np.testing.assert_allclose(eight, ramp.astype(np.float64) / 255 * 10, rtol=1e-6)
    assert eight.flat[0] == 0 and eight.max() == pytest.approx(10)
    np.testing.assert_allclose(sixteen, millimetres / 1000, rtol=1e-6)


def test_paths_that_count_from_elsewhere_are_answered_with_the_parameter_that_says_so(tmp_path: Path) -> None:
    train, test = write_densedepth(tmp_path)
    assert "no image is there: fetch.folder.root names the folder" in problem(train, test)


# The text lists of BTS: paths begin with a slash, and some lines have no depth.


def write_bts(root: Path, *, train_scene: str = "kitchen_0028b") -> tuple[Path, Path]:
    for scene in (train_scene, "bathroom"):
        for number in (45, 46):
            write_frame(root / scene, f"rgb_{number}", number)
            (root / scene / f"rgb_{number}_depth.png").rename(root / scene / f"sync_depth_{number}.png")
    lines = [f"/{train_scene}/rgb_{n}.png /{train_scene}/sync_depth_{n}.png 518.8579" for n in (45, 46)]
    (root / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    lines = ["bathroom/rgb_45.png None 721.5377\nbathroom/rgb_46.png bathroom/sync_depth_46.png 518.8579\n"]
    (root / "test.txt").write_text("\n".join(lines), encoding="utf-8")
    return root / "train.txt", root / "test.txt"


def test_bts_lists_are_read_and_lines_without_depth_are_left_out_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = write_bts(tmp_path)
    assert scenes_and_splits(train, test) == [
        ("kitchen_0028b/rgb_45.png", "kitchen_0028", "kitchen", "train"),
        ("kitchen_0028b/rgb_46.png", "kitchen_0028", "kitchen", "train"),
        ("bathroom/rgb_46.png", "bathroom", "bathroom", "test"),
    ]
    assert f"note: {test}: 1 lines without depth (None) are left out" in capsys.readouterr().err


def test_bts_depth_is_16_bit_millimetres_or_what_the_scale_says(tmp_path: Path) -> None:
    train, test = write_bts(tmp_path)
    units = np.asarray(Image.open(tmp_path / "kitchen_0028b/sync_depth_45.png")).astype(np.float64)
    for scale in (1000.0, 2000.0):
        with FolderFrames(fetched(train, test, scale=scale)) as source:
            np.testing.assert_allclose(source.read(0, 1).depth_m[0], units / scale, rtol=1e-6)


def test_8_bits_are_refused_where_a_list_means_millimetres(tmp_path: Path) -> None:
    train, test = write_bts(tmp_path)
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "bathroom/sync_depth_46.png")
    assert "sync_depth_46.png has mode L; depth must be a 16-bit grey PNG" in str(problem_text(train, test))


def problem_text(train: Path, test: Path) -> str:
    with pytest.raises(PipelineError) as caught:
        fetched(train, test)
    return str(caught.value)


def test_a_scene_in_both_lists_is_refused(tmp_path: Path) -> None:
    train, test = write_bts(tmp_path, train_scene="bathroom")
    text = problem_text(train, test)
    assert text.startswith(f"{test}, line 2: ")
    assert "and 2 more" in text  # both images of the frame are listed twice too
    reasons = [row["reason"] for row in listed_problems(tmp_path)]
    assert (
        f"scene 'bathroom' is in test here and in train on line 1 of {train}; a scene belongs to one split"
        in reasons
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/kitchen_0028b/rgb_45.png", "it has 1 fields; a line is RGB DEPTH FOCAL, separated by spaces"),
        ("a b c d", "it has 4 fields; a line is RGB DEPTH FOCAL"),
        ("rgb_45.png depth.png 518.8", "rgb_45.png lies in no folder, whose name would be its scene"),
        ("/a\0b/rgb.png /a/depth.png 1", "it has a null character"),
    ],
)
def test_a_line_that_is_not_of_its_layout_is_named(tmp_path: Path, line: str, told: str) -> None:
    train, test = write_bts(tmp_path)
    train.write_text(train.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    text = problem_text(train, test)
    assert text.startswith(f"{train}, line 3: ")
    assert told in text


def test_a_list_without_splits_asks_for_the_list_of_test_frames(tmp_path: Path) -> None:
    train, _ = write_bts(tmp_path)
    assert "has no test rows" in problem(train)
    assert "name a list of test frames in fetch.folder.test_list" in problem(train)


def test_a_list_with_splits_stands_alone(images: Path) -> None:
    write_bts(images)
    assert "set fetch.folder.test_list to null" in problem(images / "list.csv", images / "test.txt")


# What is common to all of them.


def test_every_problem_is_listed_in_a_file_and_the_error_tells_the_first(tmp_path: Path) -> None:
    names = [f"scene_{number % 40:04d}/{number}" for number in range(2000)]
    for number in range(40):
        write_frame(tmp_path / f"scene_{number:04d}", "x", number)
    for name in names:
        scene = tmp_path / name.partition("/")[0]
        for end in (".png", "_depth.png"):
            (tmp_path / f"{name}{end}").hardlink_to(scene / f"x{end}")
    rows = [row_of(name, "test" if "_0001" in name else "train", name.partition("/")[0]) for name in names]
    missing, cut, grey = names[700], names[1500], names[1999]
    (tmp_path / f"{missing}.png").unlink()
    content = (tmp_path / f"{cut}_depth.png").read_bytes()
    (tmp_path / f"{cut}_depth.png").unlink()
    (tmp_path / f"{cut}_depth.png").write_bytes(content[:-20])
    (tmp_path / f"{grey}_depth.png").unlink()
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / f"{grey}_depth.png")
    line = problem(write_csv(tmp_path / "list.csv", *rows))
    assert f"list.csv, line 702: {tmp_path / missing}.png does not exist (and 2 more); " in line
    assert f"{tmp_path / 'problems.csv'} lists all" in line
    found = [(row["line"], row["file"], row["reason"].partition(":")[0]) for row in listed_problems(tmp_path)]
    assert found == [
        ("702", f"{tmp_path / missing}.png", "does not exist"),
        ("1502", f"{tmp_path / cut}_depth.png", "cannot be read as an image"),
        ("2001", f"{tmp_path / grey}_depth.png", "has mode L; depth must be a 16-bit grey PNG"),
    ]


def test_a_list_that_has_been_mended_leaves_no_list_of_problems(images: Path) -> None:
    before = (images / "b.png").read_bytes()
    (images / "b.png").unlink()
    problem(images / "list.csv")
    assert len(listed_problems(images)) == 1
    (images / "b.png").write_bytes(before)
    fetched(images / "list.csv")
    assert not (images / "problems.csv").exists()


def test_both_images_of_a_frame_are_looked_at(images: Path) -> None:
    (images / "b.png").unlink()
    (images / "b_depth.png").write_bytes(b"no image")
    problem(images / "list.csv")
    assert [Path(row["file"]).name for row in listed_problems(images)] == ["b.png", "b_depth.png"]


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_thumbnail() -> bytes:
    """A JPEG that holds a whole JPEG in its header, as cameras write them, whose end is no end of the image."""
    thumbnail = jpeg()
    return jpeg(exif=b"Exif\0\0" + thumbnail) if len(thumbnail) < 60_000 else b""


@pytest.mark.parametrize("make", [jpeg, with_thumbnail], ids=["plain", "thumbnail"])
def test_a_jpeg_cut_anywhere_is_found_and_one_with_something_behind_its_end_is_whole(
    images: Path, make: Callable[[], bytes]
) -> None:
    whole = make()
    rows = [["a.jpg", "a_depth.png", "train", "x"], row_of("b", "test", "y")]
    listed = write_csv(images / "jpeg.csv", *rows)
    (images / "a.jpg").write_bytes(whole + b"\0\0padding")
    fetched(listed)
    (images / "frames.csv").unlink()
    for kept in (len(whole) - 1, len(whole) - 2, len(whole) - 40, len(whole) // 2, 10):
        (images / "a.jpg").write_bytes(whole[:kept])
        assert "a.jpg cannot be read as an image" in problem(listed), kept


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.9, 0.97])
@pytest.mark.parametrize("name", ["a.png", "a_depth.png"])
def test_a_png_cut_anywhere_is_found(images: Path, name: str, kept: float) -> None:
    content = (images / name).read_bytes()
    (images / name).write_bytes(content[: int(kept * len(content))])
    assert f"{name} cannot be read as an image" in problem(images / "list.csv")


def test_a_png_with_a_flipped_bit_is_found(images: Path) -> None:
    content = bytearray((images / "a_depth.png").read_bytes())
    content[len(content) // 2] ^= 1
    (images / "a_depth.png").write_bytes(content)
    assert "a_depth.png cannot be read as an image" in problem(images / "list.csv")


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that anybody may read; the process is a user who may do no more."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        if os.geteuid() == 0:
            os.seteuid(65534)
            try:
                yield Path(folder)
            finally:
                os.seteuid(0)
        else:
            yield Path(folder)


@pytest.mark.parametrize("name", ["list.csv", "b.png", "b_depth.png"])
def test_a_file_without_permission_is_named(as_nobody: Path, name: str) -> None:
    for number, frame in enumerate("abc"):
        write_frame(as_nobody, frame, number)
    rows = [row_of(frame, split, frame) for frame, split in zip("abc", ("train", "train", "test"), strict=True)]
    write_csv(as_nobody / "list.csv", *rows)
    (as_nobody / name).chmod(0)
    assert f"{as_nobody / name} cannot be read: Permission denied" in problem(as_nobody / "list.csv")


def test_a_list_of_problems_that_cannot_be_written_does_not_hide_the_first(images: Path) -> None:
    (images / "b.png").unlink()
    (images / "c.png").unlink()
    (images / "file").write_bytes(b"")
    with pytest.raises(PipelineError, match=r"b\.png does not exist \(and 1 more\); they could not be listed in"):
        write_list(images / "list.csv", images / "frames.csv", problems=images / "file" / "problems.csv")


@pytest.mark.parametrize("kind", ["BMP", "PPM", "TIFF", "WEBP"])
def test_an_image_of_another_kind_cut_anywhere_is_found(images: Path, kind: str) -> None:
    Image.open(images / "b.png").save(images / "b.image", kind)
    whole = (images / "b.image").read_bytes()
    rows = [row_of("a", "train", "x"), ["b.image", "b_depth.png", "train", "x"], row_of("c", "test", "z")]
    listed = write_csv(images / "list.csv", *rows)
    fetched(listed)
    (images / "frames.csv").unlink()
    for kept in (0.3, 0.6, 0.9):
        (images / "b.image").write_bytes(whole[: int(kept * len(whole))])
        assert "list.csv, line 3: " in problem(listed)
        assert "b.image cannot be read as an image" in problem(listed)


@pytest.mark.parametrize("name", ["list.csv", "b.png", "b_depth.png"])
def test_a_pipe_in_place_of_a_file_is_named_and_not_waited_for(images: Path, name: str) -> None:
    (images / name).unlink()
    os.mkfifo(images / name)
    assert f"{name} cannot be read: it is a pipe or a device, no file" in problem(images / "list.csv")


def test_a_device_in_place_of_an_image_is_named(images: Path) -> None:
    (images / "b.png").unlink()
    (images / "b.png").symlink_to("/dev/zero")
    assert "b.png cannot be read: it is a pipe or a device, no file" in problem(images / "list.csv")


def test_a_folder_in_place_of_an_image_is_named(images: Path) -> None:
    (images / "b.png").unlink()
    (images / "b.png").mkdir()
    assert "b.png cannot be read: Is a directory" in problem(images / "list.csv")


def test_the_written_list_can_be_read_from_anywhere(
    images: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(images)
    write_list(Path("list.csv"), elsewhere / "raw" / "frames.csv", problems=Path("problems.csv"))
    monkeypatch.chdir(elsewhere)
    with FolderFrames(Path("raw/frames.csv")) as source:
        assert source.read(0, 3).depth_m.shape == (3, HEIGHT, WIDTH)


def test_absolute_paths_and_those_through_other_folders_are_taken_as_they_are(images: Path) -> None:
    (images / "lists").mkdir()
    rows = [
        [str(images / "a.png"), str(images / "a_depth.png"), "train", "x"],
        ["../b.png", "../b_depth.png", "test", "y"],
    ]
    frames = fetched(write_csv(images / "lists" / "list.csv", *rows))
    with frames.open(newline="", encoding="utf-8") as handle:
        assert [row["rgb"] for row in csv.DictReader(handle)] == [str(images / "a.png"), str(images / "b.png")]


def test_the_written_list_changes_when_an_image_does_and_only_then(images: Path) -> None:
    before = fetched(images / "list.csv").read_bytes()
    assert fetched(images / "list.csv").read_bytes() == before
    for name in ("b.png", "b_depth.png"):
        pixels = np.array(Image.open(images / name))
        pixels.flat[0] ^= 1
        Image.fromarray(pixels).save(images / name)
        after = fetched(images / "list.csv").read_bytes()
        assert after != before
        before = after


def test_a_given_scene_type_is_used(images: Path) -> None:
    write_csv(
        images / "list.csv",
        [*row_of("a", "train", "house_a"), "attic"],
        [*row_of("b", "test", "house_b"), ""],
        header=[*HEADER, "scene_type"],
    )
    assert [row[2] for row in scenes_and_splits(images / "list.csv")] == ["attic", "house"]


def test_a_spreadsheet_with_byte_order_mark_and_spaces_is_read(images: Path) -> None:
    text = (images / "list.csv").read_text().replace(",", " , ")
    (images / "list.csv").write_text(text, encoding="utf-8-sig")
    assert [row[1] for row in scenes_and_splits(images / "list.csv")] == ["kitchen_1", "kitchen_2", "office_1"]


def test_checking_shows_a_progress_bar(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetched(images / "list.csv")
    assert "check images: 100%" in capsys.readouterr().err


def test_a_missing_list_is_an_error(tmp_path: Path) -> None:
    assert "does not exist; a list is a CSV with the header" in problem(tmp_path / "none.csv")
    assert "cannot be read: Is a directory" in problem(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        "rgb,depth,split",
        "rgb;depth;split;scene",
        "",
        "rgb,depth,split,scene,scenetype",
        "rgb,rgb,depth,split,scene",
        "<!DOCTYPE html>",
    ],
)
def test_another_header_is_an_error(tmp_path: Path, header: str) -> None:
    (tmp_path / "list.csv").write_text(header + "\n")
    assert f"the header is '{header}'; it must be 'rgb,depth,split,scene'" in problem(tmp_path / "list.csv")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00r", b"rgb,depth,split,scene\n\x00\xe9"])
def test_a_list_that_is_no_text_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    assert "is no UTF-8 text" in problem(tmp_path / "list.csv")


def test_an_image_as_list_is_an_error(images: Path) -> None:
    problem(images / "a.png")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (["b.png", "b_depth.png", "training", "y"], "split is 'training', not one of train, val, test"),
        (["b.png", "b_depth.png", "train", " "], "scene is empty"),
        (["", "b_depth.png", "train", "y"], "rgb is empty"),
        (["b.png", "b_depth.png", "train"], "scene is empty"),
        (["b.png", "b_depth.png", "train", "y", "kitchen"], "it has more fields than the header"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(images: Path, row: list[str], complaint: str) -> None:
    assert complaint in problem_of_row(images, row)


@pytest.mark.parametrize("gone", ["b.png", "b_depth.png"])
def test_a_missing_file_is_named(images: Path, gone: str) -> None:
    (images / gone).unlink()
    assert f"{images / gone} does not exist" in problem_of_row(images, row_of("b", "train", "y"))


@pytest.mark.parametrize("damaged", ["b.png", "b_depth.png"])
def test_a_file_that_is_no_image_is_named(images: Path, damaged: str) -> None:
    (images / damaged).write_bytes(b"no image")
    told = f"{images / damaged} cannot be read as an image: it is no image"
    assert told in problem_of_row(images, row_of("b", "train", "y"))


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_depth_that_is_not_16_bit_grey_is_an_error(images: Path, mode: str) -> None:
    Image.new(mode, (WIDTH, HEIGHT)).save(images / "b_depth.png")
    complaint = problem_of_row(images, row_of("b", "train", "y"))
    assert f"{images / 'b_depth.png'} has mode {mode}; depth must be a 16-bit grey PNG" in complaint


def test_swapped_columns_are_an_error(images: Path) -> None:
    complaint = problem_of_row(images, ["b_depth.png", "b.png", "train", "y"])
    assert f"{images / 'b_depth.png'} has mode I;16; rgb must be" in complaint


def test_depth_of_another_size_than_its_image_is_an_error(images: Path) -> None:
    Image.fromarray(np.ones((5, 7), np.uint16)).save(images / "b_depth.png")
    assert "b_depth.png is 7 x 5, its image" in problem_of_row(images, row_of("b", "train", "y"))


def test_the_first_frame_of_another_size_is_named(images: Path) -> None:
    for name in "bc":
        Image.new("RGB", (7, 5)).save(images / f"{name}.png")
        Image.fromarray(np.ones((5, 7), np.uint16)).save(images / f"{name}_depth.png")
    complaint = problem_of_row(images, row_of("b", "train", "y"))
    assert (
        f"{images / 'b.png'} is 7 x 5, the frames before it 9 x 6; all must have one size (and 1 more)" in complaint
    )


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_scene_in_two_splits_is_an_error(images: Path, split: str) -> None:
    complaint = problem_of_row(images, row_of("b", split, "x"))
    assert f"line 3: scene 'x' is in {split} here and in train on line 2" in complaint


def test_a_frame_listed_twice_is_an_error(images: Path) -> None:
    complaint = problem_of_row(images, row_of("./a", "train", "x"))
    assert f"{images / 'a.png'} is listed already on line 2 (and 1 more)" in complaint


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_list_without_a_needed_split_is_an_error(images: Path, split: str) -> None:
    others = [row_of(name, "val" if split == "train" else "train", name) for name in "ab"]
    rows = [*others, row_of("c", "test" if split == "train" else "val", "c")]
    assert f"has no {split} rows" in problem(write_csv(images / "list.csv", *rows))


def test_a_list_without_rows_is_an_error(tmp_path: Path) -> None:
    assert "has no train rows" in problem(write_csv(tmp_path / "list.csv"))


def is_told_in_one_line(listed: Path) -> None:
    """Either all is well, or there is one line."""
    try:
        frames = fetched(listed)
    except PipelineError as error:
        assert "\n" not in str(error)
        return
    with FolderFrames(frames) as source:
        try:
            assert np.isfinite(source.read(0, len(source)).depth_m).all()
        except PipelineError as error:
            assert "\n" not in str(error)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM"]),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=8)), min_size=1, max_size=4),
)
def test_whatever_happens_to_an_image_is_told_in_one_line_or_makes_no_difference(
    images: Path, kind: str, cuts: list[tuple[float, bytes]]
) -> None:
    Image.open(images / "b.png").save(images / "mutated", kind)
    content = bytearray((images / "mutated").read_bytes())
    for place, new in cuts:
        start = int(place * len(content))
        content[start : start + max(1, len(new))] = new
    for row in (["mutated", "b_depth.png", "train", "x"], ["b.png", "mutated", "train", "x"]):
        (images / "mutated").write_bytes(content)
        is_told_in_one_line(write_csv(images / "fuzz.csv", row, row_of("c", "test", "z")))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=80),
        st.lists(
            st.lists(st.sampled_from(["rgb", "a.png", "None", "", '"', "\0", "..", "/", "a_depth.png", "x/b.png"])),
            max_size=5,
        ).map(lambda rows: "\n".join(",".join(row) for row in rows).encode()),
        st.lists(st.sampled_from(["a.png b.png 1", "/x/a.png None 1", "a.png", "\x0b", "é.png è.png"])).map(
            lambda rows: "\r\n".join(rows).encode()
        ),
    )
)
def test_whatever_stands_in_a_list_is_told_in_one_line(images: Path, content: bytes) -> None:
    (images / "fuzz.csv").write_bytes(content)
    is_told_in_one_line(images / "fuzz.csv")
