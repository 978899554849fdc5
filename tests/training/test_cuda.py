"""What a GPU changes in a training: its speed, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.data.augment import Augmentation
from pipeline.data.batches import Batches
from pipeline.data.shards import ShardSet
from pipeline.errors import Diverged, PipelineError, Terminated
from pipeline.model.losses import DepthLoss
from pipeline.model.network import build_network
from pipeline.training import graphs
from pipeline.training import recorder as recorder_module
from pipeline.training.averaging import Average
from pipeline.training.device import largest_fitting, memory_shortage_told, predict
from pipeline.training.distributed import Ranks
from pipeline.training.history import Epoch
from pipeline.training.journal import Journal
from pipeline.training.loop import train
from pipeline.training.passes import GpuPasses
from pipeline.training.recorder import Recorder
from pipeline.training.resume import StateFolder
from pipeline.training.step import Step
from pipeline.training.tracker import NullTracker
from tests.training import slopes
from tests.training.slopes import BATCH, write_slopes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
# Of so many epochs that each shape of a batch is met often enough for its graph to be made and replayed.
OPTIONS = replace(slopes.OPTIONS, epochs=8, learning_rate=2e-3)
AUGMENTATION = Augmentation(0.5, 0.02)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slopes(tmp_path_factory.mktemp("shards"))


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Without TF32, whose rounding would hide what is to be seen."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def trained(
    shards: Path,
    device: torch.device = CUDA,
    *,
    resident: Any = "always",
    augmentation: Augmentation | None = None,
    recorder: Recorder | None = None,
    journal: Journal | None = None,
    after_epoch: Callable[[Epoch, torch.nn.Module, bool], None] = lambda *_: None,
    **changes: Any,
) -> tuple[torch.Tensor, list[Epoch]]:
    """All weights at the end, as one vector, and the history."""
    torch.manual_seed(0)
    network = build_network("unet", width=4, max_depth_m=10.0).to(device)
    history = train(
        network,
        DepthLoss(0.5),
        Batches(
            ShardSet(shards, "train"), BATCH, device, shuffle_seed=3, augmentation=augmentation, resident=resident
        ),
        Batches(ShardSet(shards, "val"), BATCH, device, resident=resident),
        replace(OPTIONS, **changes),
        journal or NullTracker(),
        after_epoch,
        recorder,
    )
    return vector_of(network), history


def vector_of(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([each.detach().cpu().flatten() for each in network.parameters()])


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("bf16", [False, True])
def test_graphs_make_the_steps_that_single_kernels_make(
    shards: Path, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam divides by the size of a gradient, so that rounding moves weights whose gradient is next to nothing as
    far as any other. With a large ε it does not."""
    batches = list(Batches(ShardSet(shards, "train"), BATCH, CUDA, shuffle_seed=3).epoch(1))

    def moved() -> tuple[torch.Tensor, torch.Tensor, list[float]]:
        torch.manual_seed(0)
        network = build_network("unet", width=8, max_depth_m=10.0).to(CUDA, memory_format=torch.channels_last)
        before = vector_of(network)
        average = Average(network, 0.5, bf16=bf16, graphed=True)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, eps=1.0, fused=True)
        step = Step(network, DepthLoss(0.5), optimizer, average, Ranks(), bf16=bf16, gradient_clip_norm=1.0)
        losses = [step(*batch)[0] for _ in range(6) for batch in batches]
        averaged = vector_of(average.network)
        return vector_of(network) - before, averaged - before, torch.stack(losses).tolist()

    graphed = moved()
    monkeypatch.setattr(graphs, "WARM_UPS", 10**9)
    single = moved()
    tolerance = 0.03 if bf16 else 1e-3
    assert distance(graphed[0], single[0]) < tolerance
    assert distance(graphed[1], single[1]) < tolerance
    assert graphed[2] == pytest.approx(single[2], rel=tolerance)
    assert single[2][-1] < 0.9 * single[2][0], "the case needs steps that lead somewhere"


def test_the_passes_on_a_gpu_make_the_gradients_that_autograd_makes(shards: Path) -> None:
    rgb, depth_m = next(iter(Batches(ShardSet(shards, "train"), BATCH, CUDA).epoch()))
    torch.manual_seed(0)
    network = build_network("unet", width=8, max_depth_m=10.0).to(CUDA, memory_format=torch.channels_last)

    def gradients(bf16: bool, ours: bool) -> torch.Tensor:
        network.zero_grad()
        passes = GpuPasses(network, bf16) if ours else None
        prediction_m = passes.predict(rgb) if passes else predict(network, rgb, bf16)
        loss = DepthLoss(0.5)(prediction_m, depth_m, depth_m > 0)["total"]
        passes.backward(loss) if passes else loss.backward()
        return torch.cat([each.grad.flatten() for each in network.parameters() if each.grad is not None])

    assert distance(gradients(False, True), gradients(False, False)) < 1e-4
    exact = gradients(False, False)
    rounding = distance(gradients(True, False), exact)
    assert 0 < distance(gradients(True, True), exact) < 1.5 * rounding


def test_a_gpu_trains_as_a_processor_does(shards: Path) -> None:
    _, history = trained(shards)
    _, expected = trained(shards, CPU)
    for mine, theirs in zip(history, expected, strict=True):
        assert mine.train_loss == pytest.approx(theirs.train_loss, rel=0.1)
        assert mine.val == pytest.approx(theirs.val, rel=0.1, abs=0.05)


def test_streamed_frames_train_as_resident_ones(shards: Path) -> None:
    for at_epoch in (1, 2):
        pairs = [
            Batches(
                ShardSet(shards, "train"), BATCH, CUDA, shuffle_seed=3, augmentation=AUGMENTATION, resident=resident
            ).epoch(at_epoch)
            for resident in ("always", "never")
        ]
        for (rgb, depth_m), (streamed_rgb, streamed_m) in zip(*pairs, strict=True):
            assert rgb.is_cuda and streamed_rgb.is_cuda
            assert torch.equal(rgb, streamed_rgb) and torch.equal(depth_m, streamed_m)
    _, history = trained(shards, resident="never")
    _, expected = trained(shards)
    assert history[-1].train_loss == pytest.approx(expected[-1].train_loss, rel=0.1)


def test_no_step_waits_for_the_gpu(shards: Path) -> None:
    network = build_network("unet", width=4, max_depth_m=10.0).to(CUDA)
    average = Average(network, 0.9, bf16=True, graphed=True)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    step = Step(network, DepthLoss(0.5), optimizer, average, Ranks(), bf16=True, gradient_clip_norm=1.0)
    batches = Batches(
        ShardSet(shards, "train"), BATCH, CUDA, shuffle_seed=3, augmentation=AUGMENTATION, resident="always"
    )
    for epoch in range(1, graphs.WARM_UPS + 2):
        for rgb, depth_m in batches.epoch(epoch):
            step(rgb, depth_m)
    coming = batches.epoch(9)
    step(*next(coming))  # the epoch's order has been brought to the GPU
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = [step(rgb, depth_m) for rgb, depth_m in coming]
        arrival = graphs.Arrival(torch.stack(losses))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.tensor(arrival.rows()).isfinite().all()


def test_the_averaged_weights_are_the_average_over_replayed_steps(shards: Path) -> None:
    network = build_network("unet", width=4, max_depth_m=10.0).to(CUDA)
    average = Average(network, 0.5, bf16=False, graphed=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, fused=True)
    step = Step(network, DepthLoss(0.5), optimizer, average, Ranks(), bf16=False, gradient_clip_norm=0.0)
    rgb, depth_m = next(iter(Batches(ShardSet(shards, "train"), BATCH, CUDA).epoch()))
    expected = None
    for _ in range(8):
        step(rgb, depth_m)
        present = network.head.weight.detach().double()  # type: ignore[union-attr]
        expected = present if expected is None else (expected + present) / 2
    torch.testing.assert_close(average.network.head.weight.double(), expected, rtol=1e-5, atol=1e-6)  # type: ignore[union-attr]


def test_a_schedule_reaches_replayed_steps(shards: Path) -> None:
    """At a rate of 0 nothing moves, whatever the rate was when the graph was made."""
    network = build_network("unet", width=4, max_depth_m=10.0).to(CUDA)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, fused=True)
    step = Step(network, DepthLoss(0.5), optimizer, None, Ranks(), bf16=False, gradient_clip_norm=0.0)
    rgb, depth_m = next(iter(Batches(ShardSet(shards, "train"), BATCH, CUDA).epoch()))
    weights = []
    for rate in [0.01] * 5 + [0.0, 0.0]:
        optimizer.param_groups[0]["lr"] = rate
        step(rgb, depth_m)
        weights.append(torch.cat([each.detach().flatten() for each in network.parameters()]))
    assert not torch.equal(weights[3], weights[4])
    assert torch.equal(weights[4], weights[5]) and torch.equal(weights[5], weights[6])
    assert optimizer.param_groups[0]["lr"] == 0.0
    assert not optimizer.param_groups[0]["capturable"]


@pytest.mark.parametrize("back_on", [CUDA, CPU], ids=["gpu", "cpu"])
def test_a_training_that_was_ended_goes_on(
    shards: Path, tmp_path: Path, back_on: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = trained(shards)
    monkeypatch.setattr(recorder_module, "INTERVAL_S", 0.0)
    folder = StateFolder(tmp_path)
    journal = Journal(NullTracker())

    def end(epoch: Epoch, *_: object) -> None:
        if epoch.epoch == 5:
            raise Terminated(15)

    with pytest.raises(Terminated), Recorder(journal, lambda _: None, folder) as recorder:
        trained(shards, recorder=recorder, journal=journal, after_epoch=end)
    saved = folder.load()
    assert saved is not None and saved["training"]["epoch"] == 6
    with Recorder(journal, lambda _: None, folder, saved) as recorder:
        found, history = trained(shards, back_on, recorder=recorder, journal=journal)
    other, _ = trained(shards, learning_rate=1.5e-3)
    assert len(history) == OPTIONS.epochs
    assert distance(found, expected) < 0.1 * distance(other, expected)


def test_a_loss_that_is_not_a_number_is_told_with_its_step(shards: Path) -> None:
    def poison(epoch: Epoch, network: torch.nn.Module, _: bool) -> None:
        if epoch.epoch == 6:
            raise AssertionError("the epoch that went wrong was kept")

    class Poisoned(DepthLoss):
        """NaN once the weights have moved for five epochs: counted on the GPU, as a graph's replays must be."""

        def __init__(self) -> None:
            super().__init__(0.5)
            self.calls = torch.zeros((), device=CUDA)

        def forward(self, *arguments: Any) -> dict[str, torch.Tensor]:
            values = super().forward(*arguments)
            if torch.is_grad_enabled():
                self.calls += 1
                values["total"] = values["total"] * torch.where(self.calls >= 5 * 3 + 2, torch.nan, 1.0)
            return values

    torch.manual_seed(0)
    network = build_network("unet", width=4, max_depth_m=10.0).to(CUDA)
    with pytest.raises(Diverged, match=r"epoch 6, step 2 of 3"):
        train(
            network,
            Poisoned(),
            Batches(ShardSet(shards, "train"), BATCH, CUDA, shuffle_seed=3),
            Batches(ShardSet(shards, "val"), BATCH, CUDA),
            OPTIONS,
            NullTracker(),
            poison,
        )


def test_memory_that_runs_out_is_told_with_the_batch_that_fits() -> None:
    side, total = 256, torch.cuda.get_device_properties(0).total_memory

    def attempt(frames: int) -> None:
        network = build_network("unet", width=16, max_depth_m=10.0).to(CUDA)
        depth_m = torch.ones(frames, 1, side, side, device=CUDA)
        DepthLoss(0.5)(network(depth_m.expand(-1, 3, -1, -1)), depth_m)["total"].backward()

    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**31 / total)
    try:
        told = memory_shortage_told("train.batch_size", lambda: f"; {largest_fitting(attempt, 4096)} fits")
        with (
            pytest.raises(PipelineError, match=r"out of memory; lower train\.batch_size; \d+ fits") as caught,
            told,
        ):
            attempt(4096)
        fits = int(str(caught.value).split()[-2])
        assert 1 <= fits < 4096
        torch.cuda.empty_cache()
        attempt(fits)
        torch.cuda.empty_cache()
        with pytest.raises(torch.OutOfMemoryError):
            attempt(4 * fits)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
