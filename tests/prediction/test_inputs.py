"""Which files are predicted, and that no result overwrites another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.prediction.inputs import find_inputs, refuse_losses

OUT = Path("out")


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def found(*given: str) -> dict[str, str]:
    return {str(one.path): str(one.name) for one in find_inputs([Path(path) for path in given], OUT)}


def test_a_folder_is_searched_at_any_depth_and_its_order_is_kept() -> None:
    make("photos/b.jpg", "photos/a.PNG", "photos/attic/deep/c.webp", "photos/walk.mp4")
    make("photos/notes.txt", "photos/.hidden.jpg", "photos/.thumbs/a.jpg")
    assert found("photos") == {
        "photos/a.PNG": "a",
        "photos/b.jpg": "b",
        "photos/walk.mp4": "walk",
        "photos/attic/deep/c.webp": "attic/deep/c",
    }
    assert [one.is_video for one in find_inputs([Path("photos")], OUT)] == [False, False, True, False]


def test_files_of_one_name_keep_what_tells_them_apart() -> None:
    make("a.jpg", "a.png", "one/b.jpg", "two/b.jpg", "two/c.jpg")
    assert found("a.jpg", "a.png", "one", "two") == {
        "a.jpg": "a.jpg",
        "a.png": "a.png",
        "one/b.jpg": "one/b.jpg",
        "two/b.jpg": "two/b.jpg",
        "two/c.jpg": "c",
    }


def test_folders_of_one_name_in_different_places_do_not_collide() -> None:
    make("kitchen/day/a.jpg", "attic/day/a.jpg")
    names = found("kitchen/day", "attic/day")
    assert len(set(names.values())) == 2
    assert all(name.endswith("day/a.jpg") for name in names.values())
    assert not any(Path(name).is_absolute() for name in names.values())


def test_a_file_that_is_met_twice_counts_once() -> None:
    make("photos/a.jpg")
    Path("link.jpg").symlink_to("photos/a.jpg")
    assert found("photos/a.jpg", "photos", "./photos/a.jpg", "link.jpg") == {"photos/a.jpg": "a"}


def test_a_file_that_is_named_is_taken_whatever_its_extension() -> None:
    make("scan.data", "archive.v2.jpg")
    assert found("scan.data", "archive.v2.jpg") == {"scan.data": "scan", "archive.v2.jpg": "archive.v2"}


def test_earlier_results_in_a_folder_are_no_images_of_it() -> None:
    make("a.jpg", "out/a-depth.png")
    assert found(".") == {"a.jpg": "a"}
    with pytest.raises(PipelineError, match="--out is out itself"):
        found("out")


def test_a_pipe_is_no_image_and_is_not_waited_for() -> None:
    make("photos/a.jpg")
    os.mkfifo("photos/pipe.jpg")
    assert found("photos") == {"photos/a.jpg": "a"}
    with pytest.raises(PipelineError, match=r"photos/pipe\.jpg is neither a file nor a folder"):
        found("photos/pipe.jpg")


@pytest.mark.parametrize("given", ["a-depth.png", "a-side-by-side.jpg", "link.png", "other/../a-depth-colour.png"])
def test_a_result_may_not_take_the_place_of_an_input(given: str) -> None:
    make("a.jpg", "a-depth-colour.png", "a-side-by-side.jpg", "other/b.jpg", "a-depth.png")
    Path("link.png").symlink_to("a-depth.png")
    inputs = find_inputs([Path("a.jpg"), Path(given)], Path())
    with pytest.raises(PipelineError, match=r"which is to be predicted, would be replaced by a result of a\.jpg"):
        refuse_losses(inputs, Path(), each_frame=False)
    refuse_losses(inputs, OUT, each_frame=False)


def test_what_is_not_there_is_named() -> None:
    make("empty/notes.txt")
    with pytest.raises(PipelineError, match=r"nowhere\.jpg does not exist"):
        found("nowhere.jpg")
    with pytest.raises(PipelineError, match="empty holds no image and no video"):
        found("empty")
