"""Large files over HTTP from servers that are slow, cut the line, serve something else, or are gone."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import requests
import urllib3
from tqdm import tqdm

from pipeline.errors import PipelineError
from pipeline.files import written_whole

BLOCK_BYTES = 1 << 18
LONGEST_WAIT_S = 60.0
"""Bound on Retry-After: whoever asks for more is tried earlier, so that the next address gets its turn."""
MISMATCHES = 2
"""How often an address may deliver the wrong md5: the line may spoil one file, a second is the server's."""
TEMPORARY = {408, 425, 429, 500, 502, 503, 504}
"""HTTP statuses that may be another one in a moment."""

_new_md5 = functools.partial(hashlib.md5, usedforsecurity=False)


class RemoteFile(NamedTuple):
    """A file known by its content, and the addresses that serve it."""

    name: str
    urls: tuple[str, ...]
    size: int
    """bytes"""
    md5: str
    """hexadecimal"""

    def at(self, urls: Iterable[str]) -> RemoteFile:
        """The same file at other addresses."""
        return self._replace(urls=tuple(urls))


# The addresses of these two are parameters: the official host is often down, and mirrors come and go.
NYU_LABELED = RemoteFile("nyu_depth_v2_labeled.mat", (), 2_972_037_809, "520609c519fba3ba5ac58c8fefcc3530")
NYU_SPLITS = RemoteFile("splits.mat", (), 2_626, "08e3c3aea27130ac7c01ffd739a4535f")


class _GiveUp(Exception):
    """This address will not yield the file; the next one may."""


class _Retry(Exception):
    """This address may yield the file, or the rest of it, after a pause of at least `wait_s`."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _Mismatch(_Retry):
    """All bytes arrived, and they are not the file."""


def download(
    remote: RemoteFile,
    target: Path,
    partial_dir: Path,
    *,
    tries: int = 5,
    backoff_s: float = 2.0,
    timeout_s: float = 30.0,
) -> None:
    """Fetch `remote` to `target`, whole and with the right md5, or raise `PipelineError` and leave it alone.

    What has arrived is kept in `partial_dir`, to be resumed from after a cut line and by a later process.
    The addresses are taken in turn; one is given up after `tries` failures in a row that brought nothing new,
    with pauses of `backoff_s`, doubled each time, between them. A server silent for `timeout_s` has failed.
    """
    for folder in (partial_dir, target.parent):
        folder.mkdir(parents=True, exist_ok=True)
    path = partial_dir / f"{remote.name}.part"
    with _Partial(path, remote) as partial:
        if partial.missing <= 0 and not partial.is_whole():
            partial.discard()
        _check_space(remote, partial, partial_dir, target.parent)
        if not partial.is_whole():
            _fetch(remote, partial, tries, backoff_s, timeout_s)
    with written_whole(target) as beside_target:
        shutil.move(path, beside_target)


class _Partial:
    """Context manager over what has arrived of a file: its bytes on disk, their md5, and the progress bar."""

    def __init__(self, path: Path, remote: RemoteFile) -> None:
        self._path = path
        self._remote = remote

    def __enter__(self) -> Self:
        # Unbuffered, so that whatever arrived is on disk also after kill -9.
        self._file = self._path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise PipelineError(
                f"{self._path} is being downloaded by another process; start again when that one has ended"
            ) from error
        self._file.seek(0)
        self._md5 = hashlib.file_digest(self._file, _new_md5)
        self.size = self._file.tell()
        self._bar = tqdm(
            total=self._remote.size,
            initial=self.size,
            desc=self._remote.name,
            unit="B",
            unit_scale=True,
            mininterval=0.5,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._file.close()

    @property
    def missing(self) -> int:
        """How many bytes are still to come; negative if there are too many."""
        return self._remote.size - self.size

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()

    def is_whole(self) -> bool:
        return self.missing == 0 and self.md5 == self._remote.md5

    def append(self, block: bytes) -> None:
        rest = memoryview(block)
        while rest:  # an unbuffered write may take a part only
            rest = rest[self._file.write(rest) :]
        self._md5.update(block)
        self.size += len(block)
        self._bar.update(len(block))

    def discard(self) -> None:
        self._file.truncate(0)
        self._md5 = _new_md5()
        self.size = self._bar.initial = 0
        self._bar.reset()


def _check_space(remote: RemoteFile, partial: _Partial, partial_dir: Path, target_dir: Path) -> None:
    needed_bytes = {partial_dir: partial.missing}
    if partial_dir.stat().st_dev != target_dir.stat().st_dev:  # the move will be a copy
        needed_bytes[target_dir] = remote.size
    for folder, needed in needed_bytes.items():
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise PipelineError(
                f"{remote.name} needs {needed / 1e9:.2f} GB in {folder}, "
                f"where {free / 1e9:.2f} GB are free; free some space and start again"
            )


def _fetch(remote: RemoteFile, partial: _Partial, tries: int, backoff_s: float, timeout_s: float) -> None:
    answers = []
    for url in remote.urls:
        try:
            return _fetch_from(url, remote, partial, tries, backoff_s, timeout_s)
        except _GiveUp as answer:
            answers.append(f"{url}: {answer}")
    raise PipelineError(
        f"{remote.name} could not be downloaded ({'; '.join(answers) or 'no address is given'}); "
        f"start again later ({partial.size} of {remote.size} bytes are kept), "
        "or put the file somewhere by other means and use fetch.source=file"
    )


def _fetch_from(
    url: str, remote: RemoteFile, partial: _Partial, tries: int, backoff_s: float, timeout_s: float
) -> None:
    failures = mismatches = 0
    farthest = partial.size
    while True:
        try:
            return _receive(url, remote, partial, timeout_s)
        except _Retry as answer:
            mismatches += isinstance(answer, _Mismatch)
            failures = 0 if partial.size > farthest else failures + 1
            farthest = max(farthest, partial.size)
            if failures >= tries or mismatches >= MISMATCHES:
                raise _GiveUp(f"{answer} (tried {max(failures, mismatches)} times)") from answer
            pause_s = max(answer.wait_s, backoff_s * 2 ** max(failures - 1, 0))
        time.sleep(pause_s)


def _receive(url: str, remote: RemoteFile, partial: _Partial, timeout_s: float) -> None:
    """One request for what is missing; returns when the file is whole."""
    headers = {"Accept-Encoding": "identity"}
    if partial.size:
        headers["Range"] = f"bytes={partial.size}-"
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout_s) as response:
            _check_answer(response, remote, partial)
            # read1 hands over each piece as it comes; read would lose up to a block when the line is cut.
            while block := response.raw.read1(min(BLOCK_BYTES, partial.missing + 1)):
                if len(block) > partial.missing:
                    partial.discard()
                    raise _GiveUp(f"sends more than {remote.size} bytes")
                partial.append(block)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        if isinstance(error, ValueError):
            raise _GiveUp(f"is no address to fetch from: {error}") from error
        if partial.missing:
            raise _Retry(_reason(error, partial, timeout_s)) from error
    if partial.missing:
        raise _Retry(f"line cut after {partial.size} of {remote.size} bytes")
    if not partial.is_whole():
        md5 = partial.md5
        partial.discard()
        raise _Mismatch(f"md5 is {md5} instead of {remote.md5}")


def _check_answer(response: requests.Response, remote: RemoteFile, partial: _Partial) -> None:
    """Return if the body continues `partial`, emptied where the server ignores Range; raise otherwise."""
    status, answer = response.status_code, response.headers
    if status in TEMPORARY:
        asked_s = answer.get("Retry-After", "")
        raise _Retry(f"HTTP {status}", min(float(asked_s), LONGEST_WAIT_S) if asked_s.isdecimal() else 0.0)
    if status == 416:
        partial.discard()
        raise _Retry("HTTP 416, nothing at that offset")
    if status not in (200, 206):
        raise _GiveUp(f"HTTP {status}")
    size = answer.get("Content-Length", "")
    if status == 206:
        content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.get("Content-Range", ""))
        if not content_range or int(content_range[1]) != partial.size:
            asked_from = partial.size
            partial.discard()
            raise _Retry(f"Content-Range '{answer.get('Content-Range')}' for a request from {asked_from}")
        size = content_range[2]
    if size.isdecimal() and int(size) != remote.size:
        raise _GiveUp(f"offers {size} bytes instead of {remote.size}")
    if answer.get("Content-Type", "").startswith("text/html"):
        raise _GiveUp("answers with an HTML page")
    if status == 200 and partial.size:
        partial.discard()


def _reason(error: Exception, partial: _Partial, timeout_s: float) -> str:
    """What went wrong in a few words; the libraries wrap it in several exceptions and object addresses."""
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return f"silent for {timeout_s:g} s after {partial.size} bytes"
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return f"line cut after {partial.size} bytes"
    root: BaseException = error
    while root.__context__ is not None:
        root = root.__context__
    return getattr(root, "strerror", None) or str(root) or type(root).__name__
