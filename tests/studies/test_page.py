"""The record, and the page that is written from it, against text that a person wrote."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from PIL import Image

from pipeline import files
from pipeline.cli import main
from pipeline.errors import PipelineError
from pipeline.reporting.study_figures import measured_points, study_figure
from pipeline.studies import page as page_module
from pipeline.studies.declaration import read_studies
from pipeline.studies.page import page, summarized
from pipeline.studies.record import add_to_record, read_record, write_record
from pipeline.studies.summary import summarize
from tests.studies.toy import ALL, PARAMS, RMSE, STUDY, measured

REPOSITORY = PARAMS.parent
PAGE = """\
- [Weights](#weights)

<a id="weights"></a>

## Weights

Which weight?

**Expected:** Less is more.

Common to all: `fetch.source=nyu_v2`, `train.epochs=3`.

Measured: 3 epochs; seeds 0, 1, 2; 716 training, 79 validation and 215 test frames; \
fetch.source=file; abacus, torch 2.13.0; \
commit 3f2a9c8.

![Weights: RMSE and δ1, a dot a seed, lines through the means](images/study-weights.png)

| variant | val RMSE (m) | difference | test RMSE (m) | test AbsRel | test δ1 |
|---|---|---|---|---|---|
| **light**<br>Less of it.<br>Expected: Better.<br>`loss.ssim_weight=0.25` | \
0.820 ± 0.014 (n = 2) | −0.110 ± 0.020 | 0.920 ± 0.014 | 0.200 ± 0.000 | 0.500 ± 0.000 |
| **heavy** (reference)<br>`loss.ssim_weight=0.75` | 0.930 ± 0.030 (n = 3) | – | 1.030 ± 0.030 | 0.200 ± 0.000 | \
0.500 ± 0.000 |

**Verdict:** It is.

To repeat: `depth study studies/weights.yaml`
"""


def test_the_page_tells_means_spreads_and_differences() -> None:
    light, heavy = ([RMSE[key] for key in RMSE if key[0] == name] for name in ("light", "heavy"))
    assert f"{statistics.stdev(light):.3f} {statistics.stdev(heavy):.3f}" == "0.014 0.030"
    error = (statistics.variance(light) / 2 + statistics.variance(heavy) / 3) ** 0.5
    assert f"{error:.3f}" == "0.020"
    text = page([summarize(STUDY, ALL)])
    assert text == f"{page_module.INTRODUCTION}\n{PAGE}"
    assert "nothing was chosen by it. Protocol `full`, per image, no flip averaging" in text


def test_what_was_not_run_or_ran_with_other_overrides_is_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    other = measured("light", overrides={"loss.ssim_weight": 0.3})
    (summary,) = summarized([STUDY], [other, measured("heavy")])
    text = page([summary])
    assert "`loss.ssim_weight=0.25` | not run | – | – | – | – |" in text
    assert "| 0.900 (n = 1) | – | 1.000 | 0.200 | 0.500 |" in text
    assert "images/" not in text
    assert "variant light, seed 0, that no study declares" in capsys.readouterr().err


def test_a_verdict_has_a_column_where_there_is_one() -> None:
    variants = [STUDY.variants[0].model_copy(update={"verdict": "Kept:\n|x| is worth it."}), STUDY.variants[1]]
    text = page([summarize(STUDY.model_copy(update={"variants": variants}), ALL)])
    assert "| test δ1 | verdict |\n|---|---|---|---|---|---|---|" in text
    assert "| Kept: \\|x\\| is worth it. |\n" in text


def test_the_plot_has_a_dot_a_seed_at_the_parameter_the_frames_or_the_parameters() -> None:
    points = measured_points(summarize(STUDY, ALL))
    assert sorted(zip(points["x"], points["val_rmse"], strict=True)) == [
        (0.25, 0.81),
        (0.25, 0.83),
        (0.75, 0.9),
        (0.75, 0.93),
        (0.75, 0.96),
    ]
    by_frames = STUDY.model_copy(update={"plot": STUDY.plot and STUDY.plot.model_copy(update={"x": "frames"})})
    few = [measured("light", 0, train_frames=90), measured("light", 1, train_frames=92), measured("heavy", 0)]
    points = measured_points(summarize(by_frames, few))
    assert list(points["x"]) == [90, 92, 716]
    assert list(points["place"]) == [91, 91, 716]
    figure = study_figure(summarize(by_frames, few))
    assert figure is not None
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "log"]
    assert study_figure(summarize(by_frames, few[:2])) is None


def test_the_record_holds_one_entry_a_variant_and_seed_in_one_order(tmp_path: Path) -> None:
    path = tmp_path / "studies.json"
    assert read_record(path) == []
    for entry in reversed(ALL):
        add_to_record(entry, path)
    assert read_record(path) == sorted(ALL, key=lambda entry: entry.key)
    add_to_record(measured("light", 1, epochs=4), path)
    assert [entry.epochs for entry in read_record(path)] == [3, 3, 3, 3, 4]


def test_a_record_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "studies.json"
    write_record(ALL, path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        add_to_record(measured("heavy", 0, epochs=9), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["{", "[]", '{"results": [{"study": "weights"}]}'])
def test_a_damaged_record_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "studies.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PipelineError, match=r"studies\.json is damaged .*; restore it from git"):
        read_record(path)


def test_rendering_alone_writes_page_and_plot(study_repository: Path) -> None:
    write_record(ALL, study_repository / "reports/studies.json")
    main(["study", "--render"])
    assert "0.820 ± 0.014" in (study_repository / "docs/experiments.md").read_text(encoding="utf-8")
    with Image.open(study_repository / "docs/images/study-weights.png") as plot:
        assert plot.size == (880, 680)


def test_the_committed_page_is_what_is_rendered_and_its_plots_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    summaries = summarized(read_studies(REPOSITORY / "studies"), read_record(REPOSITORY / "reports/studies.json"))
    committed = (REPOSITORY / "docs/experiments.md").read_text(encoding="utf-8")
    assert committed == page(summaries), "run `depth study --render`"
    assert capsys.readouterr().err == ""
    drawn = {page_module.plot_path(summary.study) for summary in summaries if study_figure(summary) is not None}
    kept = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "docs/images").glob("study-*.png")}
    assert kept == drawn
