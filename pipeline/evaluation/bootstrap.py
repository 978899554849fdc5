"""How far a figure would move with other test frames: bootstrap over images (Efron 1979), percentile intervals.

Images are drawn with replacement, as many as there are; the same draws serve every metric, and both sides of a
difference, so that frames which are hard for both cancel out. Frames of one scene are alike, and drawn one by one
they give intervals that are too narrow (the 654 of NYU Depth v2: by a quarter), so what says that one model is
better draws whole groups of them (Davison and Hinkley 1997, section 3.8).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import ErrorSums, errors_from_sums

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 0
FEWEST_GROUPS = 6
"""With fewer, two equal models agree in sign over all of them more often than 1 time in 20 (2 x 0.5^5 = 0.06 for
five groups, 0.03 for six), and the interval would leave out 0: images are drawn then."""
DRAWN_AT_ONCE = 1000
"""Resamples held in memory at a time: of 654 images 5 MB."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """Mean of one model's figure minus the other's over the images that both were scored on."""

    mean: float
    low: float
    high: float
    images: int
    groups: int | None = None
    """how many there were to draw whole; None where images were drawn"""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def resampled_errors(
    sums: ErrorSums, resamples: int = RESAMPLES, seed: int = SEED, groups: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Each metric's mean over images, and pooled as `{metric}_pooled`, in each resample: (resamples,) float64.

    sums: of N images under one protocol. groups: (N,), of which group each is; with `FEWEST_GROUPS` or more,
    whole groups are drawn. Images without a valid pixel count in no mean; NaN where a resample holds no other.
    """
    columns = np.stack([values.numpy() for values in sums], axis=1)  # (N, sums)
    per_image = {name: values.numpy() for name, values in errors_from_sums(sums).items()}
    values = np.stack(list(per_image.values()), axis=1)
    scored = ~np.isnan(values)
    found: dict[str, list[np.ndarray]] = {}
    for counts in _counts(len(columns), resamples, seed, groups):
        with np.errstate(invalid="ignore"):
            means = counts @ np.where(scored, values, 0) / (counts @ scored)
        pooled = errors_from_sums(ErrorSums(*torch.from_numpy((counts @ columns).T.copy())))
        for name, mean in zip(per_image, means.T, strict=True):
            found.setdefault(name, []).append(mean)
        for name, error in pooled.items():
            found.setdefault(f"{name}_pooled", []).append(error.numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def intervals(errors: Mapping[str, np.ndarray], level: float = LEVEL) -> dict[str, Interval]:
    """Of each metric of `resampled_errors`."""
    return {name: percentile_interval(values, level) for name, values in errors.items()}


def intervals_of_difference(
    errors: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray], level: float = LEVEL
) -> dict[str, Interval]:
    """Of each metric minus the others', both resampled over the same images with the same seed."""
    return intervals({name: values - others[name] for name, values in errors.items()}, level)


def percentile_interval(values: np.ndarray, level: float = LEVEL) -> Interval:
    """The middle `level` of the resampled values; those that are NaN are left out."""
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(
    values: np.ndarray,
    others: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = SEED,
) -> Difference:
    """Of two models' (N,) figures for the same images in the same order, without those where either is NaN.

    groups: (N,), of which group each image is; with `FEWEST_GROUPS` or more, whole groups are drawn.

    Raises ValueError if the shapes differ or nothing is left.
    """
    if values.shape != others.shape or values.ndim != 1:
        raise ValueError(f"a pair needs the figures of the same images, not {values.shape} and {others.shape}")
    scored = ~np.isnan(values) & ~np.isnan(others)
    differences = (values - others)[scored]
    if not len(differences):
        raise ValueError("no image was scored by both")
    groups = None if groups is None else drawn_whole(groups[scored])
    means = np.concatenate(
        [counts @ differences / counts.sum(axis=1) for counts in _counts(len(differences), resamples, seed, groups)]
    )
    low, high = percentile_interval(means, level)
    drawn = None if groups is None else len(np.unique(groups))
    return Difference(float(differences.mean()), low, high, len(differences), drawn)


def paired_difference_of_tables(
    table: pd.DataFrame, other: pd.DataFrame, column: str, *, level: float = LEVEL
) -> Difference:
    """Of a column of two `per_image.csv`, such as `full_rmse`: the first table's minus the other's.

    Whole scenes are drawn where a table tells them.

    Raises PipelineError if a table lacks the column, or the tables have not the same frames.
    """
    for one in (table, other):
        if missing := {"frame", column} - set(one.columns):
            raise PipelineError(f"per_image.csv has no column '{min(missing)}'; evaluate the experiment again")
    ours, theirs = (one.assign(frame=one["frame"].astype(str)).set_index("frame")[column] for one in (table, other))
    if set(ours.index) != set(theirs.index):
        alone = sorted(set(ours.index) ^ set(theirs.index))
        raise PipelineError(
            f"two models compare only on the same test frames; {len(alone)} are in one per_image.csv only, "
            f"the first is {alone[0]}"
        )
    told = next((one for one in (table, other) if "scene" in one), None)
    scenes = None if told is None else told.assign(frame=told["frame"].astype(str)).set_index("frame")["scene"]
    return paired_difference(
        ours.to_numpy(float),
        theirs.loc[ours.index].to_numpy(float),
        groups=None if scenes is None else scenes.loc[ours.index].astype(str).to_numpy(),
        level=level,
    )


def drawn_whole(groups: np.ndarray) -> np.ndarray | None:
    """The groups where there are enough to draw them whole, else None: images are drawn."""
    return groups if len(np.unique(groups)) >= FEWEST_GROUPS else None


def _counts(images: int, resamples: int, seed: int, groups: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """(some resamples, images): how often each image was drawn. The draws are those of scipy.stats.bootstrap."""
    random = np.random.default_rng(seed)
    groups = None if groups is None else drawn_whole(groups)
    group_of_image = np.arange(images) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(group_of_image.max()) + 1
    for start in range(0, resamples, DRAWN_AT_ONCE):
        rows = min(DRAWN_AT_ONCE, resamples - start)
        drawn = random.integers(0, units, (rows, units)) + units * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(float)
        yield counts if groups is None else counts[:, group_of_image]
