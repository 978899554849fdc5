"""Damaged files of every source give an error in one line or the right frames: no traceback, crash or hang.

Images and lists of one's own are in test_lists.py. DEPTH_MUTATIONS is how many times as many files are damaged, and
then in other places each time.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.data.damage import outcomes

TIMES = int(os.environ.get("DEPTH_MUTATIONS", "0"))


@pytest.mark.parametrize(
    ("kind", "count"), [("labeled", 250), ("splits", 1000), ("index", 300), ("raw images", 30)]
)
def test_a_damaged_file_is_told_in_one_line_or_read_right(kind: str, count: int, tmp_path: Path) -> None:
    seed = random.randrange(2**32) if TIMES else 0
    found = outcomes(kind, tmp_path, count * max(1, TIMES), seed)
    # Neither would be tested if all were refused, or nothing damaged.
    assert found["read"] > count // 10
    if kind != "index":  # which has no error: what is no name in it is left out
        assert found["told"] > count // 10
