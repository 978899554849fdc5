"""How the error grows with the distance."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.evaluation.metrics import ErrorSums, error_sums, errors_from_sums

BANDS_M = tuple((float(near), float(near + 1)) for near in range(10))
"""True depth from (exclusive) and to (inclusive), in metres."""


class DistanceBands:
    """Errors pooled over all pixels whose true depth lies in one band of a metre."""

    def __init__(self) -> None:
        self._sums: list[ErrorSums | None] = [None] * len(BANDS_M)

    def add(self, prediction_m: Tensor, target_m: Tensor) -> None:
        """Add (n, 1, H, W) predictions, positive, and the truth they belong to, 0 = missing."""
        for position, (near, far) in enumerate(BANDS_M):
            valid = (target_m > near) & (target_m <= far)
            sums = error_sums(prediction_m, target_m, valid).pooled()
            before = self._sums[position]
            self._sums[position] = (
                sums if before is None else ErrorSums(*(a + b for a, b in zip(before, sums, strict=True)))
            )

    def rows(self) -> list[dict[str, float]]:
        """One row for each band that has pixels: from_m, to_m, pixels, rmse, abs_rel, delta1."""
        rows = []
        for (near, far), sums in zip(BANDS_M, self._sums, strict=True):
            if sums is None or not torch.any(sums.pixels > 0):
                continue
            errors = errors_from_sums(sums)
            rows.append(
                {"from_m": near, "to_m": far, "pixels": int(sums.pixels)}
                | {name: float(errors[name]) for name in ("rmse", "abs_rel", "delta1")}
            )
        return rows
