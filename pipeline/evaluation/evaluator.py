"""One pass over the test frames: scores under every protocol, error by distance, and examples to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.data.frames import Frames, FrameSource, read_slabs
from pipeline.data.pixels import resize_depth, resize_rgb, to_millimetres, to_u8, to_unit_rgb
from pipeline.evaluation.distance import DistanceBands
from pipeline.evaluation.protocols import PROTOCOLS, Predictor, Scorer, Scores
from pipeline.files import written_whole
from pipeline.progress import progress_bar

EXAMPLE_SIZE = (240, 320)
"""Examples are kept at this height and width: enough to look at, 9 of them take 6 MB."""
RANKING = ("full", "rmse")
"""The protocol and metric by which frames are best, median or worst."""


@dataclass(frozen=True)
class Evaluation:
    network: dict[str, Scores]
    baseline: dict[str, Scores]
    by_distance: list[dict[str, float]]
    indices: list[int]
    """of the frames in the source, in the order of the scores"""


def evaluate_on_source(
    predict: Predictor, baseline: Predictor, source: FrameSource, indices: Sequence[int], batch_size: int
) -> Evaluation:
    """Score `predict` and `baseline` on the frames `indices` of the source, at the source's resolution."""
    network_scorer, baseline_scorer = Scorer(predict), Scorer(baseline)
    distances = DistanceBands()
    clip_m = PROTOCOLS[RANKING[0]].clip_m
    seen: list[int] = []
    with progress_bar(len(indices), "evaluate", "frame") as progress:
        for batch_indices, frames in _batches(source, indices, batch_size):
            prediction_m = network_scorer.add(*frames)
            baseline_scorer.add(*frames)
            distances.add(prediction_m.clamp(*clip_m), torch.from_numpy(frames.depth_m)[:, None])
            seen += batch_indices
            progress.update(len(batch_indices))
    return Evaluation(network_scorer.scores(), baseline_scorer.scores(), distances.rows(), seen)


def per_image_table(evaluation: Evaluation, source: FrameSource) -> pd.DataFrame:
    """One row a test frame: frame, scene, scene_type, then every metric as `{protocol}_{metric}`."""
    columns: dict[str, Any] = {
        "frame": [source.names[index] for index in evaluation.indices],
        "scene": [source.scenes[index] for index in evaluation.indices],
        "scene_type": [source.scene_types[index] for index in evaluation.indices],
    }
    for protocol, scores in evaluation.network.items():
        for metric, values in scores.per_image.items():
            columns[f"{protocol}_{metric}"] = values
    return pd.DataFrame(columns)


def choose_examples(errors: np.ndarray, each: int) -> list[tuple[int, str]]:
    """Positions and ranks of at most `each` best, median and worst values; no position twice."""
    order = [int(position) for position in np.argsort(errors, kind="stable") if np.isfinite(errors[position])]
    best = order[:each]
    worst = order[max(len(order) - each, len(best)) :]
    between = order[len(best) : len(order) - len(worst)]
    start = max(0, (len(between) - each) // 2)
    median = between[start : start + each]
    return [
        (position, rank)
        for rank, positions in (("best", best), ("median", median), ("worst", worst))
        for position in positions
    ]


def example_tensors(predict: Predictor, source: FrameSource, indices: Sequence[int]) -> dict[str, Tensor]:
    """RGB, true and predicted depth of some frames at `EXAMPLE_SIZE`, in the order of `indices`."""
    made: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    for batch_indices, frames in _batches(source, indices, batch_size=1):
        rgb = to_unit_rgb(torch.from_numpy(frames.rgb_u8).permute(0, 3, 1, 2))
        prediction_m = interpolate(predict(rgb), EXAMPLE_SIZE, mode="bilinear", align_corners=False)
        made[batch_indices[0]] = (
            to_u8(resize_rgb(rgb, EXAMPLE_SIZE)),
            to_millimetres(resize_depth(torch.from_numpy(frames.depth_m)[:, None], EXAMPLE_SIZE)),
            to_millimetres(prediction_m),
        )
    columns = zip(*(made[index] for index in indices), strict=True)
    joined = (torch.cat(column).contiguous() for column in columns)
    return dict(zip(("rgb_u8", "depth_mm", "prediction_mm"), joined, strict=True))


def save_examples(path: Path, tensors: dict[str, Tensor], frames_json: str) -> None:
    """Write the examples with the description of their frames as metadata."""
    with written_whole(path) as partial:
        save_file(tensors, partial, {"frames": frames_json})


def _batches(source: FrameSource, indices: Sequence[int], batch_size: int) -> Iterator[tuple[list[int], Frames]]:
    for slab_indices, frames in read_slabs(source, indices):
        for start in range(0, len(slab_indices), batch_size):
            batch = slice(start, start + batch_size)
            yield slab_indices[batch], Frames(*(array[batch] for array in frames))
