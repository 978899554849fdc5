from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.own_images import row_of, write_csv, write_frame


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of three frames a, b, c and the list.csv that puts one into each split."""
    for seed, name in enumerate("abc"):
        write_frame(tmp_path, name, seed)
    write_csv(
        tmp_path / "list.csv",
        row_of("a", "train", "kitchen_1"),
        row_of("b", "val", "kitchen_2"),
        row_of("c", "test", "office_1"),
    )
    return tmp_path
