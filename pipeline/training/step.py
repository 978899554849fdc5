"""One step of the optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pipeline.model.losses import DepthLoss
from pipeline.training.averaging import Average
from pipeline.training.device import predict
from pipeline.training.distributed import Ranks
from pipeline.training.graphs import Graphed
from pipeline.training.passes import GpuPasses


class Step:
    """Moves a network's weights by one batch, and their average with them. Nothing in it waits for the device."""

    def __init__(
        self,
        network: nn.Module,
        loss: DepthLoss,
        optimizer: torch.optim.Optimizer,
        average: Average | None,
        ranks: Ranks,
        *,
        bf16: bool,
        gradient_clip_norm: float,
    ) -> None:
        """network: as `Ranks.share` gives it."""
        self._network, self._loss, self._optimizer = network, loss, optimizer
        self._average, self._ranks = average, ranks
        self._bf16, self._clip_norm = bf16, gradient_clip_norm
        device = next(network.parameters()).device
        self._rate = torch.zeros((), device=device) if device.type == "cuda" else None
        alone = ranks.world == 1
        self._passes = GpuPasses(network, bf16) if alone and device.type == "cuda" else None
        self._make = Graphed(self._make_one, device, enabled=alone)

    def __call__(self, rgb: Tensor, depth_m: Tensor) -> Tensor:
        """(T,) the loss and its terms for the batch, in the order of `loss.terms`, still on the device."""
        if self._rate is not None:
            self._rate.fill_(self._optimizer.param_groups[0]["lr"])
        return self._make(rgb, depth_m)

    def _make_one(self, rgb: Tensor, depth_m: Tensor) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        if self._passes is None:
            values = self._loss(predict(self._network, rgb, self._bf16), depth_m, depth_m > 0)
            values["total"].backward()
        else:
            values = self._loss(self._passes.predict(rgb), depth_m, depth_m > 0)
            self._passes.backward(values["total"])
        if self._clip_norm > 0:
            nn.utils.clip_grad_norm_(self._network.parameters(), self._clip_norm)
        with self._rate_on_device():
            self._optimizer.step()
        if self._average is not None:
            self._average.update()
        return self._ranks.mean(torch.stack([values[name].detach() for name in self._loss.terms]))

    @contextlib.contextmanager
    def _rate_on_device(self) -> Iterator[None]:
        """For the optimizer the learning rate lies on the GPU, where it can change between replays of a graph.

        For the schedule and in saved states it stays a number, which means the same on every device.
        """
        if self._rate is None:
            yield
            return
        groups = self._optimizer.param_groups
        before = [(group["lr"], group["capturable"]) for group in groups]
        for group in groups:
            group["lr"], group["capturable"] = self._rate, torch.cuda.is_current_stream_capturing()
        try:
            yield
        finally:
            for group, (rate, capturable) in zip(groups, before, strict=True):
                group["lr"], group["capturable"] = rate, capturable
