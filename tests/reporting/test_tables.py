"""Rows that may be compared stand together; the rest stands apart."""

from __future__ import annotations

from typing import Any

from pipeline.reporting import tables
from tests.reporting.toy import metrics, rich_metrics


def test_rows_of_one_block_share_protocol_and_averaging() -> None:
    *groups, others = tables.result_groups(metrics())
    for group in groups:
        assert {f"{row.protocol}, {row.averaged}" for row in group.rows} == {group.name}
        assert [row.kind for row in group.rows][:2] == ["model", "baseline"]
    assert {row.kind for row in others.rows} == {"published"}


def test_flip_averaging_is_said_where_it_is_done() -> None:
    said = {group.name: "mirrored" in group.meaning for group in tables.result_groups(metrics())}
    assert said["densedepth, pooled"]
    assert not said["full, per image"]
    assert not said["eigen, per image"]


def test_the_constant_is_a_baseline_where_it_was_scored() -> None:
    names = [
        [row.model for row in group.rows if row.kind == "baseline"]
        for group in tables.result_groups(rich_metrics())
    ]
    assert names[:5] == [["Mean-depth map, same frames", "Constant depth, same frames"]] * 5
    assert names[5] == []


def test_what_averaging_with_the_mirror_image_brings_is_told_where_the_protocol_does_it_and_where_not() -> None:
    scored = {
        key: {protocol: {"rmse": rmse, "rmse_pooled": rmse} for protocol in ("full", "eigen", "densedepth")}
        for key, rmse in (("flip_averaged", 0.25), ("single", 0.75))
    }
    groups = {group.name: group.rows for group in tables.result_groups(metrics(**scored))}
    assert (groups["full, per image"][1].model, groups["full, per image"][1].rmse) == (
        "This model, mirrored too and averaged",
        0.25,
    )
    assert groups["densedepth, pooled"][1].rmse == 0.75
    assert {rows[1].kind for name, rows in groups.items() if name != "Other protocols"} == {"variant"}
    assert all(row.kind != "variant" for group in tables.short_groups(metrics(**scored)) for row in group.rows)


def test_the_first_screen_names_protocol_and_averaging_in_each_row_and_one_rival_of_each_other_protocol() -> None:
    groups = tables.short_groups(rich_metrics(eigen={"rmse": 0.25, "abs_rel": 0.1, "delta1": 0.9}))
    shown = [[(row.kind, row.model, row.protocol, row.averaged) for row in group.rows] for group in groups]
    assert shown == [
        [
            ("model", "This model", "full", "per image"),
            ("baseline", "Mean-depth map, same frames", "full", "per image"),
            ("baseline", "Constant depth, same frames", "full", "per image"),
            ("published", "SavtaDepth, ResNet-34 U-Net", "full", "per image"),
        ],
        # 0.25 is nearer to Metric3D v2's 0.183 than to BTS's 0.392.
        [("model", "This model", "eigen", "per image"), ("published", "Metric3D v2", "eigen", "per image")],
        [("model", "This model", "densedepth", "pooled"), ("published", "DenseDepth", "densedepth", "pooled")],
    ]


def test_intervals_stand_with_the_figures_of_their_own_averaging() -> None:
    intervals = {"full": {"rmse": [0.1, 0.2], "rmse_pooled": [0.3, 0.4]}}
    rows = {group.name: group.rows[0] for group in tables.result_groups(metrics(intervals=intervals))}
    assert rows["full, per image"].intervals["rmse"] == "0.100–0.200"
    assert rows["full, pooled"].intervals["rmse"] == "0.300–0.400"
    assert rows["full, pooled"].intervals["delta1"] == rows["eigen, per image"].intervals["rmse"] == ""


def test_scale_and_shape_stand_beside_each_other_for_each_protocol() -> None:
    rows = tables.shape_rows(rich_metrics())
    assert [row.protocol for row in rows] == ["full", "eigen", "densedepth"]
    assert (rows[0].delta1, rows[0].aligned_delta1, rows[0].ratio, rows[0].ratio_spread) == (
        0.713,
        0.8125,
        0.95,
        0.125,
    )
    assert tables.shape_rows(metrics()) == []


def test_regions_are_shaded_from_their_lowest_to_their_highest() -> None:
    region: dict[str, Any] = {"rows": 2, "columns": 2, "rmse": [[0.5, 1.0], [None, 1.5]]}
    cells = tables.region_cells(region)
    assert [[(cell.value, cell.strength) for cell in row] for row in cells] == [
        [(0.5, 0), (1.0, 50)],
        [(None, 0), (1.5, 100)],
    ]
    assert tables.region_cells(None) == tables.region_cells({"rmse": [[None]]}) == []
