"""The named ways in which the literature scores NYU Depth v2, and the evaluation that follows them.

Figures compare only within a protocol and a way to average: one and the same depth map, given for each of 215
test frames, has an RMSE of 1.06 m per image and of 1.18 m pooled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import ErrorSums, Region, errors_from_sums, region_sums

Array = np.ndarray | Tensor
Predictor = Callable[[Tensor], Tensor]
"""(n, 3, H, W) float RGB in [0, 1] -> (n, 1, h, w) metres, at any h and w."""
Batch = tuple[Array, Array, Array]
"""rgb_u8 (n, H, W, 3), depth_m (n, H, W), raw_depth_m (n, H, W), as `NyuFile.read` gives them."""


@dataclass(frozen=True)
class Protocol:
    """Which pixels are scored, against which depth, after what treatment of the prediction."""

    name: str
    depth: Literal["filled", "raw"]
    """The in-painted depth, or the sensor's own with its holes."""
    rows: tuple[int, int]
    """First row, and the row after the last, of a frame of 480 x 640; other sizes in proportion."""
    columns: tuple[int, int]
    valid_m: tuple[float, float]
    """Pixels count whose truth lies strictly between, in metres."""
    clip_m: tuple[float, float]
    """Predictions are clipped to this range, in metres."""
    averaged: Literal["per image", "pooled"]
    """How its published figures average. Both are always computed; this says which one to compare."""
    flip_averaging: bool
    """Score the mean of the prediction and the mirrored prediction for the mirrored image."""

    def region(self, height: int, width: int) -> Region:
        """What it scores of a frame of that size."""
        return Region(
            rows=slice(*(round(row * height / 480) for row in self.rows)),
            columns=slice(*(round(column * width / 640) for column in self.columns)),
            between_m=self.valid_m,
            clip_m=self.clip_m,
        )


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="full",
            depth="filled",
            rows=(0, 480),
            columns=(0, 640),
            valid_m=(0.0, math.inf),
            clip_m=(1e-3, 10.0),
            averaged="per image",
            flip_averaging=False,
        ),
        # As in BTS. One row and one column short of Eigen's official mask, yet what everyone publishes.
        Protocol(
            name="eigen",
            depth="raw",
            rows=(45, 471),
            columns=(41, 601),
            valid_m=(1e-3, 10.0),
            clip_m=(1e-3, 10.0),
            averaged="per image",
            flip_averaging=False,
        ),
        # DenseDepth's own evaluator divides AbsRel by the prediction; here it is by the truth, as everywhere.
        Protocol(
            name="densedepth",
            depth="filled",
            rows=(20, 460),
            columns=(24, 616),
            valid_m=(0.0, math.inf),
            clip_m=(0.1, 10.0),
            averaged="pooled",
            flip_averaging=True,
        ),
    )
}


@dataclass(frozen=True)
class Scores:
    """The errors of one predictor under one protocol."""

    per_image: dict[str, np.ndarray]
    """(N,) float64 for each metric, in the order of the frames; NaN for a frame without a valid pixel."""
    mean: dict[str, float]
    """Means over the frames that have a valid pixel."""
    pooled: dict[str, float]
    """Errors over the valid pixels of all frames taken as one image."""
    sums: ErrorSums
    """(N,) that all of them were computed from."""

    def summary(self) -> dict[str, float]:
        """Per-image means under the plain names, pooled ones with `_pooled`: what metrics.json holds."""
        return self.mean | {f"{metric}_pooled": value for metric, value in self.pooled.items()}


class Views(NamedTuple):
    """What a predictor says of a batch, (n, 1, H, W) float32 metres at the frames' size, not clipped."""

    single: Tensor
    flip_averaged: Tensor
    """The mean of it and of the mirrored prediction for the mirrored image."""

    def of(self, protocol: Protocol) -> Tensor:
        """The one that the protocol scores."""
        return self.flip_averaged if protocol.flip_averaging else self.single


def view(predict: Predictor, rgb_u8: Array, first: int = 1, *, flip: bool = True) -> Views:
    """Predict (n, H, W, 3) frames, and mirrored ones too if `flip`; small predictions are enlarged bilinearly.

    Raises PipelineError that names a frame whose prediction is not finite, by its number if `first` is the batch's.
    """
    rgb = torch.as_tensor(rgb_u8).permute(0, 3, 1, 2).float() / 255
    single = _predicted(predict, rgb, first)
    return Views(single, (single + _predicted(predict, rgb.flip(-1), first).flip(-1)) / 2 if flip else single)


class Scorer:
    """Scores maps under several protocols, batch by batch.

    protocols: names out of `PROTOCOLS`; PipelineError if one is unknown.
    """

    def __init__(self, protocols: Sequence[str] = tuple(PROTOCOLS)) -> None:
        self.protocols = {name: _protocol(name) for name in protocols}
        self._sums: dict[str, list[ErrorSums]] = {name: [] for name in protocols}

    def add(self, predictions_m: Mapping[str, Tensor], depth_m: Tensor, raw_depth_m: Tensor) -> None:
        """Add a batch: by name of protocol what is to be scored, and the frames' depth, filled and as sensed.

        All are (n, 1, H, W) metres. Protocols that share prediction and truth are scored in one pass.
        """
        # A source without the sensor's own depth gives the same twice.
        depths_m = {"filled": depth_m, "raw": depth_m if torch.equal(depth_m, raw_depth_m) else raw_depth_m}
        passes: dict[tuple[int, int], list[str]] = {}
        for name, protocol in self.protocols.items():
            passes.setdefault((id(predictions_m[name]), id(depths_m[protocol.depth])), []).append(name)
        for names in passes.values():
            prediction_m, target_m = predictions_m[names[0]], depths_m[self.protocols[names[0]].depth]
            regions = [self.protocols[name].region(*target_m.shape[-2:]) for name in names]
            for name, sums in zip(names, region_sums(prediction_m, target_m, regions), strict=True):
                self._sums[name].append(ErrorSums(*(values.cpu() for values in sums)))

    def scores(self) -> dict[str, Scores]:
        """By name of protocol. Raises PipelineError if a protocol found not one valid pixel in all frames."""
        if not all(self._sums.values()):
            raise PipelineError("evaluation was given no frames")
        return {name: _scores(name, sums) for name, sums in self._sums.items()}


def batch_depths(depth_m: Array, raw_depth_m: Array, device: torch.device) -> tuple[Tensor, Tensor]:
    """(n, H, W) depth, filled and as sensed, as (n, 1, H, W) on the device."""
    filled, raw = (torch.as_tensor(maps)[:, None].to(device) for maps in (depth_m, raw_depth_m))
    return filled, raw


def _predicted(predict: Predictor, rgb: Tensor, first: int) -> Tensor:
    """(n, 1, H, W) metres at the frames' resolution, as float32, known to be finite."""
    prediction_m = predict(rgb).float()
    if prediction_m.ndim != 4 or prediction_m.shape[:2] != (len(rgb), 1):
        raise ValueError(f"predict must return ({len(rgb)}, 1, h, w), not {tuple(prediction_m.shape)}")
    finite = prediction_m.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        frame = first + int(finite.int().argmin())
        raise PipelineError(
            f"the prediction for evaluated frame {frame} (counted from 1) holds NaN or infinity; "
            "look at the weights and at the training loss"
        )
    if prediction_m.shape[-2:] == rgb.shape[-2:]:
        return prediction_m
    return functional.interpolate(prediction_m, rgb.shape[-2:], mode="bilinear", align_corners=False)


def evaluate(predict: Predictor, frames: Iterable[Batch], protocol: str) -> Scores:
    """Score `predict` on batches of frames under the protocol of that name. Errors: see `evaluate_all`."""
    return evaluate_all(predict, frames, (protocol,))[protocol]


def evaluate_all(
    predict: Predictor, frames: Iterable[Batch], protocols: Sequence[str] = tuple(PROTOCOLS)
) -> dict[str, Scores]:
    """Score `predict` under several protocols in one pass over the frames.

    Predictions are resized bilinearly to the frames' size and scored there.
    Raises PipelineError for an unknown protocol, no frames, a prediction that is not finite (naming the
    frame), or frames without one valid pixel under a protocol.
    """
    scorer = Scorer(protocols)
    flip = any(protocol.flip_averaging for protocol in scorer.protocols.values())
    first = 1
    with torch.no_grad():
        for rgb_u8, depth_m, raw_depth_m in frames:
            views = view(predict, rgb_u8, first, flip=flip)
            predictions_m = {name: views.of(protocol) for name, protocol in scorer.protocols.items()}
            scorer.add(predictions_m, *batch_depths(depth_m, raw_depth_m, views.single.device))
            first += len(rgb_u8)
    return scorer.scores()


def _protocol(name: str) -> Protocol:
    if name not in PROTOCOLS:
        raise PipelineError(f"unknown evaluation protocol '{name}'; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def _scores(name: str, frame_sums: list[ErrorSums]) -> Scores:
    sums = ErrorSums(*(torch.cat(values) for values in zip(*frame_sums, strict=True)))
    if not sums.pixels.any():
        raise PipelineError(
            f"protocol {name}: none of the {len(sums.pixels)} frames has a valid depth pixel inside the crop"
        )
    per_image = errors_from_sums(sums)
    pooled = errors_from_sums(sums.pooled())
    return Scores(
        per_image={metric: values.numpy() for metric, values in per_image.items()},
        mean={metric: float(values.nanmean()) for metric, values in per_image.items()},
        pooled={metric: float(values) for metric, values in pooled.items()},
        sums=sums,
    )
