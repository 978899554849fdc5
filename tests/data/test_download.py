"""Downloads from a real HTTP server that misbehaves by script."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.download import RemoteFile, download
from pipeline.errors import PipelineError

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()
SIZE = len(CONTENT)
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Answer:
    """What the server does with one request; as it stands, the right thing."""

    status: int | None = None
    """None: 200, or 206 for a range"""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = CONTENT
    ignores_range: bool = False
    range_shift: int = 0
    """How far Content-Range is off"""
    declares: int | None = 0
    """Added to the true length in the headers; None: no length at all"""
    cut_at: int = SIZE
    """Offset in the file after which the server closes the connection"""
    reset: bool = False
    """Close with RST instead of FIN"""
    stall_s: float = 0.0
    """Silence before closing"""


class Server(ThreadingHTTPServer):
    """Answers the n-th request for a path by the path's n-th answer, the last one for ever."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, str | None]] = []
        """(path, Range header) as they came in"""
        self.times_s: list[float] = []
        self.sent: list[tuple[int, int]] = []
        """(start, stop) offsets in the file of what went out"""

    def url(self, path: str, *answers: Answer) -> str:
        self.answers[path] = list(answers)
        return f"http://127.0.0.1:{self.server_port}{path}"

    def ranges(self) -> list[str | None]:
        return [asked for _, asked in self.requests]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.requests.append((self.path, asked))
        self.server.times_s.append(time.monotonic())
        waiting = self.server.answers[self.path]
        answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        start = 0 if answer.ignores_range else start
        status = answer.status or (206 if start else 200)
        self.send_response(status)
        headers = dict(answer.headers)
        if answer.declares is not None:
            headers["Content-Length"] = str(len(answer.body) - start + answer.declares)
        if status == 206:
            first, total = start + answer.range_shift, len(answer.body) + (answer.declares or 0)
            headers["Content-Range"] = f"bytes {first}-{total - 1}/{total}"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        part = answer.body[start : answer.cut_at]
        self.server.sent.append((start, start + len(part)))
        self.wfile.write(part)
        self.wfile.flush()
        time.sleep(answer.stall_s)
        if answer.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep stderr for the progress bar."""

    def finish(self) -> None:
        if not self.wfile.closed and self.connection.fileno() >= 0:
            super().finish()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "file.bin"


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / "partial" / "file.bin.part"


def fetch(
    target: Path, *urls: str, size: int = SIZE, md5: str = MD5, tries: int = 3, timeout_s: float = 5.0
) -> None:
    partial_dir = target.parent.parent / "partial"
    remote = RemoteFile("file.bin", urls, size, md5)
    download(remote, target, partial_dir, tries=tries, backoff_s=0.002, timeout_s=timeout_s)


def refusal(target: Path, *urls: str) -> str:
    """The error's text, after the checks that hold for every failure."""
    with pytest.raises(PipelineError) as caught:
        fetch(target, *urls)
    line = str(caught.value)
    assert "\n" not in line
    assert not target.exists()
    assert all(url in line for url in urls)
    return line


def test_a_file_arrives_whole_and_leaves_nothing_behind(server: Server, target: Path, partial: Path) -> None:
    fetch(target, server.url("/a", Answer()))
    assert target.read_bytes() == CONTENT
    assert server.ranges() == [None]
    assert not partial.exists()
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]


def test_an_empty_file_arrives(server: Server, target: Path) -> None:
    fetch(target, server.url("/a", Answer(body=b"")), size=0, md5=hashlib.md5(b"").hexdigest())
    assert target.read_bytes() == b""


@pytest.mark.parametrize("cuts", [[1], [299_999], [100_000, 200_001], [7, 7, 65_536, 65_537, 262_144]])
def test_a_cut_line_is_resumed_and_no_byte_is_fetched_twice(server: Server, target: Path, cuts: list[int]) -> None:
    url = server.url("/a", *(Answer(cut_at=cut) for cut in cuts), Answer())
    fetch(target, url)
    assert target.read_bytes() == CONTENT
    assert server.ranges() == [None, *(f"bytes={cut}-" for cut in cuts)]
    starts, stops = zip(*server.sent, strict=True)
    assert starts == (0, *stops[:-1])


def test_more_cuts_than_tries_are_survived_while_something_arrives(server: Server, target: Path) -> None:
    cuts = range(10_000, SIZE, 10_000)
    fetch(target, server.url("/a", *(Answer(cut_at=cut) for cut in cuts), Answer()), tries=2)
    assert target.read_bytes() == CONTENT


def test_a_line_cut_without_a_length_in_the_headers_is_resumed(server: Server, target: Path) -> None:
    fetch(target, server.url("/a", Answer(cut_at=70_000, declares=None), Answer()))
    assert target.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=70000-"]


def test_a_reset_connection_is_resumed(server: Server, target: Path) -> None:
    fetch(target, server.url("/a", Answer(cut_at=150_000, reset=True), Answer()))
    assert target.read_bytes() == CONTENT


def test_a_silent_server_is_resumed_after_the_timeout(server: Server, target: Path) -> None:
    fetch(target, server.url("/a", Answer(cut_at=1000, stall_s=1.0), Answer()), timeout_s=0.1)
    assert target.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=1000-"]


def test_a_server_that_never_gets_further_is_given_up(server: Server, target: Path) -> None:
    line = refusal(target, server.url("/a", Answer(cut_at=1000)))
    assert "line cut after 1000" in line
    assert "1000 of 300000 bytes are kept" in line
    assert server.ranges() == [None, *["bytes=1000-"] * 3]


def test_the_next_address_goes_on_where_the_first_one_stopped(server: Server, target: Path) -> None:
    fetch(target, server.url("/a", Answer(cut_at=1000)), server.url("/b", Answer()))
    assert target.read_bytes() == CONTENT
    assert server.requests[-1] == ("/b", "bytes=1000-")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_another_process_goes_on_where_one_was_ended(
    server: Server, target: Path, partial: Path, end: signal.Signals
) -> None:
    url = server.url("/a", Answer(cut_at=120_000, stall_s=20.0), Answer())
    code = (
        "import sys; from pathlib import Path; from pipeline.data.download import RemoteFile, download;"
        "url, target, partial_dir, size, md5 = sys.argv[1:];"
        "remote = RemoteFile('file.bin', (url,), int(size), md5);"
        "download(remote, Path(target), Path(partial_dir))"
    )
    arguments = [url, str(target), str(partial.parent), str(SIZE), MD5]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 20
    while not (partial.exists() and partial.stat().st_size == 120_000):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    process.send_signal(end)
    assert process.wait(timeout=20) != 0
    assert not target.exists()
    fetch(target, url)
    assert target.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=120000-"]


def test_a_whole_partial_needs_no_server(target: Path, partial: Path) -> None:
    partial.parent.mkdir()
    partial.write_bytes(CONTENT)
    fetch(target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "stale", [CONTENT + b"x", b"x" * SIZE, b"x" * 1000], ids=["too long", "wrong", "wrong part"]
)
def test_a_partial_of_something_else_is_replaced(server: Server, target: Path, partial: Path, stale: bytes) -> None:
    partial.parent.mkdir()
    partial.write_bytes(stale)
    fetch(target, server.url("/a", Answer()))
    assert target.read_bytes() == CONTENT


def test_a_server_that_ignores_the_range_starts_over(server: Server, target: Path) -> None:
    fetch(target, server.url("/a", Answer(cut_at=200_000), Answer(ignores_range=True)))
    assert target.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=200000-"]


def test_a_range_that_starts_elsewhere_is_not_appended(server: Server, target: Path) -> None:
    fetch(target, server.url("/a", Answer(cut_at=1000), Answer(range_shift=-1), Answer()))
    assert target.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=1000-", None]


def test_a_refused_range_starts_over(server: Server, target: Path) -> None:
    fetch(target, server.url("/a", Answer(cut_at=1000), Answer(status=416), Answer()))
    assert target.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=1000-", None]


@pytest.mark.parametrize("status", [403, 404, 410])
def test_an_address_without_the_file_is_left_at_once(server: Server, target: Path, status: int) -> None:
    fetch(target, server.url("/a", Answer(status=status)), server.url("/b", Answer()))
    assert target.read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/a", "/b"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again_with_growing_pauses(server: Server, target: Path, status: int) -> None:
    busy = Answer(status=status)
    remote = RemoteFile("file.bin", (server.url("/a", busy, busy, busy, Answer()),), SIZE, MD5)
    download(remote, target, target.parent.parent / "partial", tries=4, backoff_s=0.03)
    assert target.read_bytes() == CONTENT
    pauses_s = np.diff(server.times_s)
    assert (pauses_s >= [0.03, 0.06, 0.12]).all()


def test_the_pause_that_a_server_asks_for_is_kept(server: Server, target: Path) -> None:
    fetch(target, server.url("/a", Answer(status=503, headers={"Retry-After": "1"}), Answer()))
    assert target.read_bytes() == CONTENT
    assert server.times_s[1] - server.times_s[0] >= 1.0


def test_a_pause_of_hours_is_cut_short(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.download.LONGEST_WAIT_S", 0.05)
    fetch(target, server.url("/a", Answer(status=429, headers={"Retry-After": "86400"}), Answer()))
    assert target.read_bytes() == CONTENT
    assert 0.05 <= server.times_s[1] - server.times_s[0] < 5.0


def test_a_retry_after_that_is_no_number_of_seconds_is_ignored(server: Server, target: Path) -> None:
    header = {"Retry-After": "Wed, 21 Oct 2065 07:28:00 GMT"}
    fetch(target, server.url("/a", Answer(status=503, headers=header), Answer()))
    assert target.read_bytes() == CONTENT


def test_a_server_that_stays_busy_is_given_up(server: Server, target: Path) -> None:
    line = refusal(target, server.url("/a", Answer(status=503)))
    assert "HTTP 503 (tried 3 times)" in line
    assert len(server.requests) == 3


@pytest.mark.parametrize("lie", [-1000, 1000])
def test_a_server_that_declares_another_length_is_left_before_it_sends(
    server: Server, target: Path, partial: Path, lie: int
) -> None:
    line = refusal(target, server.url("/a", Answer(declares=lie)))
    assert f"offers {SIZE + lie} bytes instead of {SIZE}" in line
    assert partial.stat().st_size == 0
    fetch(target, server.url("/a", Answer(declares=lie)), server.url("/b", Answer()))
    assert target.read_bytes() == CONTENT


def test_a_range_of_a_file_of_another_length_is_not_appended(server: Server, target: Path) -> None:
    other = Answer(body=CONTENT[:-1])
    fetch(target, server.url("/a", Answer(cut_at=1000), other), server.url("/b", Answer()))
    assert target.read_bytes() == CONTENT
    assert server.requests[-1] == ("/b", "bytes=1000-")


def test_a_body_that_goes_on_beyond_the_size_is_refused(server: Server, target: Path) -> None:
    endless = Answer(body=CONTENT + b"more", declares=None, cut_at=SIZE + 4)
    assert f"sends more than {SIZE} bytes" in refusal(target, server.url("/a", endless))


def test_an_html_page_instead_of_the_file_is_refused(server: Server, target: Path, partial: Path) -> None:
    page = Answer(headers={"Content-Type": "text/html; charset=utf-8"}, body=b"<html>moved</html>")
    assert "18 bytes instead of 300000" in refusal(target, server.url("/a", page))
    assert "HTML page" in refusal(target, server.url("/b", replace(page, declares=None)))
    assert partial.stat().st_size == 0


def corrupted(offset: int) -> bytes:
    return CONTENT[:offset] + bytes([CONTENT[offset] ^ 1]) + CONTENT[offset + 1 :]


def test_a_spoilt_byte_is_noticed_and_the_file_fetched_again(server: Server, target: Path) -> None:
    fetch(target, server.url("/a", Answer(body=corrupted(123_456)), Answer()))
    assert target.read_bytes() == CONTENT
    assert server.ranges() == [None, None]


def test_a_byte_spoilt_before_a_cut_is_noticed(server: Server, target: Path) -> None:
    fetch(target, server.url("/a", Answer(body=corrupted(10), cut_at=1000), Answer()))
    assert target.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=1000-", None]


def test_an_address_with_a_spoilt_file_is_left_after_the_second_time(
    server: Server, target: Path, partial: Path
) -> None:
    wrong = Answer(body=corrupted(0))
    line = refusal(target, server.url("/a", wrong))
    assert f"md5 is {hashlib.md5(wrong.body).hexdigest()} instead of {MD5}" in line
    assert len(server.requests) == 2
    assert partial.stat().st_size == 0
    fetch(target, server.url("/a", wrong), server.url("/b", Answer()))
    assert target.read_bytes() == CONTENT


def test_a_host_that_is_not_there_is_passed_over(server: Server, target: Path) -> None:
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}/file.bin"
        assert "Connection refused (tried 3 times)" in refusal(target, nowhere)
        fetch(target, nowhere, server.url("/a", Answer()))
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["", "no address", "ftp://127.0.0.1/file", "http://", "/a/path"])
def test_a_malformed_address_is_passed_over_at_once(server: Server, target: Path, url: str) -> None:
    assert "is no address to fetch from" in refusal(target, url)
    fetch(target, url, server.url("/a", Answer()))
    assert target.read_bytes() == CONTENT


def test_the_error_says_what_each_address_answered_and_what_to_do(server: Server, target: Path) -> None:
    urls = server.url("/a", Answer(status=404)), server.url("/b", Answer(status=503))
    line = refusal(target, *urls)
    assert re.search(r"file\.bin .*/a: HTTP 404; .*/b: HTTP 503 .*fetch\.source=file", line)


def test_an_empty_list_of_addresses_is_an_error(target: Path) -> None:
    assert "no address is given" in refusal(target)


def test_a_failure_leaves_an_older_file_in_place(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"old")
    with pytest.raises(PipelineError):
        fetch(target, server.url("/a", Answer(status=404)))
    assert target.read_bytes() == b"old"


def test_a_disk_too_small_is_noticed_before_anything_is_fetched(server: Server, target: Path) -> None:
    with pytest.raises(PipelineError, match=r"file\.bin needs 1000000000\.00 GB in .* GB are free; free some"):
        fetch(target, server.url("/a", Answer()), size=10**18)
    assert server.requests == []


def test_a_target_on_another_file_system_is_reached(server: Server, target: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == target.parent.parent.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    partial_dir = memory / f"test-download-{os.getpid()}"
    try:
        download(RemoteFile("file.bin", (server.url("/a", Answer()),), SIZE, MD5), target, partial_dir)
        assert target.read_bytes() == CONTENT
    finally:
        for left in partial_dir.iterdir():
            left.unlink()
        partial_dir.rmdir()


def test_two_processes_do_not_write_one_partial(server: Server, target: Path, partial: Path) -> None:
    partial.parent.mkdir()
    with partial.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(PipelineError, match="by another process"):
            fetch(target, server.url("/a", Answer()))
    fetch(target, server.url("/a", Answer()))
    assert target.read_bytes() == CONTENT


def test_the_progress_bar_starts_at_what_has_arrived(
    server: Server, target: Path, partial: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial.parent.mkdir()
    partial.write_bytes(CONTENT[: SIZE // 2])
    fetch(target, server.url("/a", Answer()))
    bar = capsys.readouterr().err
    shown = [int(percent) for percent in re.findall(r"file\.bin: +(\d+)%", bar)]
    assert shown[0] == 50
    assert shown[-1] == 100
    assert "300k/300k" in bar
