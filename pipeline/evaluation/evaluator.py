"""One pass over the test frames: scores under every protocol, where the error lies, and examples to look at."""

from __future__ import annotations

import hashlib
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
from pipeline.evaluation.alignment import median_ratios, scaled
from pipeline.evaluation.baselines import MeanDepths
from pipeline.evaluation.boundaries import Boundaries
from pipeline.evaluation.breakdown import Breakdown, ErrorHistogram
from pipeline.evaluation.protocols import PROTOCOLS, Predictor, Scorer, Scores, Views, batch_depths, view
from pipeline.files import written_whole
from pipeline.progress import progress_bar

EXAMPLE_SIZE = (240, 320)
"""Examples are kept at this height and width: enough to look at, 12 of them take 7 MB."""
RANKING = ("full", "rmse")
"""The protocol and metric by which frames are best, median or worst."""


@dataclass(frozen=True)
class Evaluation:
    """Scores by name of protocol, each of the view (single or flips averaged) that the protocol asks for."""

    network: dict[str, Scores]
    single: dict[str, Scores]
    """of the network without flip averaging, whatever the protocol asks for"""
    flip_averaged: dict[str, Scores]
    aligned: dict[str, Scores]
    """of the network, each prediction scaled to the median of the truth first"""
    median_ratios: dict[str, np.ndarray]
    """what it was scaled by, (N,); NaN for a frame without a valid pixel"""
    baseline: dict[str, Scores]
    """of the mean depth map"""
    constant: dict[str, Scores]
    """of the mean training depth everywhere"""
    breakdown: Breakdown
    boundaries: Boundaries
    histogram: ErrorHistogram
    baseline_histogram: ErrorHistogram
    indices: list[int]
    """of the frames in the source, in the order of the scores"""
    frames_sha256: str
    """of names, pixels and both true depths of these frames: equal only if two models were scored on the same"""


@torch.no_grad()
def evaluate_on_source(
    predict: Predictor, means: MeanDepths, source: FrameSource, indices: Sequence[int], batch_size: int
) -> Evaluation:
    """Score `predict` and the baselines on the frames `indices` of the source, at the source's resolution.

    means: of the training frames, which the baselines give for every frame.
    """
    scorers = {name: Scorer() for name in ("single", "flip_averaged", "aligned", "baseline", "constant")}
    ratios: dict[str, list[Tensor]] = {name: [] for name in PROTOCOLS}
    breakdown, boundaries = Breakdown(), Boundaries()
    histogram, baseline_histogram = ErrorHistogram(), ErrorHistogram()
    baselines = {
        name: _without_looking(depth_m, source.size)
        for name, depth_m in (("baseline", means.map_m), ("constant", means.everywhere_m))
    }
    protocol = PROTOCOLS[RANKING[0]]
    seen: list[int] = []
    content = hashlib.sha256()
    with progress_bar(len(indices), "evaluate", "frame") as progress:
        for batch_indices, frames in _batches(source, indices, batch_size):
            for place, index in enumerate(batch_indices):
                content.update(source.names[index].encode())
                for part in (array[place] for array in frames):
                    content.update(part.tobytes())
            views = view(predict, frames.rgb_u8, len(seen) + 1)
            depths_m = batch_depths(frames.depth_m, frames.raw_depth_m, views.single.device)
            truths_m = dict(zip(("filled", "raw"), depths_m, strict=True))
            aligned = {}
            for name, one in PROTOCOLS.items():
                found = median_ratios(views.of(one), truths_m[one.depth], one.region(*source.size))
                ratios[name].append(found)
                aligned[name] = scaled(views.of(one), found)
            scorers["single"].add(dict.fromkeys(PROTOCOLS, views.single), *depths_m)
            scorers["flip_averaged"].add(dict.fromkeys(PROTOCOLS, views.flip_averaged), *depths_m)
            scorers["aligned"].add(aligned, *depths_m)
            for name, of_all in baselines.items():
                ready = Views(*(maps.to(depths_m[0].device).expand_as(depths_m[0]) for maps in of_all))
                scorers[name].add({name: ready.of(one) for name, one in PROTOCOLS.items()}, *depths_m)
            prediction_m = views.of(protocol).clamp(*protocol.clip_m)
            breakdown.add(prediction_m, depths_m[0])
            boundaries.add(prediction_m, depths_m[0])
            histogram.add(prediction_m, depths_m[0])
            baseline_histogram.add(baselines["baseline"].single.to(depths_m[0].device), depths_m[0])
            seen += batch_indices
            progress.update(len(batch_indices))
    scores = {name: scorer.scores() for name, scorer in scorers.items()}
    return Evaluation(
        network={
            name: scores["flip_averaged" if one.flip_averaging else "single"][name]
            for name, one in PROTOCOLS.items()
        },
        median_ratios={name: torch.cat(found).double().cpu().numpy() for name, found in ratios.items()},
        breakdown=breakdown,
        boundaries=boundaries,
        histogram=histogram,
        baseline_histogram=baseline_histogram,
        indices=seen,
        frames_sha256=content.hexdigest(),
        **scores,
    )


def _without_looking(depth_m: Tensor, size: tuple[int, int]) -> Views:
    """A map of (1, 1, h, w) that is given for every frame, at their size."""
    single = interpolate(depth_m, size, mode="bilinear", align_corners=False)
    return Views(single, (single + single.flip(-1)) / 2)


def per_image_table(evaluation: Evaluation, source: FrameSource) -> pd.DataFrame:
    """One row a test frame: frame, scene, scene_type, every metric as `{protocol}_{metric}`, and some to compare.

    That is `{protocol}_aligned_delta1`, the mean map's `mean_map_full_rmse`, and `median_ratio` under `full`.
    """
    columns: dict[str, Any] = {
        "frame": [source.names[index] for index in evaluation.indices],
        "scene": [source.scenes[index] for index in evaluation.indices],
        "scene_type": [source.scene_types[index] for index in evaluation.indices],
    }
    for protocol, scores in evaluation.network.items():
        for metric, values in scores.per_image.items():
            columns[f"{protocol}_{metric}"] = values
    for protocol, scores in evaluation.aligned.items():
        columns[f"{protocol}_aligned_delta1"] = scores.per_image["delta1"]
    columns["mean_map_full_rmse"] = evaluation.baseline["full"].per_image["rmse"]
    columns["median_ratio"] = evaluation.median_ratios["full"]
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


def fixed_examples(names: Sequence[str], count: int) -> list[int]:
    """Positions of at most `count` frames that only their names decide, not the errors of a model.

    Two models that were scored on the same frames thus keep some of the same, of which each shows its prediction.
    """
    order = sorted(range(len(names)), key=lambda position: hashlib.sha256(names[position].encode()).digest())
    return order[:count]


def describe_examples(
    evaluation: Evaluation, per_image: pd.DataFrame, each: int
) -> tuple[list[dict[str, Any]], list[int]]:
    """What is told of the best, median, worst and fixed frames, and their indices in the source.

    per_image: the table of `per_image_table`. A fixed frame that is best, median or worst is called that.
    """
    chosen = choose_examples(per_image["_".join(RANKING)].to_numpy(), each)
    ranked = {position for position, _ in chosen}
    fixed = fixed_examples(per_image["frame"].astype(str).to_list(), each)
    chosen += [(position, "fixed") for position in fixed if position not in ranked]
    rows = per_image.to_dict("records")
    described = [
        {name: rows[position][name] for name in ("frame", "scene", "scene_type")}
        | {"rank": rank, "rmse": rows[position]["full_rmse"]}
        | {name: rows[position][name] for name in ("mean_map_full_rmse", "median_ratio")}
        for position, rank in chosen
    ]
    return described, [evaluation.indices[position] for position, _ in chosen]


def example_tensors(predict: Predictor, source: FrameSource, indices: Sequence[int]) -> dict[str, Tensor]:
    """RGB, true and predicted depth of some frames at `EXAMPLE_SIZE`, in the order of `indices`."""
    made: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    for batch_indices, frames in _batches(source, indices, batch_size=1):
        rgb = to_unit_rgb(torch.from_numpy(frames.rgb_u8).permute(0, 3, 1, 2))
        prediction_m = interpolate(predict(rgb).cpu(), EXAMPLE_SIZE, mode="bilinear", align_corners=False)
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
