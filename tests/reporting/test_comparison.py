"""The page that holds experiments against a reference: what it says, and when it says nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.reporting import compared
from pipeline.reporting.compared import DELTA1, RMSE, Evaluated, cell, differing_params, incomparable, verdict
from pipeline.reporting.comparison import render_comparison
from pipeline.reporting.comparison_figures import LINES, draw_comparison, swatches
from pipeline.reporting.side_by_side import MOST_FRAMES, side_by_side
from tests.reporting.test_browser import CASES, CHROMIUM, assert_whole, opened
from tests.reporting.toy import Page, history, only_own_scripts
from tests.reporting.toy_compared import FRAMES, evaluated, hard_and_easy, per_image, seen

NOISE = np.random.default_rng(0).standard_normal(FRAMES)
BASE = evaluated("plain-pike", hard_and_easy())
BETTER = evaluated(
    "lucid-lark", hard_and_easy() - 0.03 + 0.02 * NOISE, params={"loss": {"ssim_weight": 0.7}, "seed": 1}
)
LIKE = evaluated("even-eel", hard_and_easy() - 0.001 + 0.05 * NOISE[::-1])


def bootstrap_by_hand(differences: np.ndarray) -> tuple[float, float]:
    """The textbook's bootstrap of a mean, frame by frame."""
    random = np.random.default_rng(77)
    means = [differences[random.integers(0, len(differences), len(differences))].mean() for _ in range(4000)]
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


# What is said of a difference


def test_a_difference_that_holds_on_nearly_all_frames_is_clear_though_frames_differ_more() -> None:
    found = cell(RMSE, BASE, BETTER)
    assert BETTER.per_image is not None and BASE.per_image is not None
    differences = BETTER.per_image["full_rmse"].to_numpy() - BASE.per_image["full_rmse"].to_numpy()
    assert found.difference == pytest.approx(differences.mean())
    assert (found.low, found.high) == pytest.approx(bootstrap_by_hand(differences), abs=5e-4)
    assert (found.word, found.is_clear) == ("better", True)
    # Not paired, the spread of the frames (0.2 m) would hide it: two standard errors of a mean are 0.06 m.
    assert abs(differences.mean()) < 2 * hard_and_easy().std() / np.sqrt(FRAMES)
    assert cell(RMSE, BETTER, BASE).word == "worse"
    assert cell(DELTA1, BASE, BETTER).word == "better", "of δ1 more is better"
    assert cell(RMSE, BASE, LIKE).word == "not clear"
    assert cell(RMSE, BASE, replace(BASE, name="again")).word == "the same"
    assert cell(RMSE, BASE, BASE) == compared.Cell(hard_and_easy().mean())


def test_the_order_of_the_frames_in_the_tables_does_not_matter() -> None:
    assert BETTER.per_image is not None
    shuffled = replace(BETTER, per_image=BETTER.per_image.sample(frac=1, random_state=3))
    again = cell(RMSE, BASE, shuffled)
    assert again.difference == pytest.approx(cell(RMSE, BASE, BETTER).difference)
    assert again.low == pytest.approx(cell(RMSE, BASE, BETTER).low, abs=1e-3)
    assert compared.frames_better(BASE, shuffled) == (int((NOISE < 1.5).sum()), FRAMES)


def test_a_figure_that_only_one_has_or_that_is_pooled_gets_no_verdict() -> None:
    pooled = compared.MEASURES[2][1][0]
    more = replace(BETTER, metrics=BETTER.metrics | {"densedepth": {"rmse_pooled": 0.625}})
    assert cell(pooled, BASE, more) == compared.Cell(0.625, 0.125)
    assert cell(pooled, BASE, replace(BETTER, metrics={**BETTER.metrics, "densedepth": {}})) == compared.Cell(None)
    without = cell(RMSE, BASE, replace(BETTER, per_image=None))
    assert (without.word, without.interval) == ("", "")
    assert "how surely is not known" in verdict([BASE, replace(BETTER, per_image=None)])


def test_the_verdict_names_the_better_one_by_how_much_and_how_surely() -> None:
    told = verdict([BASE, BETTER]).replace("\N{NO-BREAK SPACE}", " ")
    rmse = hard_and_easy().mean() - 0.03 + 0.02 * NOISE.mean()
    gap = hard_and_easy().mean() - rmse
    assert told == (
        f"lucid-lark is better than plain-pike: RMSE {rmse:.3f} m, {gap:.3f} m ({100 * gap / 0.55:.0f} %) lower, "
        "beyond the confidence interval"
    )
    assert verdict([BETTER, BASE]).startswith("lucid-lark stays the best: plain-pike has an RMSE")
    assert verdict([LIKE, BASE]).startswith("even-eel and plain-pike are not told apart") or verdict(
        [LIKE, BASE]
    ).startswith("plain-pike and even-eel are not told apart")
    assert verdict([BASE, replace(BASE, name="again")]).startswith("again and plain-pike score the same")
    assert verdict([BASE, LIKE, BETTER]).startswith("lucid-lark is better than plain-pike")
    assert "the next best" in compared.certainty([BASE, LIKE, BETTER])


# Frames that are not the same


def renamed() -> Evaluated:
    table = per_image(hard_and_easy() / 2, [f"{number + 10:04d}" for number in range(FRAMES)])
    table["scene"] = [f"office_{number + 10}" for number in range(FRAMES)]
    return replace(BETTER, name="elsewhere", per_image=table)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (renamed(), "elsewhere was scored on other test frames (40 rather than 40, 30 in common)"),
        (
            replace(BETTER, metrics=BETTER.metrics | {"source": "nyu_v2"}),
            "lucid-lark was scored on another data set",
        ),
        (
            replace(BETTER, metrics=BETTER.metrics | {"height": 240}),
            "lucid-lark was scored on frames of another size",
        ),
        (
            replace(BETTER, metrics=BETTER.metrics | {"trained_on": "all frames, the test frames included"}),
            "lucid-lark was also trained on the test frames",
        ),
        (
            replace(BETTER, metrics=BETTER.metrics | {"frames_sha256": "b"}),
            "lucid-lark was scored on test frames of the same names but other content",
        ),
    ],
)
def test_where_the_test_frames_are_not_the_same_there_is_no_verdict_and_the_page_says_why(
    other: Evaluated, reason: str
) -> None:
    reference = replace(BASE, metrics=BASE.metrics | {"frames_sha256": "a"})
    assert incomparable(reference, other) == reason
    assert verdict([reference, other]) == f"No verdict: {reason}"
    assert cell(RMSE, reference, other).word == "" and cell(RMSE, reference, other).interval == ""
    text = render_comparison([reference, other])
    assert reason in text
    assert "better</b>" not in text and "worse</b>" not in text
    third = verdict([reference, other, replace(LIKE, metrics=LIKE.metrics | {"frames_sha256": "a"})])
    assert "told apart" in third, "the others are compared all the same"


def test_of_networks_that_were_all_trained_on_the_test_frames_the_page_says_so() -> None:
    runs = [
        replace(run, metrics=run.metrics | {"trained_on": "all frames, test included"}) for run in (BASE, BETTER)
    ]
    assert incomparable(*runs) == ""
    assert "The test frames were trained on." in render_comparison(runs)
    assert "The test frames were trained on." not in render_comparison([BASE, BETTER])


def test_frames_of_one_name_and_other_pixels_are_told_by_the_examples_of_older_evaluations() -> None:
    one = replace(BASE, predictions=seen({7: "fixed"}, 100))
    same = replace(BETTER, predictions=seen({7: "best", 8: "fixed"}, 200))
    assert incomparable(one, same) == ""
    changed = seen({7: "best"}, 200)
    changed.rgb_u8[0, 0, 0, 0] += 1
    assert "other content" in incomparable(one, replace(BETTER, predictions=changed))
    digests = [replace(run, metrics=run.metrics | {"frames_sha256": "a"}) for run in (BASE, BETTER)]
    assert incomparable(*digests) == ""


# Parameters


def test_parameters_that_differ_are_shown_and_those_that_change_no_score_are_not() -> None:
    other = replace(
        BETTER,
        params={"seed": 1, "loss": {"ssim_weight": 0.7}, "train": {"epochs": "2e1"}, "report": {"title": "mine"}},
    )
    rows = differing_params([BASE, other, replace(BASE, params=BASE.params | {"extra": {"x": True}})])
    assert [(row.name, list(row.values), list(row.differs)) for row in rows] == [
        ("loss.ssim_weight", ["0.5", "0.7", "0.5"], [False, True, False]),
        ("extra.x", ["–", "–", "true"], [False, False, True]),
        ("seed", ["0", "1", "0"], [False, True, False]),
    ]
    assert differing_params([BASE, LIKE]) == []


# Curves


def test_each_experiment_is_a_curve_of_its_own_name_in_every_chart() -> None:
    runs = [BASE, replace(BETTER, history=history(9)), replace(LIKE, name=r"_hid$\frac$")]
    plots = draw_comparison(runs)
    assert list(plots) == ["compared_loss", "compared_validation", "compared_distance", "compared_scene_types"]
    for plot in plots.values():
        assert [swatch.label.strip("\N{ZERO WIDTH SPACE}") for swatch in plot.legend] == [run.name for run in runs]
        assert len({(swatch.dashes, swatch.marker) for swatch in plot.legend}) == 3
    validation = plots["compared_validation"].curves["panels"]
    assert [panel["series"][1]["name"] for panel in validation] == [
        "Validation RMSE, lucid-lark",
        "Validation δ1, lucid-lark",
    ]
    values = validation[0]["series"][1]["values"]
    assert values == [[epoch, float(f"{1 / epoch:.4g}")] for epoch in range(1, 10)]
    assert validation[1]["series"][0]["values"][1] == [2, 85]
    assert len(validation[0]["series"][0]["values"]) == 5, "a shorter training ends earlier"


def test_what_no_experiment_has_is_left_out() -> None:
    bare = [replace(run, history=None, per_image=None, params={}) for run in (BASE, BETTER)]
    bare = [replace(run, metrics={**run.metrics, "by_distance": []}) for run in bare]
    assert draw_comparison(bare) == {}
    page = Page(render_comparison(bare))
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert {"metrics", "frames"} <= ids and not {"parameters", "curves"} & ids
    one = replace(BASE, history=history(4, validation=False))
    assert len(draw_comparison([one, bare[1]])["compared_loss"].curves["panels"]) == 1


def test_there_is_a_line_style_for_as_many_as_a_page_takes() -> None:
    assert len(LINES) == len(set(LINES)) == compared.MOST
    shown = swatches([replace(BASE, name=f"run-{number}") for number in range(compared.MOST)])
    assert len({(one.dashes, one.marker) for one in shown}) == compared.MOST, "without colour too"


# The same frames side by side


def test_frames_that_all_keep_stand_side_by_side_those_drawn_by_lot_first() -> None:
    runs = [
        replace(BASE, predictions=seen({0: "best", 5: "median", 9: "worst", 7: "fixed"}, 300)),
        replace(BETTER, predictions=seen({7: "fixed", 5: "best", 3: "worst"}, 100)),
    ]
    shown = side_by_side(runs)
    assert shown is not None and shown.kept_by_all == 2
    assert [frame.title for frame in shown.frames] == ["Frame 0007, office_7", "Frame 0005, office_5"]
    assert [(one.name, one.rmse, one.is_best) for one in shown.frames[0].seen] == [
        ("plain-pike", 0.3, False),
        ("lucid-lark", 0.1, True),
    ]
    assert shown.frames[0].seen[0].prediction.uri != shown.frames[0].seen[1].prediction.uri
    assert [bar.label for bar in shown.bars] == ["Depth (m)", "Predicted – true depth (m)"]


def test_truth_and_predictions_share_one_scale_of_depth() -> None:
    far = seen({7: "fixed"}, 4000)
    shown = side_by_side([replace(BASE, predictions=seen({7: "fixed"}, 0)), replace(BETTER, predictions=far)])
    assert shown is not None
    assert shown.bars[0].ticks[-1][1] == f"{np.ceil(far.prediction_m.max() * 2) / 2:g}"
    frame = shown.frames[0]
    assert frame.seen[0].prediction.uri == frame.truth.uri, "a perfect prediction looks like the truth"


def test_an_experiment_without_the_frames_is_named_and_left_out_and_without_any_there_are_no_pictures() -> None:
    kept = seen(dict.fromkeys(range(9), "fixed"), 50)
    runs = [replace(BASE, predictions=kept), replace(LIKE, predictions=seen({30: "best"}, 10))]
    assert side_by_side(runs) is None
    assert "No test frame is kept by both" in " ".join(render_comparison(runs).split())
    shown = side_by_side([*runs, replace(BETTER, predictions=kept)])
    assert shown is not None
    assert (list(shown.left_out), len(shown.frames), shown.kept_by_all) == (["even-eel"], MOST_FRAMES, 9)
    assert side_by_side([BASE, BETTER]) is None


# The page


def test_the_tables_tell_each_figure_its_difference_and_the_interval() -> None:
    page = Page(render_comparison([BASE, BETTER, LIKE]))
    found = cell(RMSE, BASE, BETTER)
    row = next(row for row in page.cells("RMSE (m)") if len(row) == 4)
    words = [" ".join(content.split()) for content in row]
    assert words[1] == "0.550"
    assert words[2] == f"{found.value:.3f}{compared.signed(found.difference)} better {found.interval}"
    assert "not clear" in words[3]
    assert [row[1:] for row in page.cells("loss.ssim_weight")] == [["0.5", "0.7", "0.5"]]
    assert [row[1:] for row in page.cells("Epochs")] == [["5 (best: 5)"] * 3]
    assert [row[1:] for row in page.cells("Measured on")] == [["cpu"] * 3]
    assert page.cells("Throughput (frames/s)")


def test_names_from_outside_are_text_and_nothing_but_the_pages_own_script_runs() -> None:
    text = render_comparison([BASE, replace(BETTER, name="<script>alert(1)</script>", asked="a;b")])
    assert only_own_scripts(text)
    assert "depth compare plain-pike &#39;a;b&#39;" in text
    assert set(re.findall(r"https?://[^\s\"']*", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_dvcs_commands_are_told_only_where_dvc_knows_every_name() -> None:
    assert "dvc metrics diff plain-pike lucid-lark" in render_comparison([BASE, BETTER])
    assert "dvc metrics diff" not in render_comparison([BASE, replace(BETTER, in_dvc=False)])


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=os.getuid() != 0)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = [
        replace(BASE, predictions=seen({7: "fixed", 5: "best"}, 300, (120, 160))),
        replace(BETTER, predictions=seen({7: "fixed", 5: "worst"}, 100, (120, 160)), history=history(30)),
        replace(renamed(), name="one-of-a-very-long-name-that-wraps-somewhere"),
    ]
    path = tmp_path_factory.mktemp("compare") / "compare.html"
    path.write_text(render_comparison(runs), encoding="utf-8")
    return path


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (Debian's package: chromium)")
@pytest.mark.parametrize(("size", "theme"), CASES)
def test_the_page_is_whole_at_every_size_and_by_day_and_night(
    chromium: Any, written: Path, tmp_path: Path, size: str, theme: str
) -> None:
    shown = opened(chromium, written, size, color_scheme=theme)
    page = shown.page
    assert_whole(page)
    page.screenshot(path=tmp_path / f"compare-{size}-{theme}.png", full_page=True)
    plot = page.locator("#curves .plot").nth(1)
    plot.scroll_into_view_if_needed()
    plot.hover()
    assert "Validation RMSE, lucid-lark" in plot.locator(".readout").inner_text()
    name = page.locator("#curves .chart").nth(1).get_by_role("button", name="lucid-lark")
    name.click()
    plot.hover()
    assert "lucid-lark" not in plot.locator(".readout").inner_text()
    assert shown.troubles == []
    page.context.close()
