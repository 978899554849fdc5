"""What a network must beat: predictors that never look at the image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from pipeline.errors import PipelineError


class MeanDepths(NamedTuple):
    map_m: Tensor
    """(1, 1, H, W) float32: mean of each pixel over the frames that measured it, without holes"""
    everywhere_m: Tensor
    """(1, 1, 1, 1) float32: mean of all measured pixels"""


def mean_depths(depth_mm: Iterable[Tensor]) -> MeanDepths:
    """The mean depth of the frames, as a map and as one number.

    depth_mm: batches of (n, 1, H, W) int16 millimetres, 0 = missing. A pixel that no frame measured, such as
        one under the white frame around NYU's images, takes the mean of the nearest one that some did.
    Raises PipelineError if there is no measured pixel at all.
    """
    total_mm: Tensor | float = 0.0
    count: Tensor | int = 0
    for batch_mm in depth_mm:
        total_mm = total_mm + batch_mm.sum(dim=0, dtype=torch.float64)
        count = count + (batch_mm > 0).sum(dim=0)
    if not isinstance(total_mm, Tensor) or not isinstance(count, Tensor) or not count.any():
        raise PipelineError("the mean depth map needs training frames with measured depth; there are none")
    mean_m = (total_mm / count / 1000).float()[0]
    nearest = distance_transform_edt((count[0] == 0).numpy(), return_distances=False, return_indices=True)
    rows, columns = torch.from_numpy(nearest).long()
    everywhere_m = (total_mm.sum() / count.sum() / 1000).float()
    return MeanDepths(mean_m[rows, columns][None, None], everywhere_m.view(1, 1, 1, 1))
