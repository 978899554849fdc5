"""Raw sequences as libfreenect's recorder leaves them, written here byte by byte."""

from __future__ import annotations

import csv
import hashlib
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.frames import Frames
from pipeline.data.kinect import decode_disparity, project_to_rgb, undistort_rgb
from pipeline.data.raw_sequences import (
    Gathered,
    RawFrame,
    RawSequences,
    choose_test_locations,
    find_scenes,
    nearest_in_time,
    pair_frames,
    read_frames,
    write_pairs,
)
from pipeline.data.splits import location_of, scene_type_of
from pipeline.errors import PipelineError

START_S = 1_294_886_362
RGB_BYTES, DEPTH_BYTES = 640 * 480 * 3, 640 * 480 * 2


def name_of(kind: str, milliseconds: int, ticks: int = 7) -> str:
    seconds = f"{START_S + milliseconds // 1000}.{milliseconds % 1000:03d}000"
    return f"{kind}-{seconds}-{ticks}.{'ppm' if kind == 'r' else 'pgm'}"


def write_image(path: Path, rgb_u8: np.ndarray | None = None) -> None:
    pixels = bytes(RGB_BYTES) if rgb_u8 is None else rgb_u8.tobytes()
    path.write_bytes(b"P6 640 480 255\n" + pixels)


def write_disparity(path: Path, disparity: np.ndarray | None = None) -> None:
    """Low byte first, as the recorder's processor had it."""
    pixels = bytes(DEPTH_BYTES) if disparity is None else disparity.astype("<u2").tobytes()
    path.write_bytes(b"P5 640 480 65535\n" + pixels)


def write_scene(scene: Path, image_ms: list[int], depth_ms: list[int], index: str | None = "") -> Path:
    """Frames at the given times; an INDEX.txt that names them unless another text, or None, is given."""
    scene.mkdir(parents=True)
    names = []
    for kind, times, write in (("r", image_ms, write_image), ("d", depth_ms, write_disparity)):
        for milliseconds in times:
            names.append(name_of(kind, milliseconds))
            write(scene / names[-1])
    if index is not None:
        names += [f"a-{START_S}.011060-3164794231.dump"]
        (scene / "INDEX.txt").write_text(index or "\n".join(names) + "\n", encoding="utf-8")
    return scene


def frames_at(*milliseconds: int) -> list[RawFrame]:
    return [RawFrame(time * 1000, ticks, f"{time}-{ticks}") for ticks, time in enumerate(milliseconds)]


def paired_times(images: list[RawFrame], disparities: list[RawFrame], max_gap_s: float) -> list[tuple[int, int]]:
    """(image, disparity) in milliseconds"""
    pairs = pair_frames(images, disparities, max_gap_s)
    return [(image.time_us // 1000, disparity.time_us // 1000) for image, disparity in pairs]


def times_of(frames: list[RawFrame]) -> list[int]:
    return [frame.time_us // 1000 - START_S * 1000 for frame in frames]


def list_pairs(
    directory: Path,
    target: Path,
    *,
    every: int = 1,
    max_gap_s: float = 0.05,
    test: set[str] | float = 0.5,
) -> tuple[Gathered, list[dict[str, str]]]:
    gathered = write_pairs(directory, target, every=every, max_gap_s=max_gap_s, test=test)
    with target.open(newline="", encoding="utf-8") as handle:
        return gathered, list(csv.DictReader(handle))


@pytest.fixture
def two_rooms(tmp_path: Path) -> Path:
    write_scene(tmp_path / "raw" / "kitchen_0001a", [0, 33], [5, 38])
    write_scene(tmp_path / "raw" / "home_office_0012", [0], [5])
    return tmp_path / "raw"


@given(
    st.lists(st.integers(0, 300), max_size=30),
    st.lists(st.integers(0, 300), min_size=1, max_size=30).map(sorted),
)
def test_the_nearest_in_time_is_found_and_the_first_of_equals(wanted: list[int], given: list[int]) -> None:
    expected = [min(range(len(given)), key=lambda index, at=time: abs(given[index] - at)) for time in wanted]
    assert nearest_in_time(np.array(wanted, int), np.array(given)).tolist() == expected


def test_every_depth_frame_gets_its_nearest_image_at_unequal_rates() -> None:
    images, disparities = frames_at(0, 50, 100), frames_at(10, 43, 60, 77, 110)
    assert paired_times(images, disparities, 0.05) == [(0, 10), (50, 43), (50, 60), (100, 77), (100, 110)]


def test_depth_frames_whose_images_were_dropped_are_left_out() -> None:
    images, disparities = frames_at(0, 33, 400), frames_at(5, 38, 100, 200, 390)
    assert paired_times(images, disparities, 0.05) == [(0, 5), (33, 38), (400, 390)]


def test_a_gap_of_just_the_longest_length_is_taken() -> None:
    assert paired_times(frames_at(100), frames_at(49, 50, 150, 151), 0.05) == [(100, 50), (100, 150)]


def test_of_two_equally_near_images_the_earlier_serves() -> None:
    assert paired_times(frames_at(0, 40), frames_at(20, 21), 0.05) == [(0, 20), (40, 21)]


def test_of_images_with_one_stamp_the_first_serves_and_no_depth_frame_is_lost() -> None:
    pairs = pair_frames(frames_at(0, 0, 33), frames_at(1, 1, 32), 0.05)
    assert [(image.name, disparity.name) for image, disparity in pairs] == [
        ("0-0", "1-0"),
        ("0-0", "1-1"),
        ("33-2", "32-2"),
    ]


def test_without_images_or_without_depth_there_is_no_pair() -> None:
    assert pair_frames([], frames_at(1), 0.05) == pair_frames(frames_at(1), [], 0.05) == []


def test_frames_come_by_time_however_the_index_lists_them(tmp_path: Path) -> None:
    order = [
        name_of("d", 40),
        name_of("r", 66),
        name_of("r", 0),
        name_of("d", 7),
        name_of("r", 33),
        name_of("r", 0),
    ]
    scene = write_scene(tmp_path / "s", [0, 33, 66], [7, 40], "\n".join(order))
    images, disparities, left_out = read_frames(scene)
    assert (times_of(images), times_of(disparities)) == ([0, 33, 66], [7, 40])
    assert not left_out.total()


def test_stamps_are_read_to_the_microsecond(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "s", [], [])
    for name in ("r-1294886362.238178-3118787619.ppm", "r-1294886362.24-1.ppm"):
        write_image(scene / name)
    (scene / "INDEX.txt").unlink()
    images, _, _ = read_frames(scene)
    assert [(frame.time_us, frame.ticks) for frame in images] == [
        (1294886362238178, 3118787619),
        (1294886362240000, 1),
    ]


def test_the_flaws_of_real_recordings_are_left_out_and_counted(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "s", [0, 33, 66], [1, 34, 67])
    (scene / name_of("r", 0)).write_bytes(b"")
    with (scene / name_of("d", 34)).open("r+b") as handle:
        handle.truncate(100_000)
    (scene / name_of("r", 66)).unlink()
    with (scene / "INDEX.txt").open("a", encoding="utf-8") as handle:
        handle.write("d-1294886362.79\nr-12948")
    images, disparities, left_out = read_frames(scene)
    assert (times_of(images), times_of(disparities)) == ([33], [1, 67])
    assert +left_out == {
        "empty or cut files": 2,
        "files that INDEX.txt names and that are not there": 1,
        "damaged lines of INDEX.txt": 2,
    }


@pytest.mark.parametrize("index", [None, " \n", "\0" * 4096, "<html>404 Not Found</html>"])
def test_where_the_index_names_nothing_the_folder_does(tmp_path: Path, index: str | None) -> None:
    scene = write_scene(tmp_path / "s", [0, 33], [1], index)
    (scene / "notes.txt").write_text("no frame", encoding="utf-8")
    images, disparities, left_out = read_frames(scene)
    assert (times_of(images), times_of(disparities)) == ([0, 33], [1])
    assert not left_out.total()


def test_an_index_that_is_no_text_raises_nothing(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "s", [0], [1])
    (scene / "INDEX.txt").write_bytes(np.random.default_rng(0).bytes(5000))
    images, disparities, _ = read_frames(scene)
    assert (times_of(images), times_of(disparities)) == ([0], [1])


def test_scenes_are_found_at_any_level_and_come_by_name(tmp_path: Path) -> None:
    write_scene(tmp_path / "kitchens_part1" / "kitchen_0002", [0], [1])
    write_scene(tmp_path / "bedroom_0001", [0], [1], index=None)
    (tmp_path / "empty").mkdir()
    assert [scene.name for scene in find_scenes(tmp_path)] == ["bedroom_0001", "kitchen_0002"]


def test_links_that_lead_in_circles_end_the_search(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).symlink_to(tmp_path)
    with pytest.raises(PipelineError, match="holds no raw sequences"):
        find_scenes(tmp_path)


def test_a_folder_that_is_itself_a_scene_is_one(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "bedroom_0001", [0], [1])
    assert find_scenes(scene) == [scene.resolve()]


def test_two_scenes_of_one_name_are_refused(tmp_path: Path) -> None:
    write_scene(tmp_path / "a" / "kitchen_0002", [0], [1])
    write_scene(tmp_path / "b" / "kitchen_0002", [0], [1])
    with pytest.raises(PipelineError, match=r"scene kitchen_0002 is both .*/a/kitchen_0002 and .*/b/kitchen_0002"):
        find_scenes(tmp_path)


@pytest.mark.parametrize(("there", "complaint"), [(False, "is no folder"), (True, "holds no raw sequences")])
def test_a_wrong_directory_is_told(tmp_path: Path, there: bool, complaint: str) -> None:
    if there:
        (tmp_path / "raw").mkdir()
    with pytest.raises(PipelineError, match=complaint):
        find_scenes(tmp_path / "raw")


@pytest.mark.parametrize(
    ("scene", "location", "scene_type"),
    [
        ("kitchen_0001a", "kitchen_0001", "kitchen"),
        ("living_room_0012", "living_room_0012", "living_room"),
        ("nyu_office_0", "nyu_office_0", "nyu_office"),
        ("attic", "attic", "attic"),
    ],
)
def test_a_scene_tells_its_room_and_its_type(scene: str, location: str, scene_type: str) -> None:
    assert (location_of(scene), scene_type_of(scene)) == (location, scene_type)


@given(st.sets(st.text("abc", min_size=1, max_size=4), min_size=2, max_size=40), st.floats(0.01, 0.99))
def test_a_share_of_the_rooms_is_chosen_and_never_none_or_all(rooms: set[str], fraction: float) -> None:
    chosen = choose_test_locations(sorted(rooms), fraction)
    assert chosen == choose_test_locations(sorted(rooms, reverse=True), fraction)
    assert chosen < rooms
    assert chosen
    assert abs(len(chosen) - fraction * len(rooms)) <= 1


def test_pairs_are_listed_with_absolute_paths_split_room_and_hash(two_rooms: Path, tmp_path: Path) -> None:
    gathered, rows = list_pairs(two_rooms, tmp_path / "pairs.csv", test={"home_office_0012"})
    kitchen = two_rooms / "kitchen_0001a"
    assert [(row["rgb"], row["depth"]) for row in rows[1:]] == [
        (str(kitchen / name_of("r", at)), str(kitchen / name_of("d", at + 5))) for at in (0, 33)
    ]
    assert [row["split"] for row in rows] == ["test", "train", "train"]
    assert [row["scene"] for row in rows] == ["home_office_0012", "kitchen_0001", "kitchen_0001"]
    assert [row["scene_type"] for row in rows] == ["home_office", "kitchen", "kitchen"]
    both = "".join(hashlib.sha256(Path(rows[1][key]).read_bytes()).hexdigest() for key in ("rgb", "depth"))
    assert rows[1]["sha256"] == hashlib.sha256(both.encode()).hexdigest()
    assert gathered.told() == "3 pairs (2 train, 1 test)"


def test_the_list_changes_when_a_frame_does(two_rooms: Path, tmp_path: Path) -> None:
    list_pairs(two_rooms, tmp_path / "before.csv")
    write_disparity(two_rooms / "kitchen_0001a" / name_of("d", 38), np.full((480, 640), 700))
    list_pairs(two_rooms, tmp_path / "after.csv")
    before, after = ((tmp_path / name).read_text().splitlines() for name in ("before.csv", "after.csv"))
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1


def test_every_nth_pair_of_a_scene_is_listed(tmp_path: Path) -> None:
    write_scene(tmp_path / "raw" / "kitchen_0001", list(range(0, 231, 33)), list(range(4, 235, 33)))
    write_scene(tmp_path / "raw" / "office_0001", [0, 33], [4, 37])
    _, rows = list_pairs(tmp_path / "raw", tmp_path / "pairs.csv", every=3)
    assert [Path(row["rgb"]).name for row in rows] == [
        *(name_of("r", at) for at in (0, 99, 198)),
        name_of("r", 0),
    ]


def test_all_recordings_of_a_room_go_to_one_side(tmp_path: Path) -> None:
    for room in range(6):
        for part in "ab":
            write_scene(tmp_path / "raw" / f"den_{room:04d}{part}", [0], [1])
    _, rows = list_pairs(tmp_path / "raw", tmp_path / "pairs.csv")
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(row["scene"], set()).add(row["split"])
    assert len(rows) == 12
    assert sorted(map(sorted, sides.values())) == [["test"]] * 3 + [["train"]] * 3


def test_a_scene_without_a_pair_is_told_and_the_others_are_listed(two_rooms: Path, tmp_path: Path) -> None:
    write_scene(two_rooms / "bathroom_0003", [0], [500, 533])
    gathered, rows = list_pairs(two_rooms, tmp_path / "pairs.csv", test={"home_office_0012"})
    assert len(rows) == 3
    assert gathered.told() == (
        "3 pairs (2 train, 1 test); left out: 2 depth frames without an image near in time; "
        "scenes without a pair: bathroom_0003"
    )


def test_a_frame_whose_header_or_last_bytes_are_gone_is_left_out(two_rooms: Path, tmp_path: Path) -> None:
    kitchen = two_rooms / "kitchen_0001a"
    (kitchen / name_of("r", 0)).write_bytes(b"\0" * (RGB_BYTES + 15))
    gathered, rows = list_pairs(two_rooms, tmp_path / "pairs.csv", test={"home_office_0012"})
    assert [Path(row["rgb"]).name for row in rows[1:]] == [name_of("r", 33)]
    assert +gathered.left_out == {"empty or cut files": 1}
    with (kitchen / name_of("d", 38)).open("r+b") as handle:
        handle.truncate(DEPTH_BYTES + 3)
    with pytest.raises(PipelineError, match=r"gives no train frames.*2 empty or cut files.*kitchen_0001a"):
        list_pairs(two_rooms, tmp_path / "again.csv", test={"home_office_0012"})
    assert not (tmp_path / "again.csv").exists()


def test_frames_of_another_size_are_told_with_their_name(two_rooms: Path, tmp_path: Path) -> None:
    (two_rooms / "kitchen_0001a" / name_of("r", 0)).write_bytes(b"P6 1280 960 255\n" + bytes(RGB_BYTES * 4))
    with pytest.raises(
        PipelineError, match=r"kitchen_0001a/r-\S+\.ppm is 1280 x 960 .*; a Kinect's frame is 640 x 480"
    ):
        list_pairs(two_rooms, tmp_path / "pairs.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize("test", [0.5, {"bedroom_0001"}])
def test_a_single_room_cannot_both_train_and_test(tmp_path: Path, test: set[str] | float) -> None:
    write_scene(tmp_path / "raw" / "kitchen_0001", [0], [1])
    with pytest.raises(
        PipelineError, match="gives no test frames, and each split needs rooms of its own"
    ) as caught:
        list_pairs(tmp_path / "raw", tmp_path / "pairs.csv", test=test)
    assert "\n" not in str(caught.value)


def test_frames_are_read_in_the_recorders_byte_order_and_projected(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rgb_u8 = random.integers(0, 256, (480, 640, 3), np.uint8)
    disparity = random.integers(400, 1093, (480, 640)).astype(np.uint16)
    disparity[random.random(disparity.shape) < 0.1] = 2047
    for scene in ("kitchen_0001", "kitchen_0002"):
        write_scene(tmp_path / "raw" / scene, [0], [1])
    write_disparity(tmp_path / "raw" / "kitchen_0001" / name_of("d", 1), np.full((480, 640), 746))
    write_image(tmp_path / "raw" / "kitchen_0002" / name_of("r", 0), rgb_u8)
    write_disparity(tmp_path / "raw" / "kitchen_0002" / name_of("d", 1), disparity)
    list_pairs(tmp_path / "raw", tmp_path / "pairs.csv")
    with RawSequences(tmp_path / "pairs.csv") as source:
        frames = source.read(1, 2)
        other = source.read(0, 1)
    np.testing.assert_array_equal(frames.rgb_u8[0], undistort_rgb(rgb_u8))
    np.testing.assert_array_equal(frames.depth_m[0], project_to_rgb(decode_disparity(disparity)))
    np.testing.assert_array_equal(frames.raw_depth_m, frames.depth_m)
    assert frames.depth_m.min() == 0
    # 746 is the bytes 234, 2, which the other way round are 59,906: nothing measured. A wall at 1.014 m.
    seen_m = other.depth_m[other.depth_m > 0]
    assert seen_m.size > 200_000
    np.testing.assert_allclose(seen_m, 351.3 / (1092.5 - 746), rtol=0.005)


def test_the_opened_list_tells_names_rooms_and_splits(two_rooms: Path, tmp_path: Path) -> None:
    list_pairs(two_rooms, tmp_path / "pairs.csv", test={"home_office_0012"})
    with RawSequences(tmp_path / "pairs.csv") as source:
        assert len(source) == 3
        assert source.size == (480, 640)
        assert source.slab_frames == 1
        assert source.splits == {"train": [1, 2], "test": [0]}
        assert source.scenes == ["home_office_0012", "kitchen_0001", "kitchen_0001"]
        assert source.scene_types == ["home_office", "kitchen", "kitchen"]
        assert source.names[1] == f"kitchen_0001a/{Path(name_of('d', 5)).stem}"
        assert len(set(source.names)) == 3


def read_one(source: RawSequences, index: int) -> Frames:
    return source.read(index, index + 1)


def test_another_process_reads_the_same_frames(two_rooms: Path, tmp_path: Path) -> None:
    write_image(
        two_rooms / "kitchen_0001a" / name_of("r", 0),
        np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8),
    )
    list_pairs(two_rooms, tmp_path / "pairs.csv")
    with RawSequences(tmp_path / "pairs.csv") as source, ProcessPoolExecutor(1) as pool:
        elsewhere = pool.submit(read_one, pickle.loads(pickle.dumps(source)), 1).result()
        for there, here in zip(elsewhere, source.read(1, 2), strict=True):
            np.testing.assert_array_equal(there, here)


def test_frames_that_vanish_or_shrink_later_ask_for_the_fetch_stage(two_rooms: Path, tmp_path: Path) -> None:
    list_pairs(two_rooms, tmp_path / "pairs.csv")
    kitchen = two_rooms / "kitchen_0001a"
    (kitchen / name_of("r", 0)).unlink()
    (kitchen / name_of("d", 38)).write_bytes(b"P5 640 480 65535\n")
    with RawSequences(tmp_path / "pairs.csv") as source:
        with pytest.raises(PipelineError, match=r"kitchen_0001a/r-\S+\.ppm is not there any more; run the fetch"):
            source.read(1, 2)
        with pytest.raises(
            PipelineError, match=r"kitchen_0001a/d-\S+\.pgm is cut: 0 bytes of 614400; run the fetch"
        ):
            source.read(2, 3)


def test_frames_that_have_changed_since_ask_for_the_fetch_stage(two_rooms: Path, tmp_path: Path) -> None:
    list_pairs(two_rooms, tmp_path / "pairs.csv")
    write_disparity(two_rooms / "kitchen_0001a" / name_of("d", 5), np.full((480, 640), 700))
    with (
        RawSequences(tmp_path / "pairs.csv") as source,
        pytest.raises(PipelineError, match=r"r-\S+\.ppm or \S+d-\S+\.pgm has changed since; run the fetch stage"),
    ):
        source.read(1, 2)


def test_stamps_longer_than_any_clock_are_no_frames(tmp_path: Path) -> None:
    names = ["r-" + "9" * 25 + ".5-1.ppm", "r-" + "1" * 5000 + ".5-1.ppm", "d-1.5-" + "9" * 25 + ".pgm"]
    scene = write_scene(tmp_path / "kitchen_0001", [0], [1], "\n".join([*names, name_of("r", 0)]))
    images, disparities, left_out = read_frames(scene)
    assert ([frame.name for frame in images], disparities) == ([name_of("r", 0)], [])
    assert left_out["damaged lines of INDEX.txt"] == 3


def test_a_pipe_in_place_of_a_frame_or_an_index_is_not_waited_for(two_rooms: Path, tmp_path: Path) -> None:
    kitchen = two_rooms / "kitchen_0001a"
    list_pairs(two_rooms, tmp_path / "pairs.csv")
    (kitchen / name_of("r", 0)).unlink()
    os.mkfifo(kitchen / name_of("r", 0))
    with (
        RawSequences(tmp_path / "pairs.csv") as source,
        pytest.raises(PipelineError, match=r"\.ppm cannot be read: it is a pipe or a device"),
    ):
        source.read(1, 2)
    assert read_frames(kitchen)[2]["empty or cut files"] == 1
    (kitchen / "INDEX.txt").unlink()
    os.mkfifo(kitchen / "INDEX.txt")
    with pytest.raises(PipelineError, match=r"INDEX\.txt cannot be read: it is a pipe or a device, no file"):
        read_frames(kitchen)


@pytest.mark.parametrize(
    "content", ["", "rgb,depth\n", "rgb,depth,split\na,b\n", "rgb,depth,split,scene\na,b,half,c\n"]
)
def test_a_damaged_list_asks_for_the_fetch_stage(tmp_path: Path, content: str) -> None:
    (tmp_path / "pairs.csv").write_text(content, encoding="utf-8")
    with (
        pytest.raises(PipelineError, match=r"pairs\.csv .*; run the fetch stage again"),
        RawSequences(tmp_path / "pairs.csv"),
    ):
        pass


def test_a_list_that_is_not_there_asks_for_the_fetch_stage(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="run the fetch stage first"), RawSequences(tmp_path / "pairs.csv"):
        pass
