"""The named ways in which the literature scores NYU Depth v2, and the evaluation that follows them.

Figures compare only within a protocol and a way to average: one and the same depth map, given for each of 215
test frames, has an RMSE of 1.06 m per image and of 1.18 m pooled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import ErrorSums, error_sums, errors_from_sums

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

    def summary(self) -> dict[str, float]:
        """Per-image means under the plain names, pooled ones with `_pooled`: what metrics.json holds."""
        return self.mean | {f"{metric}_pooled": value for metric, value in self.pooled.items()}


class Scorer:
    """Scores one predictor under several protocols in one pass over the frames.

    predict: sees frames at their own resolution; it is called once a batch, and once more with the mirrored
        batch where a protocol averages flips.
    protocols: names out of `PROTOCOLS`; PipelineError if one is unknown.
    """

    def __init__(self, predict: Predictor, protocols: Sequence[str] = tuple(PROTOCOLS)) -> None:
        self._predict = predict
        self._protocols = {name: _protocol(name) for name in protocols}
        self._sums: dict[str, list[ErrorSums]] = {name: [] for name in protocols}
        self._frames = 0

    @torch.no_grad()
    def add(self, rgb_u8: Array, depth_m: Array, raw_depth_m: Array) -> Tensor:
        """Predict and score a batch; return its unmirrored, unclipped prediction, (n, 1, H, W) metres.

        Raises PipelineError that names the frame whose prediction is not finite.
        """
        rgb = torch.as_tensor(rgb_u8).permute(0, 3, 1, 2).float() / 255
        prediction_m = self._predicted(rgb)
        flip_averaged_m = (
            (prediction_m + self._predicted(rgb.flip(-1)).flip(-1)) / 2
            if any(protocol.flip_averaging for protocol in self._protocols.values())
            else prediction_m
        )
        depths_m = {
            "filled": torch.as_tensor(depth_m)[:, None].to(prediction_m.device),
            "raw": torch.as_tensor(raw_depth_m)[:, None].to(prediction_m.device),
        }
        for name, protocol in self._protocols.items():
            scored_m = flip_averaged_m if protocol.flip_averaging else prediction_m
            self._sums[name] += _sums(scored_m, depths_m[protocol.depth], protocol)
        self._frames += len(rgb)
        return prediction_m

    def scores(self) -> dict[str, Scores]:
        """By name of protocol. Raises PipelineError if a protocol found not one valid pixel in all frames."""
        if not self._frames:
            raise PipelineError("evaluation was given no frames")
        return {name: _scores(name, sums) for name, sums in self._sums.items()}

    def _predicted(self, rgb: Tensor) -> Tensor:
        """(n, 1, H, W) metres at the frames' resolution, as float32, known to be finite."""
        prediction_m = self._predict(rgb).float()
        height, width = rgb.shape[-2:]
        if prediction_m.ndim != 4 or prediction_m.shape[:2] != (len(rgb), 1):
            raise ValueError(f"predict must return ({len(rgb)}, 1, h, w), not {tuple(prediction_m.shape)}")
        finite = prediction_m.isfinite().flatten(1).all(dim=1)
        if not finite.all():
            frame = self._frames + int(finite.int().argmin()) + 1
            raise PipelineError(
                f"the prediction for evaluated frame {frame} (counted from 1) holds NaN or infinity; "
                "look at the weights and at the training loss"
            )
        if prediction_m.shape[-2:] == (height, width):
            return prediction_m
        return functional.interpolate(prediction_m, (height, width), mode="bilinear", align_corners=False)


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
    scorer = Scorer(predict, protocols)
    for rgb_u8, depth_m, raw_depth_m in frames:
        scorer.add(rgb_u8, depth_m, raw_depth_m)
    return scorer.scores()


def _protocol(name: str) -> Protocol:
    if name not in PROTOCOLS:
        raise PipelineError(f"unknown evaluation protocol '{name}'; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def _sums(prediction_m: Tensor, target_m: Tensor, protocol: Protocol) -> list[ErrorSums]:
    """One (1,) sum a frame of (n, 1, H, W) metres, brought to the CPU."""
    height, width = target_m.shape[-2:]
    rows = slice(*(round(row * height / 480) for row in protocol.rows))
    columns = slice(*(round(column * width / 640) for column in protocol.columns))
    prediction_m = prediction_m[..., rows, columns].clamp(*protocol.clip_m)
    target_m = target_m[..., rows, columns]
    low, high = protocol.valid_m
    valid = (target_m > low) & (target_m < high)
    # Frame by frame: in float64 a slab of 64 frames would take 2 GB of intermediates.
    return [
        ErrorSums(*(values.cpu() for values in error_sums(*maps)))
        for maps in zip(prediction_m.split(1), target_m.split(1), valid.split(1), strict=True)
    ]


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
    )
