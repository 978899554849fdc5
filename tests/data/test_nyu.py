"""The official NYU layout, against files written and read by plain h5py and scipy."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import loadmat, savemat

from pipeline.data import chunks
from pipeline.data.frames import Frames, read_slabs
from pipeline.data.nyu import (
    MAX_SLAB_FRAMES,
    SLAB_FRAMES,
    NyuFile,
    NyuWriter,
    frames_per_slab,
    pack_frame,
    read_splits,
    write_splits,
)
from pipeline.errors import PipelineError

FRAMES, HEIGHT, WIDTH = 7, 10, 13
SCENES = ["kitchen_0001", "kitchen_0001", "café_0002", "日本_0003", "office_𝄞_0004", "a", "living_room_0005"]
REAL_FRAMES = Path(__file__).resolve().parents[3] / "shared" / "nyu"


def random_frames(frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> Frames:
    random = np.random.default_rng(0)
    depth_m = random.uniform(0.5, 10, (frames, height, width)).astype(np.float32)
    holes = random.random(depth_m.shape) < 0.2
    rgb_u8 = random.integers(0, 256, (frames, height, width, 3), np.uint8)
    return Frames(rgb_u8, depth_m, np.where(holes, np.float32(0), depth_m))


def write_cell(file: h5py.File, name: str, values: list[str]) -> None:
    """A MATLAB cell array of char rows, as facts of the format have it."""
    cell = file.create_dataset(name, (1, len(values)), dtype=h5py.ref_dtype)
    for column, value in enumerate(values):
        units = np.frombuffer(value.encode("utf-16-le"), np.uint16)[:, None]
        cell[0, column] = file.create_dataset(f"#refs#/{name}{column}", data=units).ref


def write_official(
    path: Path,
    frames: Frames,
    image_chunks: tuple[int, ...] | None = None,
    depth_chunks: tuple[int, ...] | None = None,
) -> Path:
    """A file of the official layout, axes reversed; contiguous where the chunks are None."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array, chunks in (
            ("images", frames.rgb_u8.transpose(0, 3, 2, 1), image_chunks),
            ("depths", frames.depth_m.transpose(0, 2, 1), depth_chunks),
            ("rawDepths", frames.raw_depth_m.transpose(0, 2, 1), depth_chunks),
        ):
            file.create_dataset(name, data=array, chunks=chunks, compression="gzip" if chunks else None)
        write_cell(file, "scenes", SCENES)
        write_cell(file, "sceneTypes", [scene.split("_")[0] for scene in SCENES])
    return path


@pytest.fixture
def official(tmp_path: Path) -> Path:
    return write_official(tmp_path / "labeled.mat", random_frames(), (2, 3, WIDTH, HEIGHT), (2, WIDTH, HEIGHT))


def assert_equal_frames(found: Frames, expected: Frames) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("image_chunks", "depth_chunks", "slab_frames"),
    [
        (None, None, 8),
        ((1, 3, WIDTH, HEIGHT), (1, WIDTH, HEIGHT), 8),
        ((4, 1, 5, 3), (4, 5, 3), 8),
        ((3, 1, 13, 10), (3, 4, 4), 6),
        ((2, 3, 13, 10), (3, 13, 10), 6),
        (None, (5, 13, 10), 5),
        ((5, 2, 7, 7), None, 5),
        ((FRAMES, 3, WIDTH, HEIGHT), (FRAMES, WIDTH, HEIGHT), 7),
        ((FRAMES, 1, 2, HEIGHT), (1, WIDTH, HEIGHT), 7),
    ],
)
def test_frames_come_back_whatever_the_chunks(
    tmp_path: Path,
    image_chunks: tuple[int, ...] | None,
    depth_chunks: tuple[int, ...] | None,
    slab_frames: int,
) -> None:
    written = random_frames()
    path = write_official(tmp_path / "labeled.mat", written, image_chunks, depth_chunks)
    with NyuFile(path) as file:
        assert len(file) == FRAMES
        assert file.size == (HEIGHT, WIDTH)
        assert file.slab_frames == slab_frames
        assert_equal_frames(file.read(0, FRAMES), written)
        assert_equal_frames(file.read(2, 5), Frames(*(array[2:5] for array in written)))
        slabs = list(read_slabs(file, range(FRAMES)))
    together = Frames(*(np.concatenate(arrays) for arrays in zip(*(part for _, part in slabs), strict=True)))
    assert_equal_frames(together, written)


def test_pixels_are_contiguous_in_memory(official: Path) -> None:
    with NyuFile(official) as file:
        assert all(array.flags.c_contiguous for array in file.read(1, 4))


def test_strings_are_decoded_as_utf_16(official: Path) -> None:
    with NyuFile(str(official)) as file:
        assert file.scenes == SCENES
        assert file.scene_types == ["kitchen", "kitchen", "café", "日本", "office", "a", "living"]


def test_names_are_unique_and_sort_like_the_file(official: Path) -> None:
    with NyuFile(official) as file:
        assert len(set(file.names)) == FRAMES
        assert sorted(file.names) == file.names


def test_a_file_without_raw_depths_gives_the_filled_ones(official: Path) -> None:
    with h5py.File(official, "a") as file:
        del file["rawDepths"]
    with NyuFile(official) as nyu:
        frames = nyu.read(0, FRAMES)
    np.testing.assert_array_equal(frames.raw_depth_m, random_frames().depth_m)


def test_a_file_without_scene_types_derives_them_from_the_scenes(official: Path) -> None:
    with h5py.File(official, "a") as file:
        del file["sceneTypes"]
    with NyuFile(official) as nyu:
        assert nyu.scene_types == ["kitchen", "kitchen", "café", "日本", "office_𝄞", "a", "living_room"]


@pytest.mark.parametrize(
    ("chunk_frames", "slab_frames"),
    [
        ([], 8),
        ([1], 8),
        ([3], 6),
        ([4, 4, 4], 8),
        ([4, 6], 12),
        ([12], 12),
        ([64], 64),
        ([1449], 8),
        ([1449, 12], 12),
        ([9, 10], 10),
    ],
)
def test_slabs_of_known_chunks(chunk_frames: list[int], slab_frames: int) -> None:
    assert frames_per_slab(chunk_frames) == slab_frames


@given(st.lists(st.integers(1, 200), max_size=3))
def test_slabs_hold_whole_chunks_and_stay_small(chunk_frames: list[int]) -> None:
    slab = frames_per_slab(chunk_frames)
    assert SLAB_FRAMES // 2 < slab <= MAX_SLAB_FRAMES
    short = [span for span in chunk_frames if span <= MAX_SLAB_FRAMES]
    if math.lcm(*short) <= MAX_SLAB_FRAMES:
        assert all(slab % span == 0 for span in short)


def opening_error(path: Path) -> str:
    with pytest.raises(PipelineError) as caught, NyuFile(path) as file:
        file.read(0, len(file))
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


def replace(name: str, data: np.ndarray) -> Callable[[h5py.File], None]:
    def act(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, data=data)

    return act


def list_one_scene(file: h5py.File) -> None:
    del file["scenes"], file["#refs#/scenes0"]
    write_cell(file, "scenes", ["a"])


def clear_reference(file: h5py.File) -> None:
    file["scenes"][0, 2] = h5py.Reference()


def point_at_terabytes(file: h5py.File) -> None:
    file["scenes"][0, 1] = file.create_dataset("#refs#/long", (2**40,), np.uint16, chunks=(1024,)).ref


def point_at_a_group(file: h5py.File) -> None:
    file["scenes"][0, 0] = file["#refs#"].ref


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda file: file.pop("images"), "no dataset 'images'"),
        (lambda file: file.pop("depths"), "no dataset 'depths'"),
        (lambda file: file.pop("scenes"), "no cell array of strings 'scenes'"),
        (lambda file: [file.pop("images"), file.create_group("images")], "no dataset 'images'"),
        (lambda file: [file.pop("scenes"), file.create_group("scenes")], "no cell array of strings 'scenes'"),
        (replace("images", np.zeros((FRAMES, 3, 4, 5), np.float32)), "images is 4-dimensional float32"),
        (replace("images", np.zeros((FRAMES, 4, 5), np.uint8)), "images is 3-dimensional uint8"),
        (replace("images", np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)), "(7, 10, 13, 3) with 10 channels"),
        (replace("depths", np.zeros((FRAMES, WIDTH, HEIGHT))), "depths is 3-dimensional float64"),
        (replace("images", np.zeros((HEIGHT, WIDTH, 3, FRAMES), np.uint8)), "its axes are not MATLAB's"),
        (replace("images", np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)), "its axes are not MATLAB's"),
        (replace("images", np.zeros((2, 3, 480, 640), np.uint8)), "its axes are not MATLAB's"),
        (replace("images", np.zeros((0, 3, WIDTH, HEIGHT), np.uint8)), "(0, 3, 13, 10), which holds no pixels"),
        (
            replace("depths", np.zeros((FRAMES, HEIGHT, WIDTH), np.float32)),
            "depths has shape (7, 10, 13), images needs (7, 13, 10); its axes are not MATLAB's",
        ),
        (replace("depths", np.zeros((HEIGHT, WIDTH, FRAMES), np.float32)), "its axes are not MATLAB's"),
        (replace("depths", np.zeros((5, WIDTH, HEIGHT), np.float32)), "depths has 5 frames, images has 7"),
        (replace("depths", np.zeros((FRAMES, 5, HEIGHT), np.float32)), "depths has shape (7, 5, 10)"),
        (replace("rawDepths", np.zeros((6, WIDTH, HEIGHT), np.float32)), "rawDepths has 6 frames, images has 7"),
        (replace("scenes", np.zeros((1, FRAMES))), "no cell array of strings 'scenes'"),
        (list_one_scene, "scenes has 1 entries for 7"),
        (clear_reference, "scenes, frame 2 (from 0) cannot be read as a string: it refers to nothing"),
        (point_at_a_group, "scenes, frame 0 (from 0) cannot be read as a string: "),
        (
            replace("#refs#/scenes0", np.array([[0xD800]], np.uint16)),
            "scenes, frame 0 (from 0) cannot be read as a string: ",
        ),
        (replace("#refs#/scenes3", np.zeros(2, np.uint64)), "scenes, frame 3 (from 0) cannot be read as a string"),
        (replace("#refs#/sceneTypes6", np.zeros((0, 1), np.uint16)), "sceneTypes, frame 6 (from 0) cannot"),
        (point_at_terabytes, "frame 1 (from 0) cannot be read as a string: it has 1099511627776 characters"),
    ],
)
def test_a_damaged_layout_is_named(official: Path, damage: Callable[[h5py.File], object], complaint: str) -> None:
    with h5py.File(official, "a") as file:
        damage(file)
    assert complaint in opening_error(official)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "run the fetch stage" in opening_error(tmp_path / "none.mat")
    assert "run the fetch stage" in opening_error(tmp_path)


@pytest.mark.parametrize("content", [b"", b"MATLAB 7.3 MAT-file" + bytes(600), bytes(5000)])
def test_a_file_that_is_not_hdf5_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labeled.mat").write_bytes(content)
    assert "is not a readable MATLAB v7.3 (HDF5) file" in opening_error(tmp_path / "labeled.mat")


@pytest.mark.parametrize(
    "content",
    [
        b"<html>moved</html>",
        b"\xef\xbb\xbf<!doctype html>",
        b"\n<!DOCTYPE html><title>404 Not Found</title>" + bytes(9999),
    ],
)
def test_the_error_page_of_a_server_is_told_from_a_damaged_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labeled.mat").write_bytes(content)
    assert "but a web page, perhaps a server's error; download it again" in opening_error(tmp_path / "labeled.mat")


def test_a_file_of_an_older_matlab_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    savemat(tmp_path / "labeled.mat", {"images": np.zeros((2, 2), np.uint8)})
    assert "but one of MATLAB v5; save it with -v7.3" in opening_error(tmp_path / "labeled.mat")


def test_a_large_file_of_nothing_is_answered_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "labeled.mat"
    with path.open("wb") as handle:
        handle.truncate(2 * 2**30)
    read_before = bytes_read()
    assert "is not a readable MATLAB v7.3 (HDF5) file" in opening_error(path)
    assert bytes_read() - read_before < 2**20


def test_larger_frames_are_read_fewer_at_once(tmp_path: Path) -> None:
    assert frames_per_slab([64], (480, 640)) == 64
    assert frames_per_slab([64], (1080, 1920)) == frames_per_slab([], (1080, 1920)) == 8
    assert frames_per_slab([9], (1080, 1920)) == 9
    assert frames_per_slab([3, 8], (2160, 3840)) == frames_per_slab([], (2160, 3840)) == 2
    assert frames_per_slab([1], (20_000, 20_000)) == 1


def bytes_read() -> int:
    """What this process has asked the kernel for."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))


def test_a_file_that_one_may_not_read_is_named(official: Path) -> None:
    official.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # nobody: root may read everything
    try:
        assert "cannot be read: Permission denied" in opening_error(official)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named(official: Path, share: float) -> None:
    content = official.read_bytes()
    official.write_bytes(content[: int(share * len(content))])
    assert "is not a readable MATLAB v7.3 (HDF5) file" in opening_error(official)


@pytest.mark.parametrize("start", range(0, 20_000, 1777))
def test_a_file_with_a_hole_gives_an_error_or_the_frames_that_were_written(official: Path, start: int) -> None:
    content = bytearray(official.read_bytes())
    content[start : start + 700] = bytes(len(content[start : start + 700]))
    official.write_bytes(content)
    try:
        with NyuFile(official) as file:
            frames = file.read(0, FRAMES)
    except PipelineError as error:
        assert str(official) in str(error)
        assert "\n" not in str(error)
    else:
        assert_equal_frames(frames, random_frames())


@pytest.mark.parametrize("name", ["images", "depths", "rawDepths"])
def test_a_damaged_chunk_is_named_with_dataset_and_frames(official: Path, name: str) -> None:
    with h5py.File(official, "a") as file:
        dataset = file[name]
        dataset.id.write_direct_chunk((2, *[0] * (dataset.ndim - 1)), b"\xff" * 100)
    with NyuFile(official) as file:
        file.read(0, 2)
        message = rf"labeled\.mat: {name}, frames 2\.\.3 \(from 0\) cannot be read"
        for start, stop in ((2, 4), (0, FRAMES)):
            with pytest.raises(PipelineError, match=message):
                file.read(start, stop)
        file.read(4, FRAMES)


@pytest.mark.parametrize("wrong_m", [math.nan, math.inf, -math.inf, -0.001, 33.0, 5000.0])
def test_a_depth_that_is_none_is_named_with_dataset_and_frame(tmp_path: Path, wrong_m: float) -> None:
    frames = random_frames()
    frames.depth_m[4, 3, 2] = wrong_m
    path = write_official(tmp_path / "labeled.mat", frames, (2, 3, WIDTH, HEIGHT), (2, WIDTH, HEIGHT))
    with NyuFile(path) as file:
        file.read(0, 4)
        with pytest.raises(
            PipelineError, match=rf"labeled\.mat: depths, frame 4 \(from 0\): {wrong_m:g} m is no depth"
        ):
            file.read(4, 6)


def test_missing_depths_are_no_mistake(tmp_path: Path) -> None:
    frames = random_frames()
    frames.depth_m[1], frames.depth_m[2, 0, 0] = 0, 32.0
    frames.raw_depth_m[...] = 0
    with NyuFile(write_official(tmp_path / "labeled.mat", frames)) as file:
        assert_equal_frames(file.read(0, FRAMES), frames)


def test_without_the_raw_depths_they_are_not_read_and_the_filled_ones_take_their_place(official: Path) -> None:
    with h5py.File(official, "a") as file:
        file["rawDepths"].id.write_direct_chunk((0, 0, 0), b"damaged")
    with NyuFile(official, raw_depth=False) as nyu:
        frames = nyu.read(0, FRAMES)
    np.testing.assert_array_equal(frames.raw_depth_m, random_frames().depth_m)
    np.testing.assert_array_equal(frames.rgb_u8, random_frames().rgb_u8)


def test_the_stored_order_changes_strides_and_no_pixel(official: Path) -> None:
    with NyuFile(official, stored_order=True) as nyu:
        frames = nyu.read(1, 6)
    assert frames.rgb_u8.transpose(0, 3, 2, 1).flags.c_contiguous
    assert frames.depth_m.transpose(0, 2, 1).flags.c_contiguous
    assert_equal_frames(frames, Frames(*(array[1:6] for array in random_frames())))


def test_chunks_that_span_more_frames_than_a_slab_may_hold_are_inflated_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = MAX_SLAB_FRAMES + 6
    monkeypatch.setattr(f"{__name__}.SCENES", ["attic"] * many)
    written = random_frames(many)
    path = write_official(tmp_path / "labeled.mat", written, (many, 1, 4, HEIGHT), (many, WIDTH, 5))
    count: Counter[bytes] = Counter()

    def counted(stored: bytes, size: int, item: int) -> bytes:
        count[stored] += 1
        return chunks.inflate(stored, size, item)

    monkeypatch.setitem(chunks.DECODERS, h5py.h5z.FILTER_DEFLATE, counted)
    with NyuFile(path, raw_depth=False) as file:
        assert file.slab_frames == SLAB_FRAMES
        slabs = list(read_slabs(file, range(many)))
    assert_equal_frames(
        Frames(*map(np.concatenate, zip(*(s for _, s in slabs), strict=True)))._replace(
            raw_depth_m=written.raw_depth_m
        ),
        written,
    )
    assert sum(count.values()) == 3 * 4 + 2


def test_a_file_that_is_closed_while_a_thread_reads_lets_it_end(
    official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a second Ctrl-C does not wait for the threads of the first."""
    at_work, go_on = threading.Event(), threading.Event()

    def slow(stored: bytes, size: int, item: int) -> bytes:
        at_work.set()
        go_on.wait(30)
        return chunks.inflate(stored, size, item)

    monkeypatch.setitem(chunks.DECODERS, h5py.h5z.FILTER_DEFLATE, slow)
    monkeypatch.setattr(chunks, "TASK_BYTES", 1)
    monkeypatch.setattr("pipeline.data.nyu.cores", lambda: 1)
    file = NyuFile(official)
    with file:
        reading = threading.Thread(target=file.read, args=(0, FRAMES), daemon=True)
        reading.start()
        assert at_work.wait(30)
        threading.Timer(0.2, go_on.set).start()
    reading.join(30)
    assert not reading.is_alive()


def write_with_writer(path: Path, frames: Frames) -> Path:
    count, height, width = frames.depth_m.shape
    with NyuWriter(path, count, (height, width)) as writer:
        for frame, scene in zip(zip(*frames, strict=True), SCENES, strict=False):
            writer.append(pack_frame(*frame), scene, scene.split("_")[0])
    return path


def test_plain_h5py_reads_what_the_writer_wrote(tmp_path: Path) -> None:
    frames = random_frames()
    path = write_with_writer(tmp_path / "labeled.mat", frames)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["images"][()].transpose(0, 3, 2, 1), frames.rgb_u8)
        np.testing.assert_array_equal(file["depths"][()].transpose(0, 2, 1), frames.depth_m)
        np.testing.assert_array_equal(file["rawDepths"][()].transpose(0, 2, 1), frames.raw_depth_m)
        assert [file[name].dtype for name in ("images", "depths", "rawDepths")] == [np.uint8, "f4", "f4"]
        for name, expected in (("scenes", SCENES), ("sceneTypes", [s.split("_")[0] for s in SCENES])):
            assert file[name].shape == (1, FRAMES)
            units = [file[reference][()] for reference in file[name][0]]
            assert all(array.dtype == np.uint16 and array.shape[1] == 1 for array in units)
            assert [array.tobytes().decode("utf-16") for array in units] == expected


def test_the_reader_reads_what_the_writer_wrote(tmp_path: Path) -> None:
    frames = random_frames()
    with NyuFile(write_with_writer(tmp_path / "labeled.mat", frames)) as file:
        assert file.scenes == SCENES
        assert_equal_frames(file.read(0, FRAMES), frames)


def test_the_written_file_has_the_header_of_matlab(tmp_path: Path) -> None:
    content = write_with_writer(tmp_path / "labeled.mat", random_frames(frames=1)).read_bytes()
    assert content.startswith(b"MATLAB 7.3 MAT-file, Platform: ")
    assert content[124:128] == b"\x00\x02IM"  # version 2.0, little-endian
    assert content[512:520] == b"\x89HDF\r\n\x1a\n"


def test_equal_frames_make_equal_bytes(tmp_path: Path) -> None:
    one, other = (write_with_writer(tmp_path / name, random_frames()) for name in ("one.mat", "other.mat"))
    assert one.read_bytes() == other.read_bytes()


def test_depths_of_double_precision_are_packed_as_single(tmp_path: Path) -> None:
    frames = random_frames()
    doubled = Frames(frames.rgb_u8, frames.depth_m.astype(np.float64), frames.raw_depth_m.astype(np.float64))
    with NyuFile(write_with_writer(tmp_path / "labeled.mat", doubled)) as file:
        assert_equal_frames(file.read(0, FRAMES), frames)


@given(st.permutations(range(30)), st.integers(1, 29))
def test_splits_come_back(order: list[int], cut: int) -> None:
    splits = {"train": order[:cut], "test": order[cut:]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "splits.mat"
        write_splits(path, splits)
        assert read_splits(path, 30) == {split: sorted(indices) for split, indices in splits.items()}


def test_scipy_reads_written_splits_as_columns_counted_from_one(tmp_path: Path) -> None:
    write_splits(tmp_path / "splits.mat", {"train": [0, 2], "test": [1, 65_534]})
    content = loadmat(tmp_path / "splits.mat")
    np.testing.assert_array_equal(content["trainNdxs"], [[1], [3]])
    np.testing.assert_array_equal(content["testNdxs"], [[2], [65_535]])
    assert content["trainNdxs"].dtype == np.uint16


def test_equal_splits_make_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "splits.mat"
    write_splits(path, {"train": [0, 2], "test": [1]})
    before = path.read_bytes()
    monkeypatch.setattr("time.asctime", lambda *_: "Mon Jan  1 00:00:00 2035")
    write_splits(path, {"train": [0, 2], "test": [1]})
    assert path.read_bytes() == before


@pytest.mark.parametrize("dtype", [np.uint16, np.float64])
@pytest.mark.parametrize("axis", [0, 1])
def test_splits_of_any_number_type_and_orientation_are_read(tmp_path: Path, dtype: type, axis: int) -> None:
    numbers = {"trainNdxs": [5, 1, 2], "testNdxs": [3]}
    savemat(
        tmp_path / "splits.mat",
        {name: np.expand_dims(np.array(values, dtype), axis) for name, values in numbers.items()},
    )
    assert read_splits(tmp_path / "splits.mat", 5) == {"train": [0, 1, 4], "test": [2]}


@pytest.mark.parametrize(
    ("train", "test", "complaint"),
    [
        ([1, 2], [2, 3], "frame 2 (from 1) is in both train and test"),
        ([1, 6], [2], "train frame 6 (from 1) is outside 1..5"),
        ([1, 2], [0], "test frame 0 (from 1) is outside 1..5"),
    ],
)
def test_splits_that_overlap_or_point_outside_are_an_error(
    tmp_path: Path, train: list[int], test: list[int], complaint: str
) -> None:
    path = tmp_path / "splits.mat"
    savemat(path, {"trainNdxs": train, "testNdxs": test})
    with pytest.raises(PipelineError) as caught:
        read_splits(path, 5)
    assert str(caught.value) == f"{path}: {complaint}"


@pytest.mark.parametrize("wrong", [2.7, np.nan, np.inf])
def test_numbers_that_are_no_frames_are_refused(tmp_path: Path, wrong: float) -> None:
    path = tmp_path / "splits.mat"
    savemat(path, {"trainNdxs": [[1.0], [wrong]], "testNdxs": [4]})
    with pytest.raises(PipelineError) as caught:
        read_splits(path, 5)
    assert str(caught.value) == f"{path}: trainNdxs has the number {wrong:g}, which is no frame's"


def test_splits_of_more_frames_than_16_bits_count_come_back(tmp_path: Path) -> None:
    splits = {"train": list(range(70_000)), "test": [70_000]}
    write_splits(tmp_path / "splits.mat", splits)
    assert read_splits(tmp_path / "splits.mat", 70_001) == splits


def test_splits_of_few_frames_are_stored_in_16_bits_as_ever(tmp_path: Path) -> None:
    write_splits(tmp_path / "splits.mat", {"train": [0, 65_534], "test": [1]})
    assert {loadmat(tmp_path / "splits.mat")[name].dtype for name in ("trainNdxs", "testNdxs")} == {np.dtype("u2")}


def test_a_pipe_in_place_of_the_splits_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "splits.mat")
    assert_no_splits(tmp_path / "splits.mat")


def test_a_scene_on_both_sides_of_the_split_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "splits.mat"
    savemat(path, {"trainNdxs": [1, 2], "testNdxs": [4, 3]})
    assert read_splits(path, 4, ["a", "a", "b", "c"]) == {"train": [0, 1], "test": [2, 3]}
    with pytest.raises(PipelineError) as caught:
        read_splits(path, 4, ["a", "b", "c", "b"])
    assert str(caught.value) == (
        f"{path}: scene 'b' is in train (frame 2) and in test (frame 4, from 1); a scene belongs to one split"
    )


def assert_no_splits(path: Path) -> None:
    with pytest.raises(PipelineError, match=r"is no splits\.mat with trainNdxs and testNdxs") as caught:
        read_splits(path, 5)
    assert str(path) in str(caught.value)


def test_a_file_that_holds_no_splits_is_named(tmp_path: Path, official: Path) -> None:
    path = tmp_path / "splits.mat"
    assert_no_splits(path)
    assert_no_splits(official)
    savemat(path, {"trainNdxs": [1]})
    assert_no_splits(path)
    savemat(path, {"trainNdxs": [1], "testNdxs": ["two"]})
    assert_no_splits(path)


def test_splits_cut_short_anywhere_are_named(tmp_path: Path) -> None:
    path = tmp_path / "splits.mat"
    write_splits(path, {"train": [0, 1, 2], "test": [3, 4]})
    content = path.read_bytes()
    for length in range(0, len(content), 3):
        path.write_bytes(content[:length])
        assert_no_splits(path)


@pytest.mark.skipif(not REAL_FRAMES.is_dir(), reason=f"real NYU frames are not at {REAL_FRAMES}")
def test_real_frames_are_read_upright_and_in_metres(tmp_path: Path) -> None:
    build = [sys.executable, str(REAL_FRAMES / "build_mat.py"), str(tmp_path), "--train", "4", "--test", "2"]
    subprocess.run(build, check=True, capture_output=True)
    path = tmp_path / "nyu_depth_v2_labeled.mat"
    with h5py.File(path) as file:
        references = file["rawRgbFilenames"][0]
        frame_names = [bytes(file[reference][:, 0].astype(np.uint8)).decode()[-9:-4] for reference in references]
    with (REAL_FRAMES / "index.csv").open(newline="") as handle:
        listed = {row["frame"]: row for row in csv.DictReader(handle)}
    with NyuFile(path) as nyu:
        assert (len(nyu), nyu.size) == (6, (480, 640))
        assert nyu.scenes == [listed[name]["scene"] for name in frame_names]
        splits = read_splits(tmp_path / "splits.mat", len(nyu))
        frames = nyu.read(0, 6)
    for split, count in (("train", 4), ("test", 2)):
        assert [listed[frame_names[index]]["split"] for index in splits[split]] == [split] * count
    for index, name in enumerate(frame_names):
        photo = np.asarray(Image.open(REAL_FRAMES / "rgb" / f"{name}.jpg"))
        code = np.asarray(Image.open(REAL_FRAMES / "depth8" / f"{name}.png"), np.float64)
        max_depth_m = float(listed[name]["max_depth_m"])
        np.testing.assert_array_equal(frames.rgb_u8[index], photo)
        # floor(255 * depth / max_depth) leaves half a step to either side
        step_m = max_depth_m / 255
        assert np.abs(frames.depth_m[index] - np.minimum((code + 0.5) * step_m, max_depth_m)).max() < 1e-4
