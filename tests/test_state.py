"""Folders of unfinished work, and their names."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.state import KEEP_DAYS, claimed, state_key


def test_a_folder_is_claimed_by_one_at_a_time_and_free_afterwards(tmp_path: Path) -> None:
    with claimed(tmp_path / "work" / "key") as first, claimed(tmp_path / "work" / "key") as second:
        assert (first, second) == (True, False)
        assert (tmp_path / "work" / "key").is_dir()
    with claimed(tmp_path / "work" / "key") as again:
        assert again


def test_what_is_claimed_counts_as_young_and_what_was_forgotten_is_deleted(tmp_path: Path) -> None:
    mine, forgotten = tmp_path / "mine", tmp_path / "forgotten"
    long_ago = tmp_path.stat().st_mtime - (KEEP_DAYS + 1) * 86_400
    for path in (mine, forgotten):
        path.mkdir()
    with claimed(mine):
        os.utime(forgotten, (long_ago, long_ago))
    with claimed(tmp_path / "other"):
        pass
    assert mine.is_dir()
    assert not forgotten.exists()


def test_the_key_changes_with_any_part_and_not_with_their_order() -> None:
    key = state_key(params={"seed": 0, "w": 0.5}, data="d", code={"a.py": "1"})
    assert key == state_key(code={"a.py": "1"}, data="d", params={"w": 0.5, "seed": 0})
    others = [
        state_key(params={"seed": 1, "w": 0.5}, data="d", code={"a.py": "1"}),
        state_key(params={"seed": 0, "w": 0.5}, data="e", code={"a.py": "1"}),
        state_key(params={"seed": 0, "w": 0.5}, data="d", code={"a.py": "2"}),
    ]
    assert len({key, *others}) == 4
