"""What a stage keeps under `.state` of the repository's root, to go on from after an interruption."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.files import locked

KEEP_DAYS = 30
"""What nobody went on with is deleted after so long."""


def state_key(**parts: Any) -> str:
    """One name for work that would end with the same result. parts: whatever decides it, as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Make the folder, which is this process's own in the block; False if another process has it.

    Folders beside it that nobody has claimed for 30 days are deleted.
    """
    _delete_forgotten(path.parent)
    path.mkdir(parents=True, exist_ok=True)
    os.utime(path)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path.with_suffix(".lock"), wait=False))
        except BlockingIOError:
            yield False
            return
        yield True


def _delete_forgotten(states: Path) -> None:
    oldest = time.time() - KEEP_DAYS * 86_400
    for path in states.iterdir() if states.is_dir() else ():
        with contextlib.suppress(OSError):  # another process may delete it too
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
