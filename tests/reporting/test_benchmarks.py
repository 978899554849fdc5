"""The table of `reports/benchmarks.json` in the report, from files that the benchmarks' own writer makes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.entries import Entry, save
from pipeline.errors import PipelineError
from pipeline.reporting.benchmarks import read_benchmarks, tabulate
from pipeline.reporting.html import render_report
from tests.reporting.toy import INPUTS, Page, only_own_scripts

CPU = {"processor": "abacus", "cores": 2, "torch": "2.13.0+cpu"}
GPU = {"gpu": "difference engine", "processor": "slide rule", "cores": 16, "torch": "2.13.0+cu130"}

ON_CPU = (
    Entry("loader", 1.834, "x", "image files", 1.5, "higher"),
    Entry("memory", -0.2143, "%", "four times the frames", 2.0),
    Entry("start", 3.4142, "s", "process start; 3.1 to 3.6 s", 4.0),
    Entry("step.small", 88.888, "%", "one batch in memory", 97.0, "higher"),
    Entry("tracking", 1.0776, "x", "no tracker"),
)
ON_GPU = (
    Entry("gpu100", 9.5, "s", "patience", 10.0, device="cuda"),
    Entry("loader", 4.0, "x", "image files", 5.0, "higher", device="cuda"),
    Entry("start", 12.0, "s", "process start; 11.8 to 12.1 s", None, device="cuda"),
    Entry("step.small", 90.0, "%", "one batch in memory", 90.0, "higher", device="cuda"),
)


def written(folder: Path, *measured: tuple[Sequence[Entry], dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries as they come back from the file."""
    path = folder / "benchmarks.json"
    for entries, environment in measured:
        save(entries, environment, path)
    return read_benchmarks(path)


def rendered(entries: Sequence[dict[str, Any]]) -> Page:
    return Page(render_report(replace(INPUTS, benchmarks=entries)))


def section(page: Page) -> str:
    """Its text, without markup."""
    found = re.search(r'<section id="benchmarks">(.*?)</section>', page.text, re.S)
    assert found is not None
    return " ".join(re.sub(r"<[^>]*>", " ", found[1]).split())


def table(page: Page) -> dict[str, list[str]]:
    """Rows by entry, in the order of the page."""
    rows = [[" ".join(cell.split()) for cell in row] for row in page.rows]
    (head,) = (number for number, row in enumerate(rows) if row[0] == "Entry")
    assert rows[head] == ["Entry", "CPU", "GPU", "Must reach", "Held against"]
    return {row[0]: row[1:] for row in rows[head + 1 :] if len(row) == 5}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return rendered(written(tmp_path_factory.mktemp("both"), (ON_CPU, CPU), (ON_GPU, GPU)))


@pytest.fixture(scope="module")
def without_gpu(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return rendered(written(tmp_path_factory.mktemp("cpu"), (ON_CPU, CPU)))


def test_each_entry_has_a_row_with_both_devices_and_the_limit_of_each(both: Page) -> None:
    no = "not measured"
    start = "CPU process start; 3.1 to 3.6 s GPU process start; 11.8 to 12.1 s"
    assert table(both) == {
        "gpu100": [no, "9.50 s ✓ reached", "GPU at most 10 s", "patience"],
        "loader": ["1.83× ✓ reached", "4.00× ✗ missed", "CPU at least 1.5× GPU at least 5×", "image files"],
        "memory": ["−0.214 % ✓ reached", no, "CPU at most 2 %", "four times the frames"],
        "start": ["3.41 s ✓ reached", "12.0 s", "CPU at most 4 s GPU –", start],
        "step.small": [
            "88.9 % ✗ missed",
            "90.0 % ✓ reached",
            "CPU at least 97 % GPU at least 90 %",
            "one batch in memory",
        ],
        "tracking": ["1.08×", no, "–", "no tracker"],
    }
    assert both.open_tags == []


def test_where_no_gpu_was_at_hand_its_column_and_a_sentence_say_so(both: Page, without_gpu: Page) -> None:
    rows = table(without_gpu)
    assert rows["start"] == ["3.41 s ✓ reached", "not measured", "at most 4 s", "process start; 3.1 to 3.6 s"]
    assert {row[1] for row in rows.values()} == {"not measured"}
    assert "No GPU was at hand." in section(without_gpu)
    assert "No GPU was at hand." not in section(both)


def test_where_there_are_figures_of_a_gpu_only_the_cpus_column_says_so(tmp_path: Path) -> None:
    found = tabulate(written(tmp_path, (ON_GPU, GPU)))
    assert [[figure is not None for figure in row.figures] for row in found.rows] == [[False, True]] * len(ON_GPU)
    assert found.gpu_at_hand


def test_a_limit_that_both_devices_share_stands_once(tmp_path: Path) -> None:
    on_both = [Entry("memory", 1.0, "%", "frames", 2.0, device=device) for device in ("cpu", "cuda")]
    (row,) = tabulate(written(tmp_path, (on_both, CPU))).rows
    assert [(told.text, told.column) for told in row.limits] == [("at most 2\N{NO-BREAK SPACE}%", None)]


def test_hardware_and_day_stand_below_the_table(both: Page) -> None:
    assert re.search(
        r"CPU: abacus, 2 cores, torch 2\.13\.0\+cpu, \d{4}-\d\d-\d\d "
        r"GPU: difference engine, slide rule, 16 cores, torch 2\.13\.0\+cu130, \d{4}-\d\d-\d\d$",
        section(both),
    )


def test_entries_of_several_days_or_machines_are_told_apart_by_their_subjects(tmp_path: Path) -> None:
    entries = written(tmp_path, (ON_CPU[:2], CPU), (ON_CPU[2:4], CPU | {"processor": "quipu"}))
    for entry in entries:
        entry["date"] = "2026-11-23T10:00:00+00:00" if entry["name"] == "memory" else "2026-11-22T10:00:00+00:00"
    assert tabulate(entries).origins == [
        ("CPU", "abacus, 2 cores, torch 2.13.0+cpu, 2026-11-22 (loader)"),
        ("CPU", "abacus, 2 cores, torch 2.13.0+cpu, 2026-11-23 (memory)"),
        ("CPU", "quipu, 2 cores, torch 2.13.0+cpu, 2026-11-22 (start, step)"),
    ]


@pytest.mark.parametrize(
    ("value", "limit", "shown"),
    [
        (12345.6, None, "12300"),
        (0.000123456, None, "0.000123"),
        (0.0, None, "0.00"),
        (2.0, None, "2.00"),
        (96.98, 97.0, "96.98"),
        (96.9996, 97.0, "96.9996"),
        (97.0, 97.0, "97.0"),
        (98.04, 97.0, "98.0"),
    ],
)
def test_a_figure_has_three_digits_and_more_only_where_it_would_be_rounded_onto_its_limit(
    value: float, limit: float | None, shown: str, tmp_path: Path
) -> None:
    (row,) = tabulate(written(tmp_path, ([Entry("step", value, "%", "peer", limit, "higher")], CPU))).rows
    assert row.figures[0] is not None
    assert row.figures[0].value == f"{shown}\N{NO-BREAK SPACE}%"


def test_without_a_file_the_report_has_no_such_section(both: Page, tmp_path: Path) -> None:
    assert read_benchmarks(tmp_path / "benchmarks.json") == []
    assert "#benchmarks" in both.text
    assert "benchmarks" not in rendered([]).text.partition("</style>")[2]


def test_a_file_with_the_marks_of_a_merge_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.json"
    path.write_text("<<<<<<< HEAD\n" + json.dumps({"entries": []}), encoding="utf-8")
    with pytest.raises(PipelineError, match=rf"{re.escape(str(path))} is damaged \(.*\); restore it from git"):
        read_benchmarks(path)


def test_words_from_the_file_cannot_become_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    page = rendered(written(tmp_path, ([Entry(evil, 1.0, evil, evil, 2.0)], CPU | {"processor": evil})))
    assert only_own_scripts(page.text)
    assert table(page)[evil][0] == f"1.00 {evil} ✓ reached"
