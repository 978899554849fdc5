"""dvc.lock after the last stage: DVC writes what it notes of a stage when the stage's process has ended."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline import paths
from pipeline.tracking.execution import is_alive
from pipeline.tracking.opening import go_on
from pipeline.tracking.records import record_lock
from pipeline.tracking.store import new_client

PATIENCE_S = 20.0
"""How long DVC may take to put the outputs of the last stage into its cache."""
PACE_S = 0.05
STILL = 3
"""The file is whole when so many looks at it, in that pace, find the same."""


def written_at() -> int:
    """When dvc.lock was written, in ns; 0 if it is not there."""
    try:
        return paths.LOCK.stat().st_mtime_ns
    except OSError:
        return 0


def send_lock(run_id: str, command: str, before: int) -> None:
    """Add dvc.lock to the run as soon as DVC, the process with the mark `command`, has written it.

    before: when it was written last. If DVC ends without that, `depth sync` completes the run.
    """
    text = _next_text(command, before)
    os.chdir(paths.repository_root())  # DVC deletes the copy that it runs an experiment in
    if text:
        with TemporaryDirectory(prefix="depth-") as folder:
            copy = Path(folder) / paths.LOCK.name
            copy.write_bytes(text)
            run = go_on(new_client(), run_id, {})
            record_lock(run, copy)
            run.close(None)


def _next_text(command: str, before: int) -> bytes:
    seen, end = [b""], time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        alive = is_alive(command)
        if written_at() != before:
            with contextlib.suppress(FileNotFoundError):  # the copy is gone already
                seen.append(paths.LOCK.read_bytes())
            if not paths.LOCK.is_file() or (len(seen) > STILL and len({*seen[-STILL:]}) == 1):
                break
        if not alive:
            break
        time.sleep(PACE_S)
    return seen[-1]
