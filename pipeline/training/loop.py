"""The training loop."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from pipeline.data.batches import Batches
from pipeline.errors import Diverged, ending_of
from pipeline.model.losses import DepthLoss
from pipeline.progress import progress_bar
from pipeline.training.averaging import Average
from pipeline.training.distributed import Ranks
from pipeline.training.graphs import Arrival
from pipeline.training.history import Epoch
from pipeline.training.recorder import Reached, Recorder
from pipeline.training.resume import frozen, random_states, set_random_states
from pipeline.training.step import Step
from pipeline.training.tracker import Tracker
from pipeline.training.validation import Validation

BUNCHES_COMING = 2
"""How many bunches of losses may be on their way from a GPU before they are waited for."""


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; params.yaml tells what each means."""

    epochs: int
    learning_rate: float
    schedule: str
    weight_decay: float
    gradient_clip_norm: float
    ema_decay: float
    early_stopping_epochs: int
    bf16: bool
    log_every_steps: int


def train(
    network: nn.Module,
    loss: DepthLoss,
    training: Batches,
    validation: Batches,
    options: TrainingOptions,
    tracker: Tracker,
    after_epoch: Callable[[Epoch, nn.Module, bool], None],
    recorder: Recorder | None = None,
    ranks: Ranks | None = None,
) -> list[Epoch]:
    """Train `network` in place and return the history.

    After each epoch `after_epoch` gets its figures, the network to keep (the averaged one under EMA) and whether
    it is the best so far by validation RMSE (always, without validation frames). A loss that is not finite
    raises `Diverged` naming epoch and step. `recorder` keeps the state, from which the training goes on bit by
    bit as if nothing had come between, and decides where a signal may end it. `ranks`: the processes that share
    the batches; each calls this.
    """
    return _Training(network, loss, training, validation, options, tracker, recorder, ranks or Ranks()).run(
        after_epoch
    )


class _Training:
    """A training and where it stands: `epoch` is under way, and `step` steps of it are done."""

    def __init__(
        self,
        network: nn.Module,
        loss: DepthLoss,
        training: Batches,
        validation: Batches,
        options: TrainingOptions,
        tracker: Tracker,
        recorder: Recorder | None,
        ranks: Ranks,
    ) -> None:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = network
        self._batches, self._validation_batches = training, validation
        self._options, self._tracker, self._recorder, self._ranks = options, tracker, recorder, ranks
        self._device = next(network.parameters()).device
        shared, bf16 = ranks.share(network), options.bf16
        self._optimizer = torch.optim.AdamW(
            network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        self._schedule = make_schedule(self._optimizer, options.schedule, options.epochs * len(training))
        self._average = None
        if options.ema_decay > 0:
            self._average = Average(network, options.ema_decay, bf16=bf16, graphed=ranks.world == 1)
        self._kept = self._average.network if self._average else network
        self._make_step = Step(
            shared,
            loss,
            self._optimizer,
            self._average,
            ranks,
            bf16=bf16,
            gradient_clip_norm=options.gradient_clip_norm,
        )
        self._validate = Validation(self._kept, loss, validation, ranks, bf16=bf16)
        self._losses = _StepLosses(loss.terms, len(training), options.log_every_steps, tracker)
        self._epoch, self._step = 1, 0
        self._seconds = 0.0
        """of training in this epoch"""
        self._learning_rate = options.learning_rate
        """that this epoch began with"""
        self._history: list[Epoch] = []
        self._best_rmse, self._best_epoch = math.inf, 0
        self._best: dict[str, Tensor] = {}
        self._last: dict[str, Tensor] = {}
        if recorder is not None:
            recorder.attach(self)

    def run(self, after_epoch: Callable[[Epoch, nn.Module, bool], None]) -> list[Epoch]:
        options, steps = self._options, len(self._batches)
        done = (self._epoch - 1) * steps + self._step
        hidden = self._ranks.rank > 0
        with progress_bar(options.epochs * steps, "train", "step", initial=done, hidden=hidden) as progress:
            if done and self._history:
                progress.set_postfix_str(_summary(self._history[-1], options.epochs))
            while self._epoch <= options.epochs and not self._is_stalled():
                self._train_epoch(progress.update)
                epoch, is_best = self._end_epoch()
                after_epoch(epoch, self._kept, is_best)
                progress.set_postfix_str(_summary(epoch, options.epochs))
        return self._history

    def _is_stalled(self) -> bool:
        return 0 < self._options.early_stopping_epochs <= self._epoch - 1 - self._best_epoch

    def _train_epoch(self, done: Callable[[], object]) -> None:
        if self._step == 0:
            self._losses.begin(self._epoch)
            self._learning_rate = self._optimizer.param_groups[0]["lr"]
        self._network.train()
        started = time.perf_counter() - self._seconds
        for rgb, depth_m in self._stoppable(self._batches.epoch(self._epoch, self._step)):
            self._losses.add(self._make_step(rgb, depth_m))
            self._schedule.step()
            self._step += 1
            self._seconds = time.perf_counter() - started
            done()
            if self._recorder is not None and self._recorder.due():
                self._recorder.record()
        self._losses.finish()
        self._seconds = time.perf_counter() - started

    def _end_epoch(self) -> tuple[Epoch, bool]:
        """Judge the weights of the epoch that has just been trained, and go on to the next."""
        number, done = self._epoch, self._epoch * len(self._batches)
        if self._average is not None:
            # From the batches of the epoch just made; the network's own statistics are not touched by it.
            self._average.estimate_statistics(self._stoppable(self._batches.epoch(number)))
        _check_finite(self._kept, number)
        epoch = Epoch(
            number,
            done,
            self._seconds,
            self._learning_rate,
            self._batches.frames / self._seconds,
            self._losses.means(),
        )
        if self._validation_batches.frames:
            epoch.val_loss, epoch.val = self._validate(self._stoppable(self._validation_batches.epoch()))
        rmse = epoch.val.get("rmse", math.inf)
        # The first epoch counts as best even if no validation frame has a valid pixel and its RMSE is NaN.
        is_best = rmse < self._best_rmse or not epoch.val or number == 1
        if self._recorder is not None:
            self._last = frozen(self._kept.state_dict())
        if is_best:
            self._best_rmse, self._best_epoch, self._best = rmse, number, self._last
        self._history.append(epoch)
        self._tracker.log_metrics(epoch.metrics(), step=epoch.step)
        self._epoch, self._step, self._seconds = number + 1, 0, 0.0
        return epoch, is_best

    def _stoppable(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches; between two of them a signal that was noted ends the training, on all ranks at once."""
        for batch in batches:
            yield batch
            if number := self._ranks.largest(self._recorder.signal if self._recorder else 0):
                raise ending_of(number)

    @property
    def reached(self) -> Reached | None:
        if not self._last:
            return None
        return Reached(list(self._history), self._best, self._best_epoch, self._last)

    def state_dict(self) -> dict[str, Any]:
        """All that decides how the training goes on; tensors are copies."""
        return {
            "epoch": self._epoch,
            "step": self._step,
            "seconds": self._seconds,
            "learning_rate": self._learning_rate,
            "network": frozen(self._network.state_dict()),
            "average": frozen(self._average.state_dict()) if self._average is not None else None,
            "optimizer": frozen(self._optimizer.state_dict()),
            "schedule": frozen(self._schedule.state_dict()),
            "losses": self._losses.state_dict(),
            "history": [asdict(epoch) for epoch in self._history],
            "best_rmse": self._best_rmse,
            "best_epoch": self._best_epoch,
            "best": self._best,
            "last": self._last,
            "random": random_states(self._device),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._epoch, self._step, self._seconds = state["epoch"], state["step"], state["seconds"]
        self._learning_rate = state["learning_rate"]
        self._network.load_state_dict(state["network"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._losses.load_state_dict(state["losses"], self._device)
        self._history = [Epoch(**fields) for fields in state["history"]]
        self._best_rmse, self._best_epoch = state["best_rmse"], state["best_epoch"]
        self._best, self._last = state["best"], state["last"]
        set_random_states(state["random"], self._device)


def _check_finite(network: nn.Module, epoch: int) -> None:
    """The last step of an epoch can break the weights after its loss was still finite; they must not be kept."""
    values = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    if not torch.stack(torch._foreach_norm(values, math.inf)).isfinite().all():
        raise Diverged(
            f"the weights became infinite or NaN in the last step of epoch {epoch}; "
            "lower train.learning_rate or set train.gradient_clip_norm; checkpoints of earlier epochs are kept"
        )


def make_schedule(optimizer: torch.optim.Optimizer, name: str, steps: int) -> LRScheduler:
    """The learning rate by step: `constant`, `cosine` (to 0) or `onecycle` (Smith 2018: up, then to nearly 0)."""
    if name == "onecycle":
        peak = optimizer.param_groups[0]["lr"]
        # Without the spare step PyTorch raises on the call after the last one. Adam's momentum stays: the fused
        # optimizer takes it as a number, which a CUDA graph cannot change.
        # PyTorch divides by the steps upwards less one, so that a training of three steps goes up for two.
        upwards = max(0.25, 2 / (steps + 1))
        return OneCycleLR(optimizer, max_lr=peak, total_steps=steps + 1, pct_start=upwards, cycle_momentum=False)
    factors: dict[str, Callable[[int], float]] = {
        "constant": lambda _: 1.0,
        "cosine": lambda step: (1 + math.cos(math.pi * min(step / steps, 1))) / 2,
    }
    return LambdaLR(optimizer, factors[name])


class _StepLosses:
    """Loss components of an epoch's steps, read from the device in bunches, so late that none waits."""

    def __init__(self, terms: Sequence[str], steps: int, log_every: int, tracker: Tracker) -> None:
        self._terms = terms
        self._steps = steps
        self._log_every = log_every
        self._tracker = tracker
        self._epoch = 1
        self._waiting: list[Tensor] = []
        self._coming: deque[Arrival] = deque()
        self._read: list[list[float]] = []

    def begin(self, epoch: int) -> None:
        self._epoch, self._read = epoch, []

    def add(self, values: Tensor) -> None:
        """values: (T,), in the order of the terms. Raises `Diverged` if one of a step is no number."""
        self._waiting.append(values)
        if len(self._waiting) == self._log_every:
            self._send_for_waiting()
        # By their number alone, so that all ranks see the same losses at the same step; a processor's are there.
        while len(self._coming) > (BUNCHES_COMING if values.is_cuda else 0):
            self._log(self._coming.popleft().rows())

    def finish(self) -> None:
        """Wait for those of all steps, at an epoch's end."""
        if self._waiting:
            self._send_for_waiting()
        self._receive()

    def means(self) -> dict[str, float]:
        """The epoch's, by step."""
        columns = zip(*self._read, strict=True)
        return {name: sum(column) / len(self._read) for name, column in zip(self._terms, columns, strict=True)}

    def _send_for_waiting(self) -> None:
        self._coming.append(Arrival(torch.stack(self._waiting)))
        self._waiting = []

    def _receive(self) -> None:
        while self._coming:
            self._log(self._coming.popleft().rows())

    def _log(self, rows: list[list[float]]) -> None:
        """The mean of some steps."""
        self._check(rows)
        self._read += rows
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        self._tracker.log_metrics(
            {f"train/loss/{name}": mean for name, mean in zip(self._terms, means, strict=True)},
            step=(self._epoch - 1) * self._steps + len(self._read),
        )

    def _check(self, rows: list[list[float]]) -> None:
        for number, row in enumerate(rows, len(self._read) + 1):
            if not math.isfinite(row[0]):
                raise Diverged(
                    f"the loss became {row[0]} in epoch {self._epoch}, step {number} of {self._steps}; "
                    "lower train.learning_rate or set train.gradient_clip_norm; earlier checkpoints are kept"
                )

    def state_dict(self) -> dict[str, Any]:
        self._receive()
        waiting = [values.tolist() for values in self._waiting]
        self._check(waiting)
        return {"epoch": self._epoch, "read": list(self._read), "waiting": waiting}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self._epoch, self._read = state["epoch"], list(state["read"])
        self._waiting = [torch.tensor(row, device=device) for row in state["waiting"]]


def _summary(epoch: Epoch, epochs: int) -> str:
    parts: dict[str, Any] = {
        "epoch": f"{epoch.epoch}/{epochs}",
        "loss": f"{epoch.train_loss['total']:.4f}",
    }
    parts |= {name: f"{value:.4f}" for name, value in epoch.train_loss.items() if name != "total"}
    if epoch.val:
        parts |= {"val rmse": f"{epoch.val['rmse']:.3f} m", "δ1": f"{epoch.val['delta1']:.3f}"}
    parts["frames/s"] = f"{epoch.frames_per_s:.0f}"
    return ", ".join(f"{name} {value}" for name, value in parts.items())
