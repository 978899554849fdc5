"""Figures that others published on NYU Depth v2, and reference predictors measured once on the same frames.

Rows compare only where both protocol and averaging agree: on the same predictions the evaluators of this
field differ by 15 to 30 %, and an RMSE averaged per image is 13 to 15 % lower than one pooled over pixels.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PublishedFigures:
    """One row of a result table; None where the source does not say."""

    model: str
    parameters: str | None
    """As published: a count such as "41.2 M", or the name of the backbone."""
    pretrained: str | None
    """What the weights were initialised from; "no" is from scratch."""
    trained_on: str
    """Frames of NYU Depth v2, "795" being the labelled training split."""
    rmse: float
    """Metres."""
    abs_rel: float | None = None
    delta1: float | None = None
    protocol: str | None = None
    """`full`, `eigen` or `densedepth`; other text is a protocol of the paper's own."""
    averaged: str | None = None
    """"per image" or "pooled" over all pixels."""
    data: str = "NYU, 654 frames"
    """The frames that were scored."""
    flips_averaged: bool | None = None
    """Whether the prediction is averaged with that of the mirrored image."""
    note: str | None = None
    """In what its evaluator departs from the formulas, as a sentence."""


PUBLISHED: tuple[PublishedFigures, ...] = (
    PublishedFigures(
        model="SavtaDepth, ResNet-34 U-Net",
        parameters="41.2 M",
        pretrained="ImageNet",
        trained_on="795",
        rmse=0.652,
        abs_rel=0.214,
        delta1=0.674,
        protocol="full",
        averaged="per image",
        flips_averaged=False,
    ),
    PublishedFigures(
        model="METER XXS",
        parameters="0.713 M",
        pretrained="no",
        trained_on="50 k",
        rmse=0.560,
        abs_rel=0.163,
        delta1=0.763,
        protocol="own, 48 × 64",
    ),
    PublishedFigures(
        model="FastDepth",
        parameters="3.96 M (1.34 M pruned)",
        pretrained="ImageNet",
        trained_on="48 k",
        rmse=0.604,
        abs_rel=0.165,
        delta1=0.771,
        protocol="own, 224 × 224",
    ),
    PublishedFigures(
        # Scores filled depth inside DenseDepth's crop, but means per image where DenseDepth pools.
        model="GuideDepth",
        parameters="5.8 M",
        pretrained="yes",
        trained_on="50 k",
        rmse=0.501,
        abs_rel=0.142,
        delta1=0.823,
        protocol="densedepth",
        averaged="per image",
        flips_averaged=False,
        note="Its evaluator scores image and mirror image apart and averages the errors, not the predictions.",
    ),
    PublishedFigures(
        model="Eigen 2014",
        parameters=None,
        pretrained="ImageNet",
        trained_on="120 k",
        rmse=0.907,
        delta1=0.611,
    ),
    PublishedFigures(
        model="DenseDepth",
        parameters="42.6 M",
        pretrained="ImageNet",
        trained_on="50 k",
        rmse=0.5485,
        abs_rel=0.123,
        delta1=0.847,
        protocol="densedepth",
        averaged="pooled",
        flips_averaged=True,
        note="Its evaluator swaps prediction and truth, so this AbsRel divides by the prediction.",
    ),
    PublishedFigures(
        model="BTS",
        parameters="47 M",
        pretrained="ImageNet",
        trained_on="24 k",
        rmse=0.392,
        abs_rel=0.110,
        delta1=0.885,
        protocol="eigen",
        averaged="per image",
        flips_averaged=False,
    ),
    PublishedFigures(
        model="Metric3D v2",
        parameters="ViT-L",
        pretrained="yes",
        trained_on="16 M",
        rmse=0.183,
        abs_rel=0.047,
        delta1=0.989,
        protocol="eigen",
        averaged="per image",
    ),
    PublishedFigures(
        model="NYU mean depth map, 654 test frames",
        parameters="0",
        pretrained=None,
        trained_on="795",
        rmse=1.094,
        abs_rel=0.403,
        delta1=0.429,
        protocol="full",
        averaged="per image",
        flips_averaged=False,
    ),
    PublishedFigures(
        model="NYU mean depth map, 654 test frames",
        parameters="0",
        pretrained=None,
        trained_on="795",
        rmse=1.201,
        protocol="full",
        averaged="pooled",
        flips_averaged=False,
    ),
    PublishedFigures(
        model="NYU mean depth map, 215 test frames",
        parameters="0",
        pretrained=None,
        trained_on="795",
        rmse=1.059,
        abs_rel=0.382,
        delta1=0.446,
        protocol="full",
        averaged="per image",
        data="NYU, 215 frames",
        flips_averaged=False,
    ),
    PublishedFigures(
        model="NYU mean depth map, 215 test frames",
        parameters="0",
        pretrained=None,
        trained_on="795",
        rmse=1.178,
        protocol="full",
        averaged="pooled",
        data="NYU, 215 frames",
        flips_averaged=False,
    ),
    PublishedFigures(
        model="One constant depth, 654 test frames",
        parameters="0",
        pretrained=None,
        trained_on="795",
        rmse=1.235,
        abs_rel=0.479,
        delta1=0.366,
        protocol="full",
        averaged="per image",
        flips_averaged=False,
    ),
)
