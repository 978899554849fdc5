"""Several processes that make one training, each with its own device and its part of every batch.

Gradients, batch statistics and losses are those of the whole batch, so that the number of processes changes how
fast the weights come and not which.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import Diverged, PipelineError, Terminated

ERRORS = "DEPTH_ERRORS_OF_RANKS"
"""Variable that names a folder in which a rank leaves what went wrong in it, for the first to tell."""


class Ranks:
    """The processes of a training as one of them sees them. Without arguments there is one."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank = rank
        self.world = world

    @property
    def local_rank(self) -> int | None:
        """The number among those on this machine; None for a process that is alone."""
        return int(os.environ["LOCAL_RANK"]) if self.world > 1 else None

    def total(self, values: Tensor) -> Tensor:
        """The sum over the ranks, the same on each."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        return self.total(values) / self.world if self.world > 1 else values

    def largest(self, number: int) -> int:
        """The greatest of the ranks' numbers. It goes by the processors, so that no GPU is waited for."""
        if self.world == 1:
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def from_first(self, value: Any) -> Any:
        """What the first rank has, on all of them."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def share(self, network: nn.Module) -> nn.Module:
        """The network to train with: its gradients and batch statistics are of all ranks.

        `network` stays the place of the weights; its normalisation layers are replaced by such that ask the others.
        """
        if self.world == 1:
            return network
        device = next(network.parameters()).device
        if device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(network)
            return DistributedDataParallel(network, device_ids=[device.index], forward_sync_buffers=False)
        _replace_normalisation(network)
        return DistributedDataParallel(network, forward_sync_buffers=False)


def count_devices(wanted: int | str, device: str) -> int:
    """How many processes train; `auto` is one for each GPU.

    Raises `PipelineError` if so many GPUs are wanted and not there.
    """
    cards = torch.cuda.device_count() if device != "cpu" else 0
    if wanted == "auto":
        return max(1, cards)
    count = int(wanted)
    if count > max(1, cards) and (cards or device == "cuda"):
        raise PipelineError(
            f"train.devices is {wanted}, but PyTorch sees {cards} CUDA devices; lower it or set it to auto"
        )
    return count


def is_launched() -> bool:
    """Whether PyTorch's launcher has started this process."""
    return dist.is_torchelastic_launched()


def launch(devices: int, module: str, *arguments: str) -> None:
    """Run `python -m module` as that many ranks under PyTorch's launcher, and end as they do.

    A signal to this process ends the ranks in good order, and a rank that fails ends the others. Either raises
    `SystemExit` with the status that a single process would have had; the ranks have told why.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable()  # its words on a rank's end are pages long
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // devices)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        with TemporaryDirectory(prefix="depth-ranks-") as errors:
            os.environ[ERRORS] = errors
            elastic_launch(config, sys.executable)("-m", module, *arguments)
    except SignalException as ended:
        raise SystemExit(128 + ended.sigval) from None
    except ChildFailedError as failed:
        _, failure = failed.get_first_failure()
        raise SystemExit(128 - failure.exitcode if failure.exitcode < 0 else failure.exitcode) from None


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks of which PyTorch's launcher has made this process one; alone if it has not."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or not is_launched():
        yield Ranks()
        return
    _end_with_parent()
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    ranks = Ranks(dist.get_rank(), world)
    try:
        yield ranks
    except (Exception, KeyboardInterrupt, Terminated) as end:
        if ranks.rank == 0:
            # The error of another rank reaches this one as a lost connection, or as the launcher's signal.
            known = end if isinstance(end, PipelineError) else _error_of_another() or end
            raise known from None
        _end_beside_first(end)
        raise
    finally:
        dist.destroy_process_group()


def _end_beside_first(end: BaseException) -> None:
    """Leave what there is to tell to the first rank, and end silently."""
    if isinstance(end, (Diverged, KeyboardInterrupt, Terminated)):  # all ranks end so
        raise SystemExit(1 if isinstance(end, Diverged) else 128 + getattr(end, "number", signal.SIGINT)) from None
    if ERRORS in os.environ:
        text = str(end) if isinstance(end, PipelineError) else f"{type(end).__name__}: {end}"
        with contextlib.suppress(OSError):
            (Path(os.environ[ERRORS]) / "error").write_text(text, encoding="utf-8")
        if isinstance(end, PipelineError):
            raise SystemExit(1) from None


def _error_of_another() -> PipelineError | None:
    try:
        return PipelineError((Path(os.environ[ERRORS]) / "error").read_text(encoding="utf-8"))
    except (KeyError, OSError):
        return None


def _end_with_parent() -> None:
    """Ranks have a session of their own, so nothing else would tell them that their launcher was killed."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # linux/prctl.h: PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


class _SumOverRanks(torch.autograd.Function):
    """The sum over the ranks; as each rank's loss depends on it, so does the gradient come from all."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batches of all ranks, for processors; PyTorch's own is for GPUs only."""

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return super().forward(features)
        per_channel = (1, -1, 1, 1)
        count = features.new_tensor([features.numel() / self.num_features])
        sums = _SumOverRanks.apply(torch.cat([features.sum(dim=(0, 2, 3)), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = features - mean.view(per_channel)
        variance = _SumOverRanks.apply(centred.square().sum(dim=(0, 2, 3))) / total
        with torch.no_grad():
            assert self.num_batches_tracked is not None and self.running_mean is not None
            assert self.running_var is not None
            self.num_batches_tracked.add_(1)
            share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * total / (total - 1), share)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale.view(per_channel) + self.bias.view(per_channel)


def _replace_normalisation(network: nn.Module) -> None:
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if type(layer) is nn.BatchNorm2d:
                shared = SharedBatchNorm2d(layer.num_features, layer.eps, layer.momentum)
                shared.weight, shared.bias = layer.weight, layer.bias
                for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                    setattr(shared, buffer, getattr(layer, buffer))
                parent.add_module(name, shared)
