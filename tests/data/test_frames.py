"""Reading any source of frames in slabs, and what makes splits valid."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.frames import Frames, check_scenes, check_splits, cores, map_slabs, read_slabs
from pipeline.errors import PipelineError


class NumberedFrames:
    """A source whose frame k holds the number k everywhere, and that remembers what was read."""

    size = (2, 3)

    def __init__(self, frames: int, slab_frames: int) -> None:
        self.slab_frames = slab_frames
        self.names = self.scenes = self.scene_types = [str(index) for index in range(frames)]
        self.reads: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.names)

    def read(self, start: int, stop: int) -> Frames:
        self.reads.append((start, stop))
        numbers = np.arange(start, stop)
        depth_m = np.broadcast_to(numbers[:, None, None], (len(numbers), *self.size)).astype(np.float32)
        rgb_u8 = np.repeat(depth_m[..., None], 3, axis=3).astype(np.uint8)
        return Frames(rgb_u8, depth_m, depth_m)


@given(frames=st.integers(1, 60), slab_frames=st.integers(1, 70), data=st.data())
def test_wanted_frames_come_in_order_from_slabs_read_once(
    frames: int, slab_frames: int, data: st.DataObject
) -> None:
    wanted = data.draw(st.lists(st.integers(0, frames - 1), max_size=30))
    source = NumberedFrames(frames, slab_frames)
    slabs = list(read_slabs(source, wanted))
    assert [index for indices, _ in slabs for index in indices] == sorted(set(wanted))
    for indices, part in slabs:
        assert all(isinstance(index, int) for index in indices)
        for array in part:
            assert len(array) == len(indices)
            np.testing.assert_array_equal(array.reshape(len(indices), -1)[:, 0], indices)
    wanted_slabs = sorted({index // slab_frames for index in wanted})
    assert source.reads == [(k * slab_frames, min((k + 1) * slab_frames, frames)) for k in wanted_slabs]


def test_slabs_are_read_only_when_their_turn_comes() -> None:
    source = NumberedFrames(frames=10, slab_frames=2)
    slabs = read_slabs(source, range(10))
    next(slabs)
    assert source.reads == [(0, 2)]


def test_an_iterator_of_indices_is_enough() -> None:
    source = NumberedFrames(frames=5, slab_frames=2)
    assert [indices for indices, _ in read_slabs(source, iter([4, 0]))] == [[0], [4]]


@given(frames=st.integers(1, 60), slab_frames=st.integers(1, 70), ahead=st.integers(0, 5), data=st.data())
def test_work_in_threads_gives_what_one_slab_after_the_other_gives(
    frames: int, slab_frames: int, ahead: int, data: st.DataObject
) -> None:
    wanted = data.draw(st.lists(st.integers(0, frames - 1), max_size=30))

    def work(indices: list[int], part: Frames) -> tuple[list[int], list[float]]:
        return indices, part.depth_m[:, 0, 0].tolist()

    source = NumberedFrames(frames, slab_frames)
    expected = [work(*slab) for slab in read_slabs(source, wanted)]
    reads, source.reads = source.reads, []
    assert list(map_slabs(source, wanted, work, ahead=ahead)) == expected
    assert sorted(source.reads) == reads


def test_threads_wait_until_their_results_are_taken() -> None:
    source = NumberedFrames(frames=1000, slab_frames=1)
    results = map_slabs(source, range(1000), lambda indices, _: indices, ahead=3)
    assert next(results) == [0]
    assert len(source.reads) <= cores() + 3
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("slabs")]


def test_an_error_in_the_threads_comes_in_its_turn_and_ends_them() -> None:
    def work(indices: list[int], _frames: Frames) -> list[int]:
        if 4 in indices:
            raise PipelineError("frame 4 is damaged")
        return indices

    source = NumberedFrames(frames=100, slab_frames=2)
    results = map_slabs(source, range(100), work, ahead=2)
    assert [next(results), next(results)] == [[0, 1], [2, 3]]
    with pytest.raises(PipelineError, match="frame 4 is damaged"):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("slabs")]
    assert len(source.reads) < 50


def test_disjoint_splits_inside_the_file_pass() -> None:
    check_splits({"train": [0, 2], "val": [], "test": [1, 3]}, 4, "splits.mat")


@pytest.mark.parametrize(
    ("splits", "complaint"),
    [
        ({"train": [0], "test": [4]}, "splits.mat: test frame 5 (from 1) is outside 1..4"),
        ({"train": [-1], "test": [0]}, "splits.mat: train frame 0 (from 1) is outside 1..4"),
        ({"train": [0, 1], "test": [1]}, "splits.mat: frame 2 (from 1) is in both train and test"),
        ({"train": [3, 3], "test": [1]}, "splits.mat: frame 4 (from 1) is in train twice"),
    ],
)
def test_splits_that_cannot_be_are_refused(splits: dict[str, list[int]], complaint: str) -> None:
    with pytest.raises(PipelineError) as caught:
        check_splits(splits, 4, "splits.mat")
    assert str(caught.value) == complaint


def test_a_scene_in_two_splits_is_named_with_a_frame_of_each() -> None:
    check_scenes({"train": [0, 2], "test": [1]}, ["a", "b", "a"], "splits.mat")
    with pytest.raises(PipelineError) as caught:
        check_scenes({"train": [0, 2], "test": [1]}, ["a", "c", "c"], "splits.mat")
    assert str(caught.value) == (
        "splits.mat: scene 'c' is in train (frame 3) and in test (frame 2, from 1); a scene belongs to one split"
    )
