"""Takes the README's pictures of a report anew:

    python -m tests.reporting.screenshot reports/report.html docs/images

writes `report.png` (its first screen), `report-dark.png` (curves at night) and `report-phone.png` (predictions and
points on a phone), and for `reports/compare.html`, the page of `depth compare`, `compare.png` (its first screen).
It needs what the browser test needs, and Debian's fonts-liberation for the README's look.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.reporting.test_browser import CHROMIUM, SIZES

PICTURES = {
    "report": (
        ("report", "desktop", "light", "header", 740),
        ("report-dark", "desktop", "dark", "#training", 760),
        ("report-phone", "phone", "light", "#space", 760),
    ),
    "compare": (("compare", "desktop", "light", "header", 560),),
}
"""By the name of the page: that of the picture, size, theme, what is at its top, and its height."""
LEVELS = 63
"""Steps of each colour: half the bytes of 255, and no difference that a reader of the README would see."""


def take(page: Page, folder: Path, name: str) -> None:
    path = folder / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as image:
        image.convert("RGB").point([round(value * LEVELS / 255) * 255 / LEVELS for value in range(256)] * 3).save(
            path, optimize=True
        )


def to_top(page: Page, selector: str) -> None:
    page.evaluate(
        "(selector) => document.querySelector(selector).scrollIntoView({ behavior: 'instant' })", selector
    )


def main(report: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=os.getuid() != 0)
        for name, size, theme, section, height in PICTURES[report.stem]:
            width, _ = SIZES[size]
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)  # type: ignore[arg-type]
            page.goto(report.resolve().as_uri())
            to_top(page, section)
            if name == "report-dark":
                page.locator("#training .plot").nth(1).hover()
            take(page, folder, name)
            page.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
