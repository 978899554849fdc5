"""How good a network is on the frames that were set aside for that."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pipeline.data.batches import Batches
from pipeline.evaluation.metrics import depth_errors
from pipeline.model.losses import DepthLoss
from pipeline.training.device import predict
from pipeline.training.distributed import Ranks
from pipeline.training.graphs import Graphed

METRICS = ("rmse", "delta1", "delta2", "delta3")
PREDICTION_RANGE_M = (1e-3, 10.0)
"""Predictions are clipped as in the published protocols."""


class Validation:
    """Mean loss components by frame and mean per-image metrics over all frames, at training resolution."""

    def __init__(self, network: nn.Module, loss: DepthLoss, frames: Batches, ranks: Ranks, *, bf16: bool) -> None:
        self._network, self._loss, self._ranks, self._bf16 = network, loss, ranks, bf16
        self._frames = frames
        self._device = next(network.parameters()).device
        self._judge = Graphed(self._judge_one, self._device, enabled=ranks.world == 1)

    @torch.inference_mode()
    def __call__(self, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[dict[str, float], dict[str, float]]:
        """batches: an epoch of the frames. Waits for the device once."""
        self._network.eval()
        losses = torch.zeros(len(self._loss.terms), dtype=torch.float64, device=self._device)
        sums = torch.zeros(2 * len(METRICS), dtype=torch.float64, device=self._device)
        for number, (rgb, depth_m) in enumerate(batches):
            means, of_metrics = self._judge(rgb, depth_m).split([len(self._loss.terms), 2 * len(METRICS)])
            losses += means * (self._frames.size(number) / self._frames.frames)
            sums += of_metrics
        found = torch.cat([self._ranks.mean(losses), self._ranks.total(sums)]).tolist()
        totals, counts = found[len(self._loss.terms) : -len(METRICS)], found[-len(METRICS) :]
        metrics = [total / count if count else float("nan") for total, count in zip(totals, counts, strict=True)]
        return dict(zip(self._loss.terms, found, strict=False)), dict(zip(METRICS, metrics, strict=True))

    def _judge_one(self, rgb: Tensor, depth_m: Tensor) -> Tensor:
        """Losses of a batch; sums of the metrics over its frames, where they are numbers; and how many are."""
        prediction_m, valid = predict(self._network, rgb, self._bf16), depth_m > 0
        losses = self._loss(prediction_m, depth_m, valid)
        errors = depth_errors(prediction_m.clamp(*PREDICTION_RANGE_M), depth_m, valid)
        by_frame = torch.stack([errors[name] for name in METRICS]).double()
        return torch.cat(
            [
                torch.stack([losses[name] for name in self._loss.terms]).double(),
                by_frame.nansum(dim=1),
                (~by_frame.isnan()).sum(dim=1).double(),
            ]
        )
