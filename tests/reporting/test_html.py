"""The report as a page: complete, from one file, honest, and drawn from whatever there is."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation.published import PUBLISHED
from pipeline.reporting import html, tables
from tests.reporting.toy import (
    INPUTS,
    MEASURES,
    PROTOCOLS,
    RICH,
    Page,
    history,
    metrics,
    only_own_scripts,
    predictions,
    run_row,
    scores,
)


@pytest.fixture(scope="module")
def page() -> Page:
    """Of results that an older evaluation wrote: what it did not tell is left out."""
    return Page(html.render_report(INPUTS))


@pytest.fixture(scope="module")
def rich_page() -> Page:
    return Page(html.render_report(RICH))


@pytest.fixture(params=["page", "rich_page"])
def each_page(request: pytest.FixtureRequest) -> Page:
    found: Page = request.getfixturevalue(request.param)
    return found


def test_every_opened_element_is_closed(each_page: Page) -> None:
    assert each_page.open_tags == []


def test_identifiers_are_unique_and_links_lead_to_one(each_page: Page) -> None:
    identifiers = [attributes["id"] for _, attributes in each_page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    links = [attributes["href"][1:] for tag, attributes in each_page.elements if tag == "a"]
    assert len(links) > 5
    assert set(links) <= set(identifiers)


def test_nothing_is_loaded_from_outside_the_file(each_page: Page) -> None:
    for tag, attributes in each_page.elements:
        assert tag not in ("link", "iframe", "object", "base", "form")
        assert tag != "script" or "src" not in attributes
        for name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,", "data:image/webp;base64,"))
        for name in ("style", "clip-path", "fill"):
            assert re.fullmatch(r"(?:(?!url\().|url\(#)*", attributes.get(name, ""), re.S)
    styles = " ".join(re.findall(r"<style>(.*?)</style>", each_page.text, re.S))
    assert styles
    assert "url(" not in styles
    assert "@import" not in styles
    outside = re.sub(r"base64,[\w+/=]+|<td>http[^<]*</td>", "", each_page.text)
    assert set(re.findall(r"https?://[^\"'\s<]+", outside)) <= {"http://www.w3.org/2000/svg"}


def test_every_picture_is_embedded_with_a_text_and_its_true_aspect_ratio(rich_page: Page) -> None:
    thumbnails, tiles, augmented, study = 3 * 4, 3 * 4, 4, 1
    assert len(rich_page.images) == thumbnails + tiles + augmented + study
    for attributes in rich_page.images:
        kind, _, content = attributes["src"].removeprefix("data:image/").partition(";base64,")
        image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
        image.load()
        assert image.format == kind.upper()
        assert len(attributes["alt"]) > 10
        ratio = int(attributes["width"]) / int(attributes["height"])
        assert ratio == pytest.approx(image.width / image.height, rel=0.01)


def test_every_chart_of_curves_has_a_text_and_the_numbers_behind_it(rich_page: Page) -> None:
    plots = [attributes for _, attributes in rich_page.elements if attributes.get("class") == "plot"]
    assert len(plots) == 8
    for attributes in plots:
        assert len(attributes["aria-label"]) > 20
        assert set(json.loads(attributes["data-curves"])) == {"x", "panels"}


def test_the_first_screen_has_verdict_certainty_failures_table_pictures_and_what_changed(rich_page: Page) -> None:
    header = words(re.search(r"<header.*?</header>", rich_page.text, re.S))
    assert "RMSE 0.56 m on 84 unseen test frames" in header
    assert "95 % confidence: RMSE 0.520–0.610 m" in header
    assert "Errs most: 1–2 m away (RMSE 0.40 m); scene type home office (0.70 m)" in header
    assert re.search(r"This model full, per image 0\.560 0\.520–0\.610", header)
    assert re.search(r"Mean-depth map, same frames full, per image 0\.903", header)
    assert re.search(r"Constant depth, same frames full, per image 1\.100", header)
    where = "NYU, 654 frames"
    assert f"SavtaDepth, ResNet-34 U-Net full, per image {where} 0.652" in header
    assert f"DenseDepth 1 densedepth, pooled {where}, flips averaged 0.548" in header
    assert "1 Its evaluator swaps prediction and truth, so this AbsRel divides by the prediction." in header
    assert "Published rows: photographs of NYU Depth v2, not these frames." in header
    assert "12.3 ms a frame on cpu" in header
    assert "Since the last experiment, plain-pike loss.ssim_weight 0.25 → 0.5" in header
    # 0.56 - 0.75, on every frame
    assert "Test RMSE 0.560 m, −0.190 better" in header
    unsure = html.render_report(replace(RICH, previous_per_image=None))
    assert re.search(r"Test RMSE <b>0.560</b>&nbsp;m, −0.190</span>", unsure)
    elsewhere = html.render_report(replace(RICH, previous_run=run_row("far", 0.9, fetch__source="folder")))
    assert "before 0.900" in elsewhere and "Not compared: other data" in elsewhere
    shown = [attributes["alt"] for attributes in rich_page.images[:12]]
    assert [alt.partition(":")[0] for alt in shown] == ["Best"] * 4 + ["Median"] * 4 + ["Worst"] * 4


def test_sections_of_errors_data_and_model_tell_what_was_measured(rich_page: Page) -> None:
    text = words(re.search(r"<main.*</main>", rich_page.text, re.S))
    assert rich_page.cells("full", "0.713", "0.812", "0.560", "0.400", "0.95± 0.12")
    assert rich_page.cells("over 0.25 a step of 0.06 m", "0.375", "0.125", "0.188")
    assert rich_page.cells("Training", "60", "21", "60", "12.5 %")
    assert rich_page.cells("row 3 of 3 from the top", "0.80", "0.90", "1.00", "1.10")
    assert rich_page.cells("", *(f"column {number} of 4 from the left" for number in (1, 2, 3, 4)))
    assert "1 fixed copy of each training frame beside the clean one: mirrored with probability 0.5" in text
    assert "nobody else's terms apply" in text
    assert rich_page.cells("Throughput", "322 frames/s, 8 at once") or rich_page.cells(
        "Throughput", "321 frames/s, 8 at once"
    )
    assert rich_page.cells("fetch: data/raw", "ab12.dir")
    assert "dvc exp run \\\n    -S seed=42" in rich_page.text


def test_what_was_not_measured_has_no_section_and_no_link(page: Page) -> None:
    header = words(re.search(r"<header.*?</header>", page.text, re.S))
    assert "confidence" not in header
    assert "Since" not in header
    for absent in ("Scale and shape", "Edges of depth", "By region", "Size of the error", 'id="data"', "#data"):
        assert absent not in page.text.partition("</style>")[2]


def words(found: re.Match[str] | None) -> str:
    """The text of a part of the page, without markup."""
    assert found is not None
    return (
        " ".join(unescape(re.sub(r"<script.*?</script>|<svg.*?</svg>|<[^>]*>", " ", found[0], flags=re.S)).split())
        .replace(" ,", ",")
        .replace(" ;", ";")
    )


def test_scores_on_frames_that_were_trained_on_are_not_called_unseen() -> None:
    seen = metrics(trained_on="all frames (split: all)")
    text = html.render_report(replace(INPUTS, metrics=seen))
    assert "The test frames were trained on." in text
    assert "84 test frames that were also trained on" in text


def test_model_and_baseline_stand_in_the_table_under_every_protocol_with_their_own_numbers(
    page: Page,
) -> None:
    for name, given in (
        ("This model", metrics()),
        ("Mean-depth map, same frames", metrics()["baseline_mean_map"]),
    ):
        shown = {tuple(row[7:9]): row[1:4] for row in page.cells(name) if len(row) == 10}
        assert {protocol for protocol, _ in shown} == set(PROTOCOLS)
        for (protocol, averaged), numbers in shown.items():
            suffix = "_pooled" if averaged == "pooled" else ""
            expected = [given[protocol][f"{measure}{suffix}"] for measure in ("rmse", "abs_rel", "delta1")]
            assert numbers == [f"{number:.3f}" for number in expected]
    whole = next(row for row in page.cells("This model") if len(row) == 10)
    assert whole[4:7] == ["0.499 M", "no", "official train split"]


def test_published_figures_stand_in_the_table_with_their_protocol(page: Page) -> None:
    for row in PUBLISHED:
        numbers = ["–" if n is None else f"{n:.3f}" for n in (row.rmse, row.abs_rel, row.delta1)]
        origin = [text or "–" for text in (row.parameters, row.pretrained, row.trained_on)]
        (shown,) = [
            cells
            for cells in page.cells()
            if cells
            and cells[0] in (row.model, f"{row.model}1", f"{row.model}2")
            and cells[1:]
            and cells[8:9] == [row.averaged or "–"]
        ]
        assert shown[1:8] == [*numbers, *origin, row.protocol or "–"]
        assert shown[9].startswith(row.data)
        assert (", flips averaged" in shown[9]) == (row.flips_averaged is True)
        assert (shown[0] != row.model) == (row.note is not None)


@pytest.mark.parametrize(("source", "orientation"), [("rooms", True), ("nyu_raw", True), ("file", False)])
def test_published_figures_are_for_orientation_only_unless_the_frames_are_nyus(
    source: str, orientation: bool
) -> None:
    text = html.render_report(replace(INPUTS, metrics=metrics(source=source)))
    assert ("for orientation only" in text) == orientation
    header = words(re.search(r"<header.*?</header>", text, re.S))
    assert ("not these frames" in header) == orientation


def test_all_measures_are_listed_under_all_protocols(page: Page) -> None:
    rows = {row[0]: row[1:] for row in page.cells() if len(row) == 7}
    assert len(rows) == len(MEASURES)
    for measure, label in tables.MEASURES:
        given = [metrics()[protocol][f"{measure}{suffix}"] for protocol in PROTOCOLS for suffix in ("", "_pooled")]
        assert rows[label] == [f"{number:.3f}" for number in given]


def test_what_is_needed_to_repeat_the_run_is_shown(page: Page) -> None:
    assert page.cells("seed", "42")
    assert page.cells("ssim_weight", "0.5")
    assert page.cells("ema", "true")
    assert page.cells("torch", "2.13.0+cpu")
    assert page.cells("data fingerprint", "9f86d081884c7d65")
    assert page.cells("MLflow run", "b1946ac92492d234")
    assert "git checkout 3f2a9c81d7e4\nmake repro" in page.text
    assert "not committed" not in page.text
    for dirty in ("true", "false"):
        text = html.render_report(replace(INPUTS, environment={**INPUTS.environment, "git_dirty": dirty}))
        notice, command = text.find("Code was changed and not committed."), text.find("git checkout 3f2a9c81d7e4")
        assert (0 < notice < command) == (dirty == "true")


def test_names_from_parameters_and_scenes_cannot_become_markup() -> None:
    evil = '<script>alert("1")</script><b>'
    frames = [{"frame": evil, "scene": evil, "rank": "best", "rmse": 0.2}]
    text = html.render_report(
        replace(
            INPUTS,
            metrics=metrics(source=evil, trained_on=evil),
            per_image=INPUTS.per_image.assign(scene_type=evil),
            predictions=replace(predictions(("best",)), frames=frames),
            params={evil: {evil: evil}},
            environment={evil: [evil]},
            run_id=evil,
        )
    )
    assert only_own_scripts(text)
    assert "&lt;script&gt;" in text


def test_missing_and_non_finite_numbers_are_an_en_dash() -> None:
    empty = dict.fromkeys(scores(0))
    text = html.render_report(
        replace(
            INPUTS,
            metrics=metrics(full=empty, latency_ms=None, baseline_mean_map={}),
            params={"train": {"gradient_clip": float("nan")}},
            run_id=None,
        )
    )
    page = Page(text)
    assert page.cells("This model", "full, per image") == [["This model", "full, per image", "–", "–", "–"]]
    assert page.cells("gradient_clip", "–")
    assert page.cells("MLflow run", "–")
    visible = re.sub(
        r"base64,[\w+/=]+|<style>.*?</style>|<script.*?</script>|data-curves='[^']*'", "", text, flags=re.S
    )
    assert not re.search(r"\bnan\b|\bNone\b", visible)


def test_one_epoch_one_frame_no_validation_and_no_worst_frames_still_make_a_report() -> None:
    text = html.render_report(
        replace(
            INPUTS,
            metrics=metrics(frames=1, by_distance=[]),
            per_image=INPUTS.per_image[:1],
            history=history(1, validation=False),
            predictions=predictions(("best", "median")),
        )
    )
    page = Page(text)
    assert "on 1 unseen test frame," in text
    assert "No validation set was kept" in text
    assert "1 epoch in" in text
    assert ">Best " in text
    assert ">Worst " not in text
    assert "shares of pixels within thresholds by epoch on validation frames" not in text
    assert page.open_tags == []


def test_a_report_without_training_and_without_predictions_leaves_their_sections_out() -> None:
    text = html.render_report(replace(INPUTS, history=history(0), predictions=predictions(())))
    assert 'id="training"' not in text
    assert 'id="predictions"' not in text
    assert 'id="results"' in text


def test_nine_frames_at_full_resolution_stay_below_five_megabytes() -> None:
    """Photographs of pure noise, which does not compress, over depth with 2 cm of noise at every pixel."""
    noise = predictions(("best",) * 3 + ("median",) * 3 + ("worst",) * 3, (480, 640))
    ramp_mm = np.linspace(1000, 6000, 640) + np.random.default_rng(1).normal(0, 20, noise.depth_mm.shape)
    frames = replace(noise, depth_mm=ramp_mm.astype(np.int16), prediction_mm=(1.1 * ramp_mm).astype(np.int16))
    assert len(html.render_report(replace(RICH, predictions=frames)).encode()) < 5_000_000
