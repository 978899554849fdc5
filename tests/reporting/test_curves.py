"""Charts as inline SVG: in the page's colours, and with every point where the picture draws it."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline.reporting import training_figures
from pipeline.reporting.curves import Plot, plot
from pipeline.reporting.style import DARK, LIGHT, chart, label_y
from tests.reporting.toy import history


@pytest.fixture(scope="module")
def drawn() -> Plot:
    return plot(training_figures.loss_components_figure(history(5)), "terms")


def path_points(svg: str, identifier: str) -> np.ndarray:
    """Of the first path of the group: where the line really goes."""
    root = ElementTree.fromstring(svg.replace("<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', 1))
    group = root.find(f".//g[@id='{identifier}']")
    assert group is not None
    path = group.find("path")
    assert path is not None
    return np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path.attrib["d"]), float)


def test_points_stand_where_the_picture_draws_them_and_carry_their_values(drawn: Plot) -> None:
    panels = drawn.curves["panels"]
    assert [len(panel["series"]) for panel in panels] == [2, 2]
    for panel in panels:
        left, top, right, bottom = panel["box"]
        for series in panel["series"]:
            np.testing.assert_allclose(path_points(drawn.svg, series["id"]), series["at"], atol=0.15)
            x, y = np.array(series["at"]).T
            assert (x.min() >= left, x.max() <= right, y.min() >= top, y.max() <= bottom) == (True,) * 4
            np.testing.assert_allclose(series["values"], [[k, round(1 / k, 4)] for k in range(1, 6)])


def test_curves_of_one_name_are_one_entry_of_the_legend_and_are_told_apart_by_their_panel(drawn: Plot) -> None:
    assert [(swatch.label, swatch.colour, swatch.dashes) for swatch in drawn.legend] == [
        ("training", "var(--accent)", "none"),
        ("validation", "var(--second)", "7 4"),
    ]
    series = [one for panel in drawn.curves["panels"] for one in panel["series"]]
    assert [one["name"] for one in series] == [
        "MSE, training",
        "MSE, validation",
        "(1 – SSIM) / 2, training",
        "(1 – SSIM) / 2, validation",
    ]
    assert [one["curve"] for one in series] == [0, 1, 0, 1]
    assert [one["unit"] for one in series] == ["m²", "m²", "", ""]
    assert drawn.curves["x"] == "Epoch"


def test_colours_are_the_pages_variables_so_that_one_picture_serves_both_themes(drawn: Plot) -> None:
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn.svg)) == set()
    assert {"var(--ink)", "var(--muted)", "var(--accent)"} - set(re.findall(r"var\(--\w+\)", drawn.svg)) == {
        "var(--ink)"
    }
    values = list(vars(LIGHT).values())
    assert len(values) == len(set(values)), "two roles of one colour could not be told apart"
    assert set(vars(LIGHT)) == set(vars(DARK))


def test_letters_are_text_in_the_pages_own_type(drawn: Plot) -> None:
    assert ">Epoch</text>" in drawn.svg
    assert "font-family" not in drawn.svg
    assert "<style" not in drawn.svg


def test_identifiers_of_different_charts_differ_and_the_same_chart_is_the_same_text() -> None:
    one, again, other = (
        plot(training_figures.loss_total_figure(history(4)), name) for name in ("one", "one", "other")
    )
    assert one.svg == again.svg
    identifiers = [set(re.findall(r'\bid="([^"]+)"', drawn.svg)) for drawn in (one, other)]
    assert identifiers[0] and not identifiers[0] & identifiers[1]


def test_words_from_the_data_cannot_become_markup() -> None:
    figure, (axes,) = chart(LIGHT)
    axes.plot([0, 1], [0, 1], label="<script>alert(1)</script>")
    axes.set_xlabel("<b>x</b> (m)")
    label_y(axes, "y (m)", LIGHT)
    svg = plot(figure, "evil").svg
    assert "<script" not in svg
    assert "<b>" not in svg


def test_gaps_and_empty_curves_are_no_points() -> None:
    figure, (axes,) = chart(LIGHT)
    axes.plot([0, 1, 2], [1.0, np.nan, 3.0], label="gap")
    axes.plot([0, 1, 2], [np.nan] * 3, label="nothing")
    label_y(axes, "y (m)", LIGHT)
    gap, nothing = plot(figure, "gaps").curves["panels"][0]["series"]
    assert gap["values"] == [[0.0, 1.0], [2.0, 3.0]]
    assert nothing["values"] == nothing["at"] == []
