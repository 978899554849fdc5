"""Calls to the store on disk, while it cannot be reached: a folder for each run, a file for each call."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from pipeline.files import locked, read_json, write_json, write_text
from pipeline.paths import STATE, repository_root

Entry = dict[str, Any]
"""One call of MLflow's client as JSON: `call` names it, the rest are its arguments."""

LOCK = "lock"
ADDRESS = "address.json"


def outbox_folder() -> Path:
    """Where the calls of all runs are kept, in a folder for each."""
    return repository_root() / STATE / "outbox"


class Kept:
    """The unsent calls of one run, oldest first. While there are any, no other process may send them."""

    def __init__(self, folder: Path, store: str, run_id: str) -> None:
        """folder: of this run; what an earlier process kept there stays the oldest. store: its address."""
        self.folder = folder
        self._address = {"store": store, "run_id": run_id}
        self._next = 0
        self._held = contextlib.ExitStack()
        if earlier := kept_entries(folder):
            self._hold()
            self._next = int(earlier[-1].stem) + 1

    def __bool__(self) -> bool:
        return self._next > 0

    def add(self, entry: Entry) -> None:
        """Raises `OSError` if the disk does not take it."""
        if not self:
            self._hold()
            write_json(self.folder / ADDRESS, self._address)
        with contextlib.suppress(FileNotFoundError):  # a file that is gone cannot be sent later either
            keep(self.folder, self._next, entry)
        self._next += 1

    def clear(self) -> None:
        """All is sent."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._held.close()
        self._next = 0

    def release(self) -> None:
        """Leave them to whoever sends them next."""
        self._held.close()

    def _hold(self) -> None:
        lock = self.folder / LOCK
        while True:
            self._held.enter_context(locked(lock))
            if lock.is_file():
                return
            self._held.close()  # who held it before has sent everything and deleted the folder


def kept_runs(folder: Path) -> set[str]:
    """The runs that have unsent calls in `folder`."""
    return {left.name for left in folder.iterdir() if (left / ADDRESS).is_file()} if folder.is_dir() else set()


def kept_entries(folder: Path) -> list[Path]:
    """The unsent calls of one run, oldest first."""
    return sorted(folder.glob("[0-9]*.json"))


def kept_tags(folder: Path) -> dict[str, str]:
    """The tags among the unsent calls of one run."""
    entries = [read_json(path) for path in kept_entries(folder)]
    return {key: value for entry in entries if entry["call"] == "tags" for key, value in entry["pairs"]}


def keep(folder: Path, number: int, entry: Entry) -> None:
    """Write the entry, and a copy of the file that it sends."""
    if "path" in entry:
        copy = folder / f"{number:06d}-files" / Path(entry["path"]).name
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(entry["path"], copy)
        if entry.get("temporary"):
            Path(entry["path"]).unlink()
        entry = entry | {"path": str(copy), "temporary": True}
    write_text(folder / f"{number:06d}.json", json.dumps(entry))  # a metric may be NaN, which write_json refuses


def warn(text: str) -> None:
    """A line on stderr, if there is still somebody to read it."""
    with contextlib.suppress(OSError):
        print(f"warning: {text}", file=sys.stderr, flush=True)
