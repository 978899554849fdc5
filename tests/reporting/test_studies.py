"""The studies in the report, from a record that a person wrote."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.reporting.figures import draw_figures
from pipeline.reporting.html import render_report
from pipeline.reporting.studies import measured_studies
from pipeline.studies.record import write_record
from tests.reporting.toy import INPUTS, Page, only_own_scripts
from tests.studies.toy import ALL, WEIGHTS, measured


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "studies").mkdir()
    text = WEIGHTS.replace("idea: Less of it.", "idea: <b>, verdict: Kept.")
    (tmp_path / "studies/weights.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def rendered(folder: Path) -> Page:
    studies = measured_studies(folder / "studies", folder / "studies.json")
    return Page(render_report(replace(INPUTS, studies=studies)))


def test_each_variant_has_a_row_and_the_study_its_plot_in_both_themes(folder: Path) -> None:
    write_record(ALL, folder / "studies.json")
    page = rendered(folder)
    assert page.cells("light<b>") == [
        ["light<b>", "0.820± 0.014", "−0.110± 0.020", "0.920± 0.014", "0.200± 0.000", "0.500± 0.000", "2", "Kept."]
    ]
    assert page.cells("heavy (reference)")[0][1:4] == ["0.930± 0.030", "–", "1.030± 0.030"]
    assert "protocol\n    <code>full</code>, per image, no flip averaging" in page.text
    assert (
        "3 epochs; seeds 0, 1, 2; 716 training, 79 validation and 215 test frames; fetch.source=file; abacus"
        in page.text
    )
    assert '<a href="#studies">Studies</a>' in page.text
    pictures = [image for image in page.images if image["alt"].startswith("Weights: RMSE")]
    assert [(image["width"], image["height"]) for image in pictures] == [("440", "340")]
    assert only_own_scripts(page.text)
    assert "study_weights" in draw_figures(
        replace(INPUTS, studies=measured_studies(folder / "studies", folder / "studies.json"))
    )


def test_a_variant_that_was_not_run_says_so_and_one_place_makes_no_plot(folder: Path) -> None:
    write_record([measured("heavy", 0)], folder / "studies.json")
    page = rendered(folder)
    assert page.cells("light<b>")[0][1:3] == ["not run", "–"]
    assert page.cells("heavy (reference)")[0][1:3] == ["0.900", "–"]
    assert not [image for image in page.images if image["alt"].startswith("Weights")]


@pytest.mark.parametrize("state", ["absent", "empty"])
def test_without_results_the_page_has_no_section(folder: Path, state: str) -> None:
    if state == "empty":
        write_record([], folder / "studies.json")
    page = rendered(folder)
    assert not re.search(r'id="studies"|#studies', page.text)
