"""Whether depth steps where it should: precision and recall of depth edges.

Hu, Ozay, Zhang, Okatani: Revisiting Single Image Depth Estimation, WACV 2019, section 4.2. A pixel is on an edge
where the Sobel magnitude √(Gx² + Gy²) of the depth map in metres, not normalised, exceeds a threshold. The
filter's weights on either side of a step add up to 4: the thresholds of 0.25, 0.5 and 1 are steps of 0.06, 0.13 and
0.25 m.
"""

from __future__ import annotations

import torch
from torch import Tensor

THRESHOLDS_M = (0.25, 0.5, 1.0)
"""Of the Sobel magnitude, in metres: four times the height of a step."""


class Boundaries:
    """Edges of the truth that the prediction has, and edges that only the prediction has, per image."""

    def __init__(self) -> None:
        self._counts: list[Tensor] = []

    def add(self, prediction_m: Tensor, target_m: Tensor) -> None:
        """Add (n, 1, H, W) metres; pixels count whose whole 3 x 3 neighbourhood has a truth (is not 0)."""
        target_m = target_m.flatten(0, 1)
        valid = least_of_neighbours(target_m) > 0
        true, predicted = sobel_squared(target_m), sobel_squared(prediction_m.flatten(0, 1))
        counts = []
        for threshold in THRESHOLDS_M:
            of_truth, found = (true > threshold**2) & valid, (predicted > threshold**2) & valid
            counts.append(torch.stack([edges.sum(dim=(1, 2)) for edges in (of_truth, found, of_truth & found)]))
        self._counts.append(torch.stack(counts).cpu())  # (thresholds, 3, n)

    def rows(self) -> list[dict[str, float]]:
        """threshold_m, precision, recall and f1, means over images as published, for each threshold with any edge.

        An image without edges in the prediction has a precision of 0, one without edges in the truth a recall of 0;
        one without edges in either does not count.
        """
        rows = []
        counts = torch.cat(self._counts, dim=-1).double()
        for threshold, (true, found, both) in zip(THRESHOLDS_M, counts, strict=True):
            some = true + found > 0
            if not some.any():
                continue
            precision, recall, f1 = (
                float((both / total.clamp(min=1))[some].mean()) for total in (found, true, (true + found) / 2)
            )
            rows.append({"threshold_m": threshold, "precision": precision, "recall": recall, "f1": f1})
        return rows


def sobel_squared(depth_m: Tensor) -> Tensor:
    """Gx² + Gy² of (n, H, W) maps, without the pixels at the edges: (n, H - 2, W - 2).

    By shifted sums: a convolution on a GPU would be rounded to TF32.
    """
    across = depth_m[:, :-2] + 2 * depth_m[:, 1:-1] + depth_m[:, 2:]
    down = depth_m[..., :-2] + 2 * depth_m[..., 1:-1] + depth_m[..., 2:]
    return (across[..., 2:] - across[..., :-2]).square() + (down[:, 2:] - down[:, :-2]).square()


def least_of_neighbours(depth_m: Tensor) -> Tensor:
    """The smallest of each 3 x 3 neighbourhood of (n, H, W) maps: (n, H - 2, W - 2)."""
    rows = torch.minimum(torch.minimum(depth_m[:, :-2], depth_m[:, 1:-1]), depth_m[:, 2:])
    return torch.minimum(torch.minimum(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])
