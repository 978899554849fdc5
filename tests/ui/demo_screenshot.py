"""Takes docs/images/depth-demo.png anew, with the checkpoint and the photo that are named:

    python -m tests.ui.demo_screenshot docs/images/depth-demo.png models/best.safetensors photo.jpg

It needs what the browser test of the page needs.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import expect, sync_playwright

from tests.ui.test_demo import SOFTWARE_GL, Demo, drawn
from tests.ui.test_ui import CHROMIUM

WIDTH, HEIGHT = 1280, 1180
WAIT_MS = 120_000
"""The cloud is drawn without a graphics card, pixel by pixel."""


def take(address: str, photo: Path, path: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, chromium_sandbox=os.getuid() != 0, args=SOFTWARE_GL
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(WAIT_MS)
        page.goto(address)
        page.locator("input[type=file]").first.set_input_files(photo)
        expect(page.locator("#depth img")).to_be_visible()
        drawn(page, page.locator("#cloud canvas").bounding_box(), path)
        page.screenshot(path=path)
        browser.close()


if __name__ == "__main__":
    expect.set_options(timeout=WAIT_MS)
    screenshot, model, photo = (Path(argument).resolve() for argument in sys.argv[1:])
    with TemporaryDirectory() as folder, contextlib.closing(Demo(Path(folder), model)) as demo:
        take(demo.address, photo, screenshot)
