"""Takes docs/images/mlflow-ui.png anew, of the store of the repository that it is called in:

    python -m tests.ui.screenshot docs/images/mlflow-ui.png ssim-weight

with the name of the group whose runs are shown. It needs what the browser test needs, and
Debian's fonts-liberation: with wider letters the buttons take a second row.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import FloatRect, Locator, Page, expect, sync_playwright

from pipeline.paths import repository_root
from tests.ui.test_ui import CHROMIUM, WAIT_MS, Ui, without_assistant

WIDTH, HEIGHT = 1440, 1036
CHARTS = "train/loss|test/full/(rmse|abs_rel|delta1)$"
SETTLING_MS = 3000
"""Charts are drawn anew for another size, and nothing tells when they are done."""


def take(page: Page, address: str, group: str, path: Path) -> None:
    """The charts of the group's runs, without MLflow's navigation beside them."""
    wanted = quote(f"tags.group = '{group}'")
    page.goto(f"{address.replace('?', '/runs?')}&searchFilter={wanted}&compareRunsMode=CHART")
    search = page.get_by_placeholder("Search metric charts")
    search.fill(CHARTS)
    search.blur()
    for name in ("test/full/rmse", "train/loss/total"):
        expect(page.get_by_role("heading", name=name, exact=True)).to_be_attached()
    main = page.get_by_role("main")
    beside = page.viewport_size["width"] - _box(main)["width"]  # type: ignore[index]
    # Higher than the picture, at whose foot a button of the assistant's would float.
    page.set_viewport_size({"width": round(WIDTH + beside), "height": HEIGHT + 120})
    page.wait_for_timeout(SETTLING_MS)
    corner = _box(main)
    page.screenshot(path=path, clip={"x": corner["x"], "y": corner["y"], "width": WIDTH, "height": HEIGHT})


def _box(element: Locator) -> FloatRect:
    box = element.bounding_box()
    assert box is not None
    return box


if __name__ == "__main__":
    expect.set_options(timeout=WAIT_MS)
    with contextlib.closing(Ui(repository_root())) as ui, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=os.getuid() != 0)
        page = browser.new_page(viewport={"width": 1600, "height": 1200})
        without_assistant(page)
        take(page, ui.address, sys.argv[2], Path(sys.argv[1]))
        browser.close()
