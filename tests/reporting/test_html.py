from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.evaluation.published import PUBLISHED
from pipeline.reporting import html
from pipeline.reporting.inputs import Predictions, ReportInputs

MEASURES = ("rmse", "rmse_log", "abs_rel", "sq_rel", "log10", "silog", "delta1", "delta2", "delta3")
PROTOCOLS = ("full", "eigen", "densedepth")


def scores(start: float) -> dict[str, float | None]:
    """A different number in each place, so that a swapped one is noticed."""
    names = [*MEASURES, *(f"{name}_pooled" for name in MEASURES)]
    return {name: start + 0.0101 * place for place, name in enumerate(names)}


def metrics(**changed: Any) -> dict[str, Any]:
    return {
        "split": "test",
        "frames": 84,
        "source": "rooms",
        "trained_on": "official train split",
        "full": scores(0.56) | {"delta1": 0.713},
        "eigen": scores(0.31),
        "densedepth": scores(0.43),
        "baseline_mean_map": {"full": scores(0.903), "eigen": scores(0.92), "densedepth": scores(0.94)},
        "parameters": 499_000,
        "multiply_adds": 3.1e8,
        "latency_ms": 12.34,
        "height": 480,
        "width": 640,
        "by_distance": [
            {"from_m": 0, "to_m": 1, "pixels": 5, "rmse": 0.2, "abs_rel": 0.1, "delta1": 0.9},
            {"from_m": 1, "to_m": 2, "pixels": 9, "rmse": 0.4, "abs_rel": 0.1, "delta1": 0.8},
        ],
    } | changed


def history(epochs: int = 3, *, validation: bool = True) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    table: dict[str, Any] = {"epoch": epoch, "seconds": 10.0, "learning_rate": 1e-4, "frames_per_s": 220.0}
    for split in ("train", "val") if validation else ("train",):
        table |= {f"{split}_loss_{term}": 1.0 / epoch for term in ("total", "mse", "ssim")}
    if validation:
        table |= {"val_rmse": 1.0 / epoch} | {f"val_delta{k}": 0.9 - 0.1 / epoch for k in (1, 2, 3)}
    return pd.DataFrame(table)


def predictions(ranks: tuple[str, ...], size: tuple[int, int] = (48, 64)) -> Predictions:
    random = np.random.default_rng(0)
    depth_mm = random.integers(800, 6000, (len(ranks), 1, *size)).astype(np.int16)
    return Predictions(
        rgb_u8=random.integers(0, 256, (len(ranks), 3, *size), dtype=np.uint8),
        depth_mm=depth_mm,
        prediction_mm=(depth_mm + 150).astype(np.int16),
        frames=[
            {"frame": f"{k:04d}", "scene": f"office_{k}", "rank": rank, "rmse": 0.2 + k}
            for k, rank in enumerate(ranks)
        ],
    )


INPUTS = ReportInputs(
    title="Depth of rooms",
    metrics=metrics(),
    per_image=pd.DataFrame(
        {
            "frame": ["0000", "0001"],
            "scene": ["office_0", "cafe_1"],
            "scene_type": ["office", "cafe"],
            "full_rmse": [0.5, 0.6],
        }
    ),
    history=history(),
    predictions=predictions(("best", "median", "worst")),
    params={"seed": 42, "loss": {"ssim_weight": 0.5}, "train": {"gradient_clip": None, "ema": True}},
    environment={"git_commit": "3f2a9c81d7e4", "torch": "2.13.0+cpu"},
    data_fingerprint="9f86d081884c7d65",
    run_id="b1946ac92492d234",
)


@dataclass
class Page(HTMLParser):
    """What a reader of the page meets: elements with their attributes, and table rows as text."""

    text: str
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    open_tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: content or "" for name, content in attrs}))
        if tag not in ("meta", "img", "source", "br"):
            self.open_tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open_tags):
            self.rows[-1][-1] += data

    def cells(self, *start: str) -> list[list[str]]:
        rows = [[cell.strip().replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in self.rows]
        return [row for row in rows if row[: len(start)] == list(start)]

    @property
    def images(self) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag == "img"]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(html.render_report(INPUTS))


def test_every_opened_element_is_closed(page: Page) -> None:
    assert page.open_tags == []


def test_nothing_is_loaded_from_outside_the_file(page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "base")
        for name in ("src", "srcset", "href", "data", "action", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))
        assert "url(" not in attributes.get("style", "")
    styles = " ".join(re.findall(r"<style>(.*?)</style>", page.text, re.S))
    assert styles
    assert "url(" not in styles
    assert "@import" not in styles
    assert not re.search(r"https?://", re.sub(r"base64,[\w+/=]+", "", page.text))


def test_the_browser_is_told_to_refuse_anything_from_outside(page: Page) -> None:
    policies = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert "default-src 'none'" in policies[0]


def test_every_picture_is_an_embedded_png_with_a_text_and_its_true_aspect_ratio(page: Page) -> None:
    tiles, charts = 3 * 4, 6
    assert len(page.images) == tiles + charts
    for attributes in page.images:
        png = base64.b64decode(attributes["src"].removeprefix("data:image/png;base64,"), validate=True)
        image = Image.open(io.BytesIO(png))
        image.load()
        assert image.format == "PNG"
        assert len(attributes["alt"]) > 10
        ratio = int(attributes["width"]) / int(attributes["height"])
        assert ratio == pytest.approx(image.width / image.height, rel=0.01)


def test_charts_have_a_dark_twin_for_dark_pages(page: Page) -> None:
    sources = [attributes for tag, attributes in page.elements if tag == "source"]
    assert len(sources) == 6
    for attributes in sources:
        assert attributes["media"] == "(prefers-color-scheme: dark)"
        png = base64.b64decode(attributes["srcset"].removeprefix("data:image/png;base64,"), validate=True)
        red, green, blue = Image.open(io.BytesIO(png)).convert("RGB").getpixel((0, 0))
        assert max(red, green, blue) < 64


def test_the_headline_says_what_came_out_in_plain_words() -> None:
    # 0.56 / 0.903 = 0.620
    assert html.verdict(metrics()).replace("\N{NO-BREAK SPACE}", " ") == (
        "RMSE 0.56 m on 84 unseen test frames, 38 % below the mean-depth map; "
        "71 % of pixels within 25 % of the true depth"
    )


@pytest.mark.parametrize(
    ("rmse", "words"),
    [(1.1, "22 % above the mean-depth map"), (0.9035, "level with the mean-depth map")],
)
def test_the_headline_hides_no_defeat(rmse: float, words: str) -> None:
    verdict = html.verdict(metrics(full=scores(0.5) | {"rmse": rmse}))
    assert words in verdict.replace("\N{NO-BREAK SPACE}", " ")


def test_scores_on_frames_that_were_trained_on_are_not_called_unseen() -> None:
    seen = metrics(trained_on="all frames (split: all)")
    assert "unseen" not in html.verdict(seen)
    assert "84 test frames that were also trained on" in html.verdict(seen)
    assert "The test frames were trained on." in html.render_report(replace(INPUTS, metrics=seen))


def test_model_and_baseline_stand_in_the_table_under_every_protocol_with_their_own_numbers(
    page: Page,
) -> None:
    for name, given in (
        ("This model", metrics()),
        ("Mean-depth map, same frames", metrics()["baseline_mean_map"]),
    ):
        shown = {tuple(row[7:9]): row[1:4] for row in page.cells(name)}
        assert {protocol for protocol, _ in shown} == set(PROTOCOLS)
        for (protocol, averaged), numbers in shown.items():
            suffix = "_pooled" if averaged == "pooled" else ""
            expected = [given[protocol][f"{measure}{suffix}"] for measure in ("rmse", "abs_rel", "delta1")]
            assert numbers == [f"{number:.3f}" for number in expected]
    assert page.cells("This model")[0][4:7] == ["0.499 M", "no", "official train split"]


def test_published_figures_stand_in_the_table_with_their_protocol(page: Page) -> None:
    for row in PUBLISHED:
        numbers = ["–" if n is None else f"{n:.3f}" for n in (row.rmse, row.abs_rel, row.delta1)]
        origin = [text or "–" for text in (row.parameters, row.pretrained, row.trained_on)]
        assert page.cells(row.model, *numbers, *origin, row.protocol or "–", row.averaged or "–")


def test_rows_of_one_block_share_protocol_and_averaging() -> None:
    *groups, others = html.result_groups(metrics())
    for group in groups:
        assert {f"{row.protocol}, {row.averaged}" for row in group.rows} == {group.name}
        assert [row.kind for row in group.rows][:2] == ["model", "baseline"]
    assert {row.kind for row in others.rows} == {"published"}


def test_flip_averaging_is_said_where_it_is_done() -> None:
    said = {group.name: "mirrored" in group.meaning for group in html.result_groups(metrics())}
    assert said["densedepth, pooled"]
    assert not said["full, per image"]
    assert not said["eigen, per image"]


@pytest.mark.parametrize(("source", "orientation"), [("rooms", True), ("file", False)])
def test_published_figures_are_for_orientation_only_unless_the_frames_are_nyus(
    source: str, orientation: bool
) -> None:
    text = html.render_report(replace(INPUTS, metrics=metrics(source=source)))
    assert ("for orientation only" in text) == orientation


def test_all_measures_are_listed_under_all_protocols(page: Page) -> None:
    rows = {row[0]: row[1:] for row in page.cells() if len(row) == 7}
    assert len(rows) == len(MEASURES)
    for measure, label in html.MEASURES:
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


def test_only_a_commit_hash_gets_into_the_command_line() -> None:
    assert html.commands({"git_commit": "$(rm -rf ~)"}) == ["make repro"]
    assert html.commands({"git_commit": "3f2a9c81d7e4 (with changes)"})[0] == "git checkout 3f2a9c81d7e4"
    assert html.commands({}) == ["make repro"]


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
    assert "<script" not in text
    assert "<b>" not in re.sub(r"<b>RMSE", "", text)
    assert "&lt;script&gt;" in text


def test_missing_and_non_finite_numbers_are_an_en_dash() -> None:
    assert [html.number(value) for value in (None, float("nan"), float("inf"), "")] == ["–"] * 4
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
    assert page.cells("This model")[0][1:4] == ["–", "–", "–"]
    assert page.cells("gradient_clip", "–")
    assert page.cells("MLflow run", "–")
    visible = re.sub(r"base64,[\w+/=]+|<style>.*?</style>", "", text, flags=re.S)
    assert not re.search(r"\bnan\b|\bNone\b", visible)


def test_numbers_are_rounded_and_carry_a_true_minus_sign() -> None:
    assert html.number(0.5604) == "0.560"
    assert html.number(-1.25, 1) == "−1.2"
    assert html.number(np.float32(0.25)) == "0.250"
    assert [html.count(n).replace("\N{NO-BREAK SPACE}", " ") for n in (499_000, 3.1e8, 41_200_000, 0, 12)] == [
        "0.499 M",
        "0.31 G",
        "41.2 M",
        "0",
        "12",
    ]


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
    assert not any("validation frames" in a["alt"] and "RMSE" in a["alt"] for a in page.images)


def test_a_report_without_training_and_without_predictions_leaves_their_sections_out() -> None:
    text = html.render_report(replace(INPUTS, history=history(0), predictions=predictions(())))
    assert 'id="training"' not in text
    assert 'id="predictions"' not in text
    assert 'id="results"' in text


def test_missing_pixels_stay_grey_when_a_map_is_shrunk() -> None:
    full_size = predictions(("best",), (480, 640))
    full_size.depth_mm[..., :240, :] = 0
    truth = html.gallery(full_size).groups[0].frames[0].tiles[1]
    painted = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(truth.uri.partition(",")[2]))).convert("RGB")
    ).reshape(240, 320, 3)
    assert len(np.unique(painted[:120].reshape(-1, 3), axis=0)) == 1
    red, green, blue = painted[0, 0]
    assert max(red, green, blue) - min(red, green, blue) < 16


def test_nine_frames_at_full_resolution_stay_below_five_megabytes() -> None:
    """Photographs of pure noise, which does not compress, over depth with 2 cm of noise at every pixel."""
    noise = predictions(("best",) * 3 + ("median",) * 3 + ("worst",) * 3, (480, 640))
    ramp_mm = np.linspace(1000, 6000, 640) + np.random.default_rng(1).normal(0, 20, noise.depth_mm.shape)
    frames = replace(noise, depth_mm=ramp_mm.astype(np.int16), prediction_mm=(1.1 * ramp_mm).astype(np.int16))
    assert len(html.render_report(replace(INPUTS, predictions=frames)).encode()) < 5_000_000
