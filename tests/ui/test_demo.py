"""`depth demo` as a person meets it, with Chromium: a photo in, a depth picture and a cloud that turns."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from pipeline.cli import main
from tests.small_network import save_small_network
from tests.ui.test_ui import CHROMIUM, WAIT_MS, free_port

INSTALL = "the package gradio is not installed (requirements-demo.lock)"
NO_WAY_OUT = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
"""A proxy that is not there: whoever asks the internet through it fails."""
SOFTWARE_GL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
"""Chromium draws the cloud without a graphics card."""


class Demo:
    """`depth demo`, started as from a terminal."""

    def __init__(self, temporary: Path, model: Path) -> None:
        self.port = free_port()
        self.temporary = temporary
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "demo", "--port", str(self.port), "--model", str(model)],
            env=os.environ | NO_WAY_OUT | {"TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if found := re.search(r"is at (\S+) until Ctrl-C", line):
                self.address = found[1]
                return
        pytest.fail("".join(said))

    def close(self) -> None:
        """End it also where a test failed half-way."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    pytest.importorskip("gradio", reason=INSTALL)
    model = tmp_path_factory.mktemp("model") / "best.safetensors"
    save_small_network(model)
    with contextlib.closing(Demo(tmp_path_factory.mktemp("temporary"), model)) as demo:
        yield demo


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (Debian's package: chromium)")
def test_a_browser_uploads_a_photo_sees_its_depth_and_turns_the_cloud(demo: Demo, tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    api.expect.set_options(timeout=WAIT_MS)
    photo = np.zeros((120, 160, 3), np.uint8)
    photo[..., 0], photo[..., 1] = np.linspace(0, 255, 160), np.linspace(0, 255, 120)[:, None]
    Image.fromarray(photo).save(tmp_path / "photo.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "photo.png").read_bytes()[:200])
    (tmp_path / "hello.png").write_bytes(b"hello")
    elsewhere: list[str] = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, chromium_sandbox=os.getuid() != 0, args=SOFTWARE_GL
        )
        page = browser.new_page(viewport={"width": 900, "height": 1150})
        page.set_default_timeout(WAIT_MS)
        page.on("request", lambda sent: None if _is_local(sent.url) else elsewhere.append(sent.url))
        page.goto(demo.address)
        page.locator("input[type=file]").first.set_input_files(tmp_path / "photo.png")

        api.expect(page.get_by_text("160 × 120 pixels in")).to_be_visible()
        depth = page.locator("#depth img")
        api.expect(depth).to_be_visible()
        assert depth.evaluate("shown => shown.decode().then(() => shown.naturalWidth)") > 160
        api.expect(page.get_by_role("button", name="16-bit PNG")).to_be_enabled()

        canvas = page.locator("#cloud canvas")
        box = canvas.bounding_box()
        before = drawn(page, box, tmp_path / "cloud.png")
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2 + 200, box["y"] + box["height"] / 2 + 30, steps=6)
        page.mouse.up()
        after = drawn(page, box, tmp_path / "turned.png", other_than=before)
        page.screenshot(path=tmp_path / "demo.png")
        assert (before != after).any(axis=2).mean() > 0.02

        with page.expect_download() as download:
            page.get_by_role("button", name="16-bit PNG").click()
        with Image.open(download.value.path()) as found:
            assert (found.mode, found.size) == ("I;16", (160, 120))

        page.locator("input[type=file]").first.set_input_files(tmp_path / "broken.png")
        api.expect(page.get_by_text("broken.png cannot be read as an image")).to_be_visible()
        page.locator("input[type=file]").first.set_input_files(tmp_path / "hello.png")
        api.expect(page.get_by_text("hello.png cannot be read as an image: its format is none")).to_be_visible()
        assert str(demo.temporary) not in page.locator("body").inner_text()
        browser.close()
    assert elsewhere == []


def drawn(page: Any, box: Any, path: Path, other_than: np.ndarray | None = None) -> np.ndarray:
    """The part of the page as soon as it shows many colours (and another picture than before)."""
    end = time.monotonic() + WAIT_MS / 1000
    while time.monotonic() < end:
        page.screenshot(path=path, clip=box)  # of the element alone it takes 17 s where a page takes 2
        pixels = np.array(Image.open(path).convert("RGB"))
        is_drawn = len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200
        if is_drawn and (other_than is None or (pixels != other_than).any()):
            return pixels
        time.sleep(0.3)
    pytest.fail("the cloud was not drawn")


def test_it_listens_on_loopback_only_and_speaks_to_nobody(demo: Demo) -> None:
    connections = psutil.Process(demo.process.pid).net_connections(kind="inet")
    listening = [one for one in connections if one.status == psutil.CONN_LISTEN]
    assert [(one.laddr.ip, one.laddr.port) for one in listening] == [("127.0.0.1", demo.port)]
    assert all(one.raddr.ip == "127.0.0.1" for one in connections if one.raddr)


def test_ctrl_c_ends_it_and_leaves_nothing_behind(demo: Demo) -> None:
    assert list(demo.temporary.glob("depth-demo-*"))
    os.killpg(demo.process.pid, signal.SIGINT)
    assert demo.process.wait(30) == 0
    assert demo.process.stdout is not None
    assert demo.process.stdout.read() == ""
    assert list(demo.temporary.iterdir()) == []


def test_a_taken_port_is_one_line_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SystemExit):
            main(["demo", "--port", str(port)])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"port {port} cannot be used" in line


def test_without_the_extra_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["demo", "--port", str(free_port())])
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install --no-deps -r requirements-demo.lock" in line


def _is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))
