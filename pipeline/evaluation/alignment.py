"""Scale told apart from shape: each prediction multiplied so that its median is that of the truth.

As Zhou et al. 2017 and Godard et al. 2019 score networks that know no scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.evaluation.metrics import Region


def median_ratios(prediction_m: Tensor, target_m: Tensor, region: Region) -> Tensor:
    """median(g) / median(p) of each image over the valid pixels of the region, (n,) float32; NaN without any.

    prediction_m, target_m: (n, 1, H, W) metres. Of an even number of pixels the lower of the two in the middle is
    the median. A predicted median is taken as at least the lowest depth that the region's clipping leaves.
    """
    g, p = (maps[..., region.rows, region.columns].flatten(1) for maps in (target_m, prediction_m))
    low, high = region.between_m
    valid = (g > low) & (g < high)
    of_truth, of_prediction = (torch.where(valid, maps, torch.nan).nanmedian(dim=1).values for maps in (g, p))
    return of_truth / of_prediction.clamp(min=region.clip_m[0])


def scaled(prediction_m: Tensor, ratios: Tensor) -> Tensor:
    """Each image of (n, 1, H, W) times its ratio; as it is where that is NaN."""
    return prediction_m * ratios.nan_to_num(1.0).view(-1, 1, 1, 1)
