"""Files that are whole or absent, also when the process is killed."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.files import read_json, sha256_of, write_json, write_text, written_whole


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    with written_whole(path) as partial:
        partial.write_text("new")
        assert partial.parent == path.parent  # the same file system, so that the move is one step
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_no_partial(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(failure), written_whole(path) as partial:
        partial.write_text("half of the n")
        raise failure
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_before_anything_is_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="early"), written_whole(tmp_path / "file.txt"):
        raise ValueError("early")
    assert list(tmp_path.iterdir()) == []


def test_a_kill_in_mid_writing_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    code = (
        "import os, signal, sys; from pathlib import Path; from pipeline.files import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half of the n')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_file_linked_to_a_cache_is_replaced_and_the_cache_kept(
    tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    cached, path = tmp_path / "cached", tmp_path / "file.txt"
    cached.write_text("old")
    cached.chmod(0o444)
    link(cached, path)
    write_text(path, "new")
    assert (path.read_text(), cached.read_text()) == ("new", "old")


def test_json_comes_back(tmp_path: Path) -> None:
    content = {"δ1": 0.1 + 0.2, "names": ["café", None], "count": 3, "nested": {"ok": True}}
    write_json(tmp_path / "file.json", content)
    assert read_json(tmp_path / "file.json") == content
    text = (tmp_path / "file.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert "café" in text


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_json_is_refused_and_the_old_file_kept(tmp_path: Path, number: float) -> None:
    write_json(tmp_path / "file.json", {"rmse": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"rmse": number})
    assert read_json(tmp_path / "file.json") == {"rmse": 1.0}


@pytest.mark.parametrize("content", [b"", b"abc", bytes(3_000_000)])
def test_the_hash_is_sha256_of_the_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("writer", ["safetensors", "h5py"])
def test_a_library_that_cannot_write_more_gives_the_systems_reason_and_leaves_nothing(
    tmp_path: Path, writer: str
) -> None:
    # A limit on the size of files stands in for a full disk: the system refuses the same call.
    script = """
import resource, signal, sys
from pathlib import Path
import h5py, numpy as np
from safetensors.numpy import save_file
from pipeline.errors import reported_to_user
from pipeline.files import written_whole

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
values = np.random.default_rng(0).random(500_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with reported_to_user("stage"), written_whole(Path(sys.argv[2])) as partial:
    if sys.argv[1] == "safetensors":
        save_file({"values": values}, partial)
    else:
        with h5py.File(partial, "w") as file:
            file["values"] = values
"""
    target = tmp_path / "target"
    done = subprocess.run([sys.executable, "-c", script, writer, str(target)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: stage: File too large")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
