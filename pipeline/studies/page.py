"""`docs/experiments.md` and its plots, written wholly from the declarations and the record."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.files import write_text, written_whole
from pipeline.reporting.studies import scores_of
from pipeline.reporting.study_figures import study_figure
from pipeline.reporting.style import png
from pipeline.reporting.text import EN_DASH
from pipeline.studies.declaration import Study
from pipeline.studies.record import Measured, read_record
from pipeline.studies.summary import Row, Summary, conditions, summarize

INTRODUCTION = """\
<!-- Written from studies/*.yaml and reports/studies.json: edit those, then run `depth study --render`. -->

# Experiments

Each study asks one question. Its variants share everything but what the table names. Every variant and seed is a
DVC experiment with an MLflow run of its own. `make studies` runs whatever is missing here; the numbers stand in
[`reports/studies.json`](../reports/studies.json).

- **Chosen by validation**: the RMSE on scenes set aside from the training frames, at the network's own resolution
  and at the epoch that is best on them.
- **Test, confirmed only**: nothing was chosen by it. Protocol `full`, per image, no flip averaging.
- ± after a mean is the standard deviation over seeds; ± after a difference is its standard error. A difference of
  less than twice that may be chance, of two seeds even one of four times. A row without ± is of one seed, whose
  spread is not known. Lower RMSE and AbsRel are better, higher δ1 is.
"""

COLUMNS = ("val RMSE (m)", "difference", "test RMSE (m)", "test AbsRel", "test δ1")


def write_page(studies: Sequence[Study]) -> None:
    """Write the page and the plots of all studies; a result that none declares any more is told on stderr."""
    root = paths.repository_root()
    summaries = summarized(studies, read_record(root / paths.STUDIES))
    write_text(root / paths.EXPERIMENTS_PAGE, page(summaries))
    for summary in summaries:
        if (figure := study_figure(summary)) is not None:
            with written_whole(root / plot_path(summary.study)) as partial:
                partial.write_bytes(png(figure))


def summarized(studies: Sequence[Study], record: Sequence[Measured]) -> list[Summary]:
    summaries = [summarize(study, record) for study in studies]
    shown = {result.key for summary in summaries for result in summary.results}
    for entry in record:
        if entry.key not in shown:
            print(
                f"warning: {paths.STUDIES} has a result of study {entry.study}, variant {entry.variant}, seed "
                f"{entry.seed}, that no study declares with these overrides; declare it, or delete the entry",
                file=sys.stderr,
            )
    return summaries


def plot_path(study: Study) -> Path:
    return paths.STUDY_PLOTS / f"study-{study.name}.png"


def page(summaries: Sequence[Summary]) -> str:
    contents = "\n".join(f"- [{summary.study.title}](#{summary.study.name})" for summary in summaries)
    return "\n".join([INTRODUCTION, contents, "", *("\n".join(_section(summary)) for summary in summaries)])


def _section(summary: Summary) -> Iterator[str]:
    study = summary.study
    yield f'<a id="{study.name}"></a>\n'
    yield f"## {study.title}\n"
    yield f"{_line(study.question)}\n"
    if study.expectation:
        yield f"**Expected:** {_line(study.expectation)}\n"
    if study.common:
        yield f"Common to all: {_overrides(study.common)}.\n"
    if measured_under := conditions(summary):
        yield f"Measured: {measured_under}.\n"
    if study_figure(summary) is not None:
        picture = plot_path(study).relative_to(paths.EXPERIMENTS_PAGE.parent).as_posix()
        yield f"![{study.title}: RMSE and δ1, a dot a seed, lines through the means]({picture})\n"
    columns = ["variant", *COLUMNS, *(["verdict"] if any(row.variant.verdict for row in summary.rows) else [])]
    yield f"| {' | '.join(columns)} |"
    yield f"|{len(columns) * '---|'}"
    for row in summary.rows:
        yield f"| {' | '.join(list(_cells(row))[: len(columns)])} |"
    yield ""
    if study.verdict:
        yield f"**Verdict:** {_line(study.verdict)}\n"
    yield f"To repeat: `depth study {study.file.as_posix()}`\n"


def _cells(row: Row) -> Iterator[str]:
    variant = row.variant
    told = [f"**{variant.name}**{' (reference)' if row.is_reference else ''}"]
    told += [_line(variant.idea)] if variant.idea else []
    told += [f"Expected: {_line(variant.expectation)}"] if variant.expectation else []
    told += [_overrides(variant.overrides)] if variant.overrides else []
    yield "<br>".join(told)
    if row.results:
        val_rmse, *others = map(str, scores_of(row))
        yield from (f"{val_rmse} (n = {len(row.results)})", *others)
    else:
        yield from ("not run", *(len(COLUMNS) - 1) * [EN_DASH])
    yield _line(variant.verdict)


def _overrides(overrides: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}={_value(value)}`" for key, value in overrides.items())


def _value(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _line(text: str) -> str:
    """As one line that a cell of a table can hold."""
    return " ".join(text.split()).replace("|", "\\|")
