"""Where a prediction fails: by distance, by part of the image, and which way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BANDS_M = tuple((float(near), float(near + 1)) for near in range(10))
"""True depth from (exclusive) and to (inclusive), in metres."""
GRID = (3, 4)
"""Parts of the image: rows and columns."""
HISTOGRAM_M = (10.0, 0.1)
"""Signed errors from minus to plus the first, in steps of the second; what lies beyond counts in the last step."""


class Breakdown:
    """Errors pooled over the pixels of all frames that lie at one distance, or in one part of the image.

    Terms are float32, their sums float64. Truth of 0 is missing; predictions must be positive.
    """

    def __init__(self) -> None:
        self._by_band = torch.zeros(4, len(BANDS_M), dtype=torch.float64)
        self._by_part = torch.zeros(4, *GRID, dtype=torch.float64)

    def add(self, prediction_m: Tensor, target_m: Tensor) -> None:
        """Add (n, 1, H, W) predictions and the truth that they belong to, on any device."""
        terms = _terms(prediction_m, target_m)
        # Band 0 takes what is missing or beyond the bands, for the last is followed by as many as there are.
        band = target_m.clamp(0, len(BANDS_M) + 1).ceil().long().flatten()
        for row, term in enumerate(terms):
            sums = torch.bincount(band, term.flatten().double(), minlength=len(BANDS_M) + 2)
            self._by_band[row] += sums[1:-1].cpu()
        height, width = target_m.shape[-2:]
        rows, columns = (
            [round(size * part / parts) for part in range(parts + 1)]
            for size, parts in ((height, GRID[0]), (width, GRID[1]))
        )
        for i in range(GRID[0]):
            for j in range(GRID[1]):
                part = terms[..., rows[i] : rows[i + 1], columns[j] : columns[j + 1]]
                self._by_part[:, i, j] += part.sum(dim=(1, 2, 3, 4), dtype=torch.float64).cpu()

    def by_distance(self) -> list[dict[str, float]]:
        """One row for each band that has pixels: from_m, to_m, pixels, rmse, abs_rel, delta1."""
        return [
            {"from_m": near, "to_m": far, "pixels": int(sums[0])} | _errors(sums)
            for (near, far), sums in zip(BANDS_M, self._by_band.T, strict=True)
            if sums[0] > 0
        ]

    def by_region(self) -> dict[str, Any]:
        """`rows`, `columns`, and by part of the image pixels, rmse, abs_rel and delta1; None without pixels."""
        parts = [[self._by_part[:, i, j] for j in range(GRID[1])] for i in range(GRID[0])]
        found: dict[str, Any] = {"rows": GRID[0], "columns": GRID[1]}
        for name in ("rmse", "abs_rel", "delta1"):
            found[name] = [[_errors(sums)[name] if sums[0] > 0 else None for sums in row] for row in parts]
        return found | {"pixels": [[int(sums[0]) for sums in row] for row in parts]}


class ErrorHistogram:
    """How many pixels are how far off, p - g, and which way."""

    def __init__(self) -> None:
        self._limit_m, self._step_m = HISTOGRAM_M
        self._counts = torch.zeros(round(2 * self._limit_m / self._step_m), dtype=torch.int64)

    def add(self, prediction_m: Tensor, target_m: Tensor) -> None:
        """Add maps of one shape, metres; 0 = missing truth."""
        steps = len(self._counts)
        step = ((prediction_m - target_m + self._limit_m) / self._step_m).floor().clamp(0, steps - 1)
        found = torch.where(target_m > 0, step, steps).long().flatten()
        self._counts += torch.bincount(found, minlength=steps + 1)[:-1].cpu()

    def edges_m(self) -> list[float]:
        return [round(self._step_m * number - self._limit_m, 6) for number in range(len(self._counts) + 1)]

    def counts(self) -> list[int]:
        return [int(count) for count in self._counts]


def _terms(prediction_m: Tensor, target_m: Tensor) -> Tensor:
    """(4, n, 1, H, W): 1, (p - g)², |p - g|/g and whether max(p/g, g/p) < 1.25, 0 where there is no truth."""
    valid = target_m > 0
    truth = torch.where(valid, target_m, 1)
    error = torch.where(valid, prediction_m, 1) - truth
    relative = error / truth
    within = (relative < 0.25) & (relative > 1 / 1.25 - 1) & valid
    return torch.stack([valid.float(), error.square(), relative.abs(), within.float()])


def _errors(sums: Tensor) -> dict[str, float]:
    squared, relative, within = (sums[1:] / sums[0]).tolist()
    return {"rmse": squared**0.5, "abs_rel": relative, "delta1": within}
