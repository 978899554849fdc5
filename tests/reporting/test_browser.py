"""The report as a person meets it: in Chromium without a network, on a desk and in a hand, by day and by night."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.reporting.html import render_report
from tests.reporting.toy import RICH, history, predictions

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT_MS = 30_000
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
CASES = [(size, theme) for size in SIZES for theme in ("light", "dark")]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (Debian's package: chromium)")

OVERFLOWING = """() => [...document.querySelectorAll('body *')]
    .filter((one) => !one.closest('.scroll, pre, svg, .spoken'))
    .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
    .map((one) => `${one.tagName}.${one.className}`)"""
MISSING_PICTURES = """() => Promise.all([...document.images].map(async (one) => {
    try { await one.decode(); } catch { return one.alt; }
    return one.naturalWidth > 1 ? '' : one.alt;
})).then((found) => found.filter(Boolean))"""
FAINT = """() => {
    // Contrast of every text with what is behind it, by WCAG 2.1.
    const channels = (colour) => {
        const canvas = Object.assign(document.createElement('canvas'), { width: 1, height: 1 });
        const context = canvas.getContext('2d');
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        return context.getImageData(0, 0, 1, 1).data;
    };
    const luminance = (colour) => [...channels(colour).slice(0, 3)].map((one) => one / 255)
        .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
        .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
    const ground = (element) => {
        for (let one = element; one; one = one.parentElement) {
            const colour = getComputedStyle(one).backgroundColor;
            if (channels(colour)[3] > 0) return colour;
        }
        return 'white';
    };
    const faint = new Set();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || element.closest('script, style, .stage, .spoken')) continue;
        if (!element.getClientRects().length) continue;
        const style = getComputedStyle(element);
        const [one, other] = [element.closest('svg') ? style.fill : style.color, ground(element)].map(luminance);
        const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        if (contrast < 4.5) faint.add(`${contrast.toFixed(2)} ${element.outerHTML.slice(0, 80)}`);
    }
    return [...faint];
}"""
SHOWN = "canvas => { const url = canvas.toDataURL(); return url.length + url.slice(-2000) + canvas.width; }"


@dataclass
class Opened:
    page: Any
    troubles: list[str]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With everything in it; its frames are ramps of colour and depth."""
    given = predictions(("best", "median", "worst", "fixed"), (120, 160))
    rows, columns = np.mgrid[:120, :160]
    given.rgb_u8[:, 0], given.rgb_u8[:, 1] = 2 * rows, columns
    given.depth_mm[:, 0] = 1500 + 20 * rows
    given.prediction_mm[:, 0] = 1500 + 15 * columns
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report(replace(RICH, predictions=given, history=history(30))), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    with api.sync_playwright() as playwright:
        # Chromium's sandbox does not start for root, which is who CI is.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=os.getuid() != 0)
        yield browser
        browser.close()


def opened(chromium: Any, path: Path, size: str = "desktop", **options: Any) -> Opened:
    width, height = SIZES[size]
    context = chromium.new_context(viewport={"width": width, "height": height}, offline=True, **options)
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("requestfailed", lambda request: troubles.append(request.url))
    page.goto(path.as_uri())
    return Opened(page, troubles)


def assert_whole(page: Any) -> None:
    """Nothing reaches out of the window, every picture is there, and every text can be read."""
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(OVERFLOWING) == []
    assert page.evaluate(MISSING_PICTURES) == []
    assert page.evaluate(FAINT) == []


@pytest.mark.parametrize(("size", "theme"), CASES)
def test_the_page_is_whole_at_every_size_and_by_day_and_night(
    chromium: Any, report: Path, tmp_path: Path, size: str, theme: str
) -> None:
    seen = opened(chromium, report, size, color_scheme=theme)
    page = seen.page
    assert_whole(page)
    page.screenshot(path=tmp_path / f"{size}-{theme}.png")
    widths = page.evaluate(
        "() => [...document.querySelectorAll('.regions td:not(:empty)')].map((one) => one.clientWidth)"
    )
    assert len(widths) == 12 and min(widths) > 40, "the parts of the image are seen, their heads only heard"
    if size == "desktop":
        # Verdict, table, pictures and what changed are seen without scrolling.
        for part in ("h1", ".short", ".glance", ".since"):
            box = page.locator(part).bounding_box()
            assert box["y"] + box["height"] <= SIZES[size][1], part
    assert seen.troubles == []
    page.context.close()


def test_a_reader_slides_turns_and_reads_off(chromium: Any, report: Path, tmp_path: Path) -> None:
    seen = opened(chromium, report)
    page = seen.page

    stage, slider = page.locator(".stage").first, page.locator(".stage input").first
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 40)
    page.mouse.up()
    by_mouse = int(slider.input_value())
    assert 20 <= by_mouse <= 30
    slider.press("ArrowRight")
    assert int(slider.input_value()) == by_mouse + 1
    edge = page.locator(".stage .edge").first.bounding_box()
    assert edge["x"] - box["x"] == pytest.approx(box["width"] * (by_mouse + 1) / 100, abs=3)
    page.screenshot(path=tmp_path / "slider.png")

    canvas = page.locator(".cloud canvas")
    canvas.scroll_into_view_if_needed()
    views = [canvas.evaluate(SHOWN)]
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 380, box["y"] + 230, steps=3)
    page.mouse.up()
    for act in (
        lambda: canvas.press("ArrowLeft"),
        lambda: canvas.press("+"),
        lambda: page.get_by_role("button", name="Truth").click(),
        lambda: page.get_by_role("button", name="Worst").click(),
        lambda: page.get_by_role("button", name="Turn up").click(),
    ):
        page.evaluate("() => new Promise(requestAnimationFrame)")
        views.append(canvas.evaluate(SHOWN))
        act()
    page.evaluate("() => new Promise(requestAnimationFrame)")
    views.append(canvas.evaluate(SHOWN))
    assert len(set(views)) == len(views)
    assert page.locator(".cloud .title").inner_text().startswith("Worst: frame 0002")
    page.screenshot(path=tmp_path / "cloud.png")

    plot = page.locator("#training .plot").nth(1)
    plot.scroll_into_view_if_needed()
    plot.hover()
    readout = plot.locator(".readout")
    assert readout.is_visible()
    epoch = int(readout.locator("b").first.inner_text().removeprefix("Epoch "))
    assert 10 < epoch < 20
    assert (
        readout.locator("div").first.inner_text()
        == f"MSE, training {float(f'{1 / epoch:.4g}'):g}\N{NO-BREAK SPACE}m²"
    )
    plot.press("ArrowRight")
    assert readout.locator("b").first.inner_text() == f"Epoch {epoch + 1}"
    page.screenshot(path=tmp_path / "curves.png")

    name = page.locator("#training .chart").nth(1).get_by_role("button", name="validation")
    name.click()
    assert name.get_attribute("aria-pressed") == "false"
    assert [group.is_visible() for group in plot.locator("[id$='-1']").all()] == [False, False]
    plot.hover()
    assert "validation" not in readout.inner_text()
    assert seen.troubles == []
    page.context.close()


def test_on_a_phone_a_finger_moves_the_slider_and_turns_the_points(chromium: Any, report: Path) -> None:
    seen = opened(chromium, report, "phone", has_touch=True, is_mobile=True)
    page = seen.page
    stage, slider = page.locator(".stage").first, page.locator(".stage input").first
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 0.25, box["y"] + 40)
    assert 20 <= int(slider.input_value()) <= 30
    canvas = page.locator(".cloud canvas")
    canvas.scroll_into_view_if_needed()
    page.evaluate("() => new Promise(requestAnimationFrame)")
    views = [canvas.evaluate(SHOWN)]
    box = canvas.bounding_box()
    finger = page.context.new_cdp_session(page)
    for kind, x in (("touchStart", 100), ("touchMove", 130), ("touchMove", 200), ("touchEnd", None)):
        points = [] if x is None else [{"x": box["x"] + x, "y": box["y"] + 60}]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    page.evaluate("() => new Promise(requestAnimationFrame)")
    views.append(canvas.evaluate(SHOWN))
    page.get_by_role("button", name="Turn left").click()
    page.evaluate("() => new Promise(requestAnimationFrame)")
    views.append(canvas.evaluate(SHOWN))
    assert len(set(views)) == len(views)
    assert seen.troubles == []
    page.context.close()


def test_everything_can_be_reached_and_done_with_the_keyboard_alone(chromium: Any, report: Path) -> None:
    seen = opened(chromium, report)
    reachable = seen.page.evaluate(
        """() => [...document.querySelectorAll('a, button, input, .plot[role=application], .scroll, canvas, pre')]
            .filter((one) => one.tabIndex < 0 || !(one.getAttribute('aria-label') || one.textContent.trim()))
            .map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert reachable == []
    seen.page.context.close()


def test_without_scripts_every_picture_curve_and_table_is_still_there(chromium: Any, report: Path) -> None:
    seen = opened(chromium, report, java_script_enabled=False)
    page = seen.page
    assert page.locator(".frame .truth img").first.is_visible()
    assert page.locator(".frame .prediction img").first.is_visible()
    assert page.locator("#training .plot svg").first.is_visible()
    assert page.get_by_text("The points need JavaScript").is_visible()
    assert not page.get_by_role("button").all()
    page.context.close()


def test_in_print_truth_and_prediction_stand_side_by_side_on_white_also_for_night_owls(
    chromium: Any, report: Path
) -> None:
    seen = opened(chromium, report, color_scheme="dark")
    page = seen.page
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 690, "height": 980})
    assert page.locator(".frame .truth img").first.is_visible()
    assert not page.locator(".stage input").first.is_visible()
    assert page.evaluate("() => getComputedStyle(document.body).color") == "rgb(22, 25, 29)"
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.context.close()


def test_a_script_that_data_smuggle_in_does_not_run(chromium: Any, tmp_path: Path) -> None:
    """The page's policy holds even where a template forgot to escape."""
    text = render_report(RICH)
    smuggled = "<script>document.title = 'caught'</script><img src='x' onerror=\"document.title = 'caught'\">"
    path = tmp_path / "smuggled.html"
    path.write_text(text.replace("<main", f"{smuggled}<main", 1), encoding="utf-8")
    seen = opened(chromium, path)
    assert "caught" not in seen.page.title()
    assert any("Content Security Policy" in trouble for trouble in seen.troubles)
    seen.page.context.close()
