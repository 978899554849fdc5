from __future__ import annotations

import pytest

from pipeline.evaluation.published import PUBLISHED, PublishedFigures

# The table of published figures as it stands in the papers and in our own reference measurements.
EXPECTED = {
    ("SavtaDepth, ResNet-34 U-Net", "full", "per image"): (0.652, 0.214, 0.674),
    ("METER XXS", "own, 48 × 64", None): (0.560, 0.163, 0.763),
    ("FastDepth", "own, 224 × 224", None): (0.604, 0.165, 0.771),
    ("GuideDepth", "densedepth", "per image"): (0.501, 0.142, 0.823),
    ("Eigen 2014", None, None): (0.907, None, 0.611),
    ("DenseDepth", "densedepth", "pooled"): (0.5485, 0.123, 0.847),
    ("BTS", "eigen", "per image"): (0.392, 0.110, 0.885),
    ("Metric3D v2", "eigen", "per image"): (0.183, 0.047, 0.989),
    ("NYU mean depth map, 654 test frames", "full", "per image"): (1.094, 0.403, 0.429),
    ("NYU mean depth map, 654 test frames", "full", "pooled"): (1.201, None, None),
    ("NYU mean depth map, 215 test frames", "full", "per image"): (1.059, 0.382, 0.446),
    ("NYU mean depth map, 215 test frames", "full", "pooled"): (1.178, None, None),
    ("One constant depth, 654 test frames", "full", "per image"): (1.235, 0.479, 0.366),
}
EXPECTED_ORIGIN = {
    "SavtaDepth, ResNet-34 U-Net": ("41.2 M", "ImageNet", "795"),
    "METER XXS": ("0.713 M", "no", "50 k"),
    "FastDepth": ("3.96 M (1.34 M pruned)", "ImageNet", "48 k"),
    "GuideDepth": ("5.8 M", "yes", "50 k"),
    "Eigen 2014": (None, "ImageNet", "120 k"),
    "DenseDepth": ("42.6 M", "ImageNet", "50 k"),
    "BTS": ("47 M", "ImageNet", "24 k"),
    "Metric3D v2": ("ViT-L", "yes", "16 M"),
    "NYU mean depth map, 654 test frames": ("0", None, "795"),
    "NYU mean depth map, 215 test frames": ("0", None, "795"),
    "One constant depth, 654 test frames": ("0", None, "795"),
}


def test_every_published_score_stands_under_its_protocol_and_averaging() -> None:
    assert {
        (row.model, row.protocol, row.averaged): (row.rmse, row.abs_rel, row.delta1) for row in PUBLISHED
    } == EXPECTED
    assert len(PUBLISHED) == len(EXPECTED)


def test_every_model_says_its_size_and_training_data() -> None:
    assert {row.model: (row.parameters, row.pretrained, row.trained_on) for row in PUBLISHED} == EXPECTED_ORIGIN


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.model} {row.averaged}")
def test_averaging_is_named_wherever_the_protocol_is_one_of_ours(row: PublishedFigures) -> None:
    assert (row.averaged in ("per image", "pooled")) == (row.protocol in ("full", "eigen", "densedepth"))
