"""States on disk: whole or known not to be, and the one before is there."""

from __future__ import annotations

import os
import random
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.state import KEEP_DAYS
from pipeline.training.resume import (
    StateFolder,
    claimed_folder,
    frozen,
    random_states,
    set_random_states,
)

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    with claimed_folder(tmp_path / "training" / "key") as folder:
        assert folder is not None
        yield folder


def state(number: int) -> dict[str, object]:
    weights = torch.full((2, 3, 4, 4), float(number)).to(memory_format=torch.channels_last)
    return {"number": number, "weights": weights, "png": b"\x89PNG", "rows": [{"a": 0.1}], "nothing": None}


def newest(tmp_path: Path) -> Path:
    return tmp_path / "training" / "key" / "state.pt"


def test_what_was_saved_last_comes_back(folder: StateFolder) -> None:
    assert folder.load() is None
    for number in range(3):
        folder.save(state(number))
    loaded = folder.load()
    assert loaded is not None
    assert (loaded["number"], loaded["png"], loaded["rows"], loaded["nothing"]) == (
        2,
        b"\x89PNG",
        [{"a": 0.1}],
        None,
    )
    assert torch.equal(loaded["weights"], state(2)["weights"])
    assert loaded["weights"].stride() == state(2)["weights"].stride()


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_state_is_set_aside_and_the_one_before_it_used(
    folder: StateFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    folder.save(state(1))
    folder.save(state(2))
    content = bytearray(newest(tmp_path).read_bytes())
    content[len(content) // 2] ^= 1
    newest(tmp_path).write_bytes({"flip": content, "truncate": content[: len(content) // 3], "empty": b""}[damage])
    loaded = folder.load()
    assert loaded is not None and loaded["number"] == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "state.pt is damaged" in told
    assert newest(tmp_path).with_suffix(".damaged").is_file()
    before = newest(tmp_path).with_name("before.pt")
    before.write_bytes(b"x" * 100)
    assert folder.load() is None


def test_a_state_that_the_disk_does_not_take_leaves_those_before_it(folder: StateFolder, tmp_path: Path) -> None:
    folder.save(state(1))
    size = newest(tmp_path).stat().st_size
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
        with pytest.raises(OSError):
            folder.save(state(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    loaded = folder.load()
    assert loaded is not None and loaded["number"] == 1
    assert [path.name for path in newest(tmp_path).parent.iterdir()] == ["state.pt"]


def test_a_folder_that_has_become_needless_is_deleted_after_the_block_and_no_other(tmp_path: Path) -> None:
    for name, needless in (("done", True), ("interrupted", False)):
        with claimed_folder(tmp_path / "training" / name) as folder:
            assert folder is not None
            folder.save(state(1))
            folder.is_needless = needless
            assert folder.load() is not None
    assert [path.name for path in (tmp_path / "training").iterdir() if path.is_dir()] == ["interrupted"]


def test_of_two_equal_trainings_at_a_time_the_second_has_no_folder(
    folder: StateFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with claimed_folder(tmp_path / "training" / "key") as second:
        assert second is None
    assert "another process makes the same training" in capsys.readouterr().err
    with claimed_folder(tmp_path / "training" / "other") as other:
        assert other is not None


def test_states_that_nobody_went_on_with_are_deleted_in_the_end(folder: StateFolder, tmp_path: Path) -> None:
    folder.save(state(1))
    forgotten, young = tmp_path / "training" / "forgotten", tmp_path / "training" / "young"
    long_ago = tmp_path.stat().st_mtime - (KEEP_DAYS + 1) * 86_400
    for path in (forgotten, young):
        path.mkdir()
        (path / "state.pt").write_bytes(b"")
    os.utime(forgotten, (long_ago, long_ago))
    with claimed_folder(tmp_path / "training" / "third"):
        pass
    assert not forgotten.exists()
    assert young.is_dir() and folder.load() is not None


def test_every_generator_goes_on_where_it_was(folder: StateFolder) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002

    folder.save(random_states(CPU))
    expected = [draw() for _ in range(3)]
    saved = folder.load()
    assert saved is not None
    set_random_states(saved, CPU)
    assert [draw() for _ in range(3)] == expected


def test_a_frozen_copy_shares_nothing_and_keeps_the_layout() -> None:
    original = {"a": [torch.zeros(1, 2, 3, 3).to(memory_format=torch.channels_last)], "b": (1, "x")}
    copy = frozen(original)
    original["a"][0] += 1
    assert float(copy["a"][0].sum()) == 0
    assert copy["a"][0].stride() == original["a"][0].stride()
    assert copy["b"] == (1, "x")
