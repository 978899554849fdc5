"""Files that are either whole or absent, and their hashes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError

_UMASK = os.umask(0)
os.umask(_UMASK)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it into place if the block succeeds, else remove it.

    A reader therefore sees the old file or the new one, never half of either, also after kill -9.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        # Some writers (safetensors) make files that only their owner can read. A hard link is left as it is:
        # its other name is somebody else's file.
        if partial.stat().st_nlink == 1:
            partial.chmod(0o666 & ~_UMASK)
        # Without the flush a power cut could leave the new name on an empty file.
        with partial.open("rb") as handle:
            os.fsync(handle.fileno())
        partial.replace(path)
    except Exception as error:
        translated = _as_os_error(error, path)
        if translated is error:
            raise
        raise translated from error
    finally:
        partial.unlink(missing_ok=True)


def _as_os_error(error: Exception, path: Path) -> Exception:
    """safetensors and HDF5 wrap the system's refusals (disk full, file too large) in errors of their own."""
    number = re.search(r"(?:os error|errno =) (\d+)", str(error))
    if number is None:
        return error
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path))


def regular_bytes(path: str | Path, most: int = -1) -> bytes:
    """The content of a file, or its first `most` bytes.

    Raises `OSError` for anything else as well: a pipe or a device would be read for ever.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, no file", str(path))
        return file.read(most)


def write_text(path: Path, text: str) -> None:
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Readable, diffable JSON. NaN and infinity are refused: they are not JSON."""
    with written_whole(path) as partial, partial.open("w", encoding="utf-8") as handle:
        # Piece by piece: of the index of 100,000 frames the whole text would take 200 MB on its way.
        json.dump(content, handle, indent=2, ensure_ascii=False, allow_nan=False)
        handle.write("\n")


def read_json(path: Path) -> Any:
    """The content of a file that a stage wrote. Raises `PipelineError` if it is no JSON any more."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PipelineError(f"{path} is damaged ({error}); delete it and run `dvc repro`") from error


def sha256_of(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Give `target` the content of `source`, without a second copy on disk where the file system can.

    A copy-on-write clone where there is one, else a hard link, else a copy.
    """
    with written_whole(target) as partial:
        if not _clone(source, partial):
            partial.unlink(missing_ok=True)
            try:
                partial.hardlink_to(source)
            except OSError:
                shutil.copyfile(source, partial)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file for the block. It ends with its process, also by kill -9.

    Raises `BlockingIOError` while another process holds it, unless it is to `wait`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def _clone(source: Path, target: Path) -> bool:
    ficlone = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
    with source.open("rb") as original, target.open("wb") as clone:
        try:
            fcntl.ioctl(clone, ficlone, original.fileno())
        except OSError:
            return False
    return True
