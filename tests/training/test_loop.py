"""The training loop on a dozen tiny frames: what it must do to the weights, the figures and the checkpoints."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.data.batches import Batches
from pipeline.data.shards import ShardSet
from pipeline.errors import PipelineError
from pipeline.model.losses import DepthLoss
from pipeline.model.network import build_network
from pipeline.training.loop import Epoch, TrainingOptions, make_schedule, train
from pipeline.training.tracker import NullTracker
from tests.training.slopes import BATCH, STEPS, TRAIN, write_slopes

CPU = torch.device("cpu")


class Memory:
    """A `Tracker` that remembers."""

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.points.append((step, dict(metrics)))

    def log_figure(self, name: str, png: bytes, step: int) -> None:
        raise AssertionError("training draws nothing")


class Affine(nn.Module):
    """The least network: depth = weight · mean RGB + bias, with a float and an integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.bias = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, rgb: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
            self.mean.mul_(0.5).add_(0.5 * rgb.mean())
        return self.weight * rgb.mean(dim=1, keepdim=True) + self.bias


class Breaking(Affine):
    """Returns NaN from a given training step on."""

    def __init__(self, breaks_at: int) -> None:
        super().__init__()
        self.breaks_at = breaks_at

    def forward(self, rgb: Tensor) -> Tensor:
        depth_m: Tensor = super().forward(rgb)
        return depth_m * (math.nan if self.training and int(self.calls) >= self.breaks_at else 1)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Frames of 32 x 40 pixels are done sooner by one thread than they are dealt out to several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slopes(tmp_path_factory.mktemp("shards"))


def training_batches(folder: Path, seed: int = 0) -> Batches:
    return Batches(ShardSet(folder, "train"), BATCH, CPU, shuffle_seed=seed)


def run(
    folder: Path,
    network: nn.Module,
    *,
    seed: int = 0,
    validation: str = "val",
    ssim_weight: float = 0.5,
    tracker: Any = None,
    **changes: Any,
) -> tuple[list[Epoch], list[tuple[dict[str, Tensor], bool]]]:
    """Train; return the history, and after each epoch the weights to keep and whether they are the best."""
    options: dict[str, Any] = {
        "epochs": 2,
        "learning_rate": 0.01,
        "schedule": "constant",
        "weight_decay": 0.0,
        "gradient_clip_norm": 0.0,
        "ema_decay": 0.0,
        "early_stopping_epochs": 0,
        "bf16": False,
        "log_every_steps": 2,
    } | changes
    kept: list[tuple[dict[str, Tensor], bool]] = []
    history = train(
        network,
        DepthLoss(ssim_weight),
        training_batches(folder, seed),
        Batches(ShardSet(folder, validation), BATCH, CPU),
        TrainingOptions(**options),
        tracker or NullTracker(),
        lambda epoch, network, is_best: kept.append((copy.deepcopy(network.state_dict()), is_best)),
    )
    return history, kept


def small_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_network("unet", width=4, max_depth_m=10.0)


def test_the_loss_falls_on_a_tiny_set(folder: Path) -> None:
    history, _ = run(folder, small_network(), epochs=12)
    assert history[-1].train_loss["total"] < 0.5 * history[0].train_loss["total"]


def test_one_seed_gives_bit_identical_weights_and_another_others(folder: Path) -> None:
    def trained(seed: int) -> list[Tensor]:
        network = small_network(seed)
        run(folder, network, seed=seed)
        return list(network.state_dict().values())

    first, again, other = trained(0), trained(0), trained(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def rates(schedule: str, steps: int, peak: float) -> list[float]:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = make_schedule(optimizer, schedule, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*found, optimizer.param_groups[0]["lr"]]


def test_a_constant_schedule_is_constant() -> None:
    assert rates("constant", 7, 0.3) == [0.3] * 8


def test_a_cosine_schedule_is_half_a_cosine_from_the_peak_to_nothing() -> None:
    expected = [0.3 * (1 + math.cos(math.pi * step / 20)) / 2 for step in range(21)]
    assert rates("cosine", 20, 0.3) == pytest.approx(expected, abs=1e-12)


def test_onecycle_rises_for_a_quarter_of_the_steps_and_falls_to_nothing() -> None:
    steps, peak = 99, 0.3
    low, least, top = peak / 25, peak / 25 / 1e4, 0.25 * (steps + 1) - 1

    def between(start: float, end: float, share: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    expected = [
        between(low, peak, step / top) if step <= top else between(peak, least, (step - top) / (steps - top))
        for step in range(steps + 1)
    ]
    found = rates("onecycle", steps, peak)
    assert found == pytest.approx(expected, rel=1e-6)
    assert max(found) == pytest.approx(peak)
    assert found.index(max(found)) == 24


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_onecycle_takes_trainings_of_a_few_steps(steps: int) -> None:
    assert max(rates("onecycle", steps, 0.5)) == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
def test_a_schedule_moves_the_rate_and_no_other_number_of_the_optimizer(schedule: str) -> None:
    """A CUDA graph keeps those that it was made with."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = make_schedule(optimizer, schedule, 20)
    others = []
    for _ in range(20):
        others.append({key: optimizer.param_groups[0][key] for key in ("betas", "eps", "weight_decay")})
        optimizer.step()
        scheduler.step()
    assert all(each == others[0] for each in others)
    assert others[0]["betas"] == (0.9, 0.999)


def test_the_learning_rate_of_an_epoch_is_the_one_that_it_starts_with(folder: Path) -> None:
    history, _ = run(folder, Affine(), epochs=4, schedule="cosine", learning_rate=0.1)
    expected = [0.1 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert [epoch.learning_rate for epoch in history] == pytest.approx(expected)


def test_a_row_of_the_history_holds_loss_components_validation_and_speed(folder: Path) -> None:
    history, _ = run(folder, Affine(), ssim_weight=0.3)
    row = history[1].row()
    assert set(row) == {
        "epoch",
        "step",
        "seconds",
        "learning_rate",
        "frames_per_s",
        *(f"{part}_loss_{name}" for part in ("train", "val") for name in ("total", "mse", "ssim")),
        *(f"val_{name}" for name in ("rmse", "delta1", "delta2", "delta3")),
    }
    assert (row["epoch"], row["step"]) == (2, 2 * STEPS)
    assert row["frames_per_s"] == pytest.approx(TRAIN / row["seconds"])
    for part in ("train", "val"):
        total, mse, ssim = (row[f"{part}_loss_{name}"] for name in ("total", "mse", "ssim"))
        assert total == pytest.approx(0.7 * mse + 0.3 * ssim, rel=1e-5)


def test_validation_figures_are_means_over_the_frames_of_the_kept_network(folder: Path) -> None:
    network = Affine()
    history, _ = run(folder, network)
    shards = ShardSet(folder, "val")
    rgb = shards.rgb_u8[:].numpy().astype(np.float64) / 255
    truth_m = shards.depth_mm[:].numpy().astype(np.float64) / 1000
    weight, bias = (value.item() for value in network.parameters())
    error_m = weight * rgb.mean(axis=1, keepdims=True) + bias - truth_m
    assert history[-1].val["rmse"] == pytest.approx(np.sqrt((error_m**2).mean(axis=(1, 2, 3))).mean(), rel=1e-5)
    assert history[-1].val_loss["mse"] == pytest.approx((error_m**2).mean(), rel=1e-5)


def test_the_best_epochs_are_those_below_every_rmse_before_them(folder: Path) -> None:
    # A rate far too high overshoots, so that epochs get worse as well as better.
    history, kept = run(folder, Affine(), epochs=8, learning_rate=0.7)
    rmse = [epoch.val["rmse"] for epoch in history]
    flags = [is_best for _, is_best in kept]
    assert flags == [all(value < before for before in rmse[:index]) for index, value in enumerate(rmse)]
    assert 1 < sum(flags) < len(flags), "the case needs better and worse epochs"


def test_training_stops_after_so_many_epochs_without_a_better_one(folder: Path) -> None:
    history, kept = run(folder, Affine(), epochs=60, learning_rate=0.7, early_stopping_epochs=3)
    flags = [is_best for _, is_best in kept]
    assert len(history) < 60
    assert flags[-4:] == [True, False, False, False]
    assert all(any(flags[index - 2 : index + 1]) for index in range(2, len(flags) - 1))


def test_without_validation_frames_each_epoch_is_the_best_and_nothing_is_made_up(folder: Path) -> None:
    history, kept = run(folder, Affine(), epochs=3, validation="test", early_stopping_epochs=1)
    assert [is_best for _, is_best in kept] == [True] * 3
    assert not [name for name in history[0].row() if name.startswith("val")]


def test_weight_decay_is_decoupled_from_the_gradient(folder: Path) -> None:
    # AdamW takes lr · decay · weight off each weight beside Adam's step, so after the first of equal steps:
    rate, decay = 0.01, 0.5
    moved = {}
    for name, value in (("plain", 0.0), ("decayed", decay)):
        network = Affine()
        stop_after_one = _first_step(folder, network, learning_rate=rate, weight_decay=value)
        moved[name] = stop_after_one
    assert moved["plain"] - moved["decayed"] == pytest.approx(rate * decay * 2.0, rel=1e-4)


def _first_step(folder: Path, network: Affine, **changes: Any) -> float:
    """The weight after a single step, on all frames at once."""
    train(
        network,
        DepthLoss(0.0),
        Batches(ShardSet(folder, "train"), TRAIN, CPU, shuffle_seed=0),
        Batches(ShardSet(folder, "test"), TRAIN, CPU),
        TrainingOptions(
            **{
                "epochs": 1,
                "learning_rate": 0.01,
                "schedule": "constant",
                "weight_decay": 0.0,
                "gradient_clip_norm": 0.0,
                "ema_decay": 0.0,
                "early_stopping_epochs": 0,
                "bf16": False,
                "log_every_steps": 1,
            }
            | changes
        ),
        NullTracker(),
        lambda *_: None,
    )
    return float(network.weight.detach())


@pytest.mark.parametrize(("limit", "clipped"), [(0.0, False), (1e-3, True), (1e6, False)])
def test_gradients_longer_than_the_limit_are_shortened_to_it(folder: Path, limit: float, clipped: bool) -> None:
    network = Affine()
    _first_step(folder, network, gradient_clip_norm=limit)
    length = math.hypot(float(network.weight.grad), float(network.bias.grad))
    if clipped:
        assert length == pytest.approx(limit, rel=1e-3)
    else:
        assert length > 1


def test_the_kept_network_under_ema_is_the_average_over_the_steps(folder: Path) -> None:
    decay = 0.9
    weights: list[np.ndarray] = []

    class Watched(Affine):
        def forward(self, rgb: Tensor) -> Tensor:
            if self.training:
                # What this step starts with is what the step before ended with.
                weights.append(np.array([self.weight.item(), self.bias.item()]))
            return super().forward(rgb)

    network = Watched()
    _, kept = run(folder, network, epochs=2, ema_decay=decay)
    weights.append(np.array([network.weight.item(), network.bias.item()]))
    average = weights[1]
    for after_step in weights[2:]:
        average = decay * average + (1 - decay) * after_step
    state, _ = kept[-1]
    assert len(weights) == 2 * STEPS + 1
    np.testing.assert_allclose([float(state["weight"]), float(state["bias"])], average, rtol=1e-5)
    assert state["calls"].dtype == torch.int64
    assert not np.allclose(average, weights[-1], rtol=1e-3), "the case needs weights that move"


def test_averaged_weights_are_kept_with_the_statistics_that_they_produce(folder: Path) -> None:
    network = small_network()
    _, kept = run(folder, network, learning_rate=0.05, ema_decay=0.8)
    state, _ = kept[-1]
    network.load_state_dict(state)
    outputs: list[np.ndarray] = []  # of the first convolution, which no statistics have touched
    network.stem[0].register_forward_hook(lambda _, __, output: outputs.append(output.double().numpy()))
    with torch.no_grad():
        for rgb, _ in training_batches(folder).epoch(2):
            network(rgb)
    means = np.mean([output.mean(axis=(0, 2, 3)) for output in outputs], axis=0)
    variances = np.mean([output.var(axis=(0, 2, 3)) for output in outputs], axis=0)
    np.testing.assert_allclose(state["stem.1.running_mean"], means, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state["stem.1.running_var"], variances, rtol=0.01)  # the kept one is unbiased
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())


@pytest.mark.parametrize("log_every", [1, 2, 50])
def test_a_loss_that_is_not_a_number_stops_the_run_at_its_step(folder: Path, log_every: int) -> None:
    finished: list[int] = []
    with pytest.raises(PipelineError, match=r"loss became nan in epoch 2, step 2 of 3;.*learning_rate") as caught:
        train(
            Breaking(breaks_at=STEPS + 2),
            DepthLoss(0.5),
            training_batches(folder),
            Batches(ShardSet(folder, "val"), BATCH, CPU),
            TrainingOptions(3, 0.01, "constant", 0.0, 0.0, 0.0, 0, False, log_every),
            NullTracker(),
            lambda epoch, network, is_best: finished.append(epoch.epoch),
        )
    assert finished == [1]
    assert "\n" not in str(caught.value)


def test_weights_broken_by_the_last_step_of_an_epoch_are_not_kept(folder: Path) -> None:
    class LastStepBreaks(Affine):
        """The loss of every step is finite; the gradient of the last step of epoch 2 is not."""

        def forward(self, rgb: Tensor) -> Tensor:
            depth_m: Tensor = super().forward(rgb)
            if self.training and int(self.calls) == 2 * STEPS:
                depth_m.register_hook(lambda gradient: gradient * math.inf)
            return depth_m

    for validation in ("val", "test"):
        finished: list[int] = []
        with pytest.raises(PipelineError, match="epoch 2"):
            train(
                LastStepBreaks(),
                DepthLoss(0.5),
                training_batches(folder),
                Batches(ShardSet(folder, validation), BATCH, CPU),
                TrainingOptions(3, 0.01, "constant", 0.0, 0.0, 0.0, 0, False, 2),
                NullTracker(),
                lambda epoch, network, is_best, finished=finished: finished.append(epoch.epoch),
            )
        assert finished == [1]


def test_the_tracker_receives_losses_by_step_and_figures_by_epoch(folder: Path) -> None:
    memory = Memory()
    history, _ = run(folder, Affine(), epochs=2, log_every_steps=2, tracker=memory)
    steps = [step for step, metrics in memory.points if "train/loss/total" in metrics]
    assert steps == [2, 3, 5, 6]  # every second step, and what is left at an epoch's end
    epochs = {step: metrics for step, metrics in memory.points if "val/rmse" in metrics}
    assert list(epochs) == [3, 6]
    assert epochs[6]["val/rmse"] == history[1].val["rmse"]
    assert epochs[6]["val/loss/ssim"] == history[1].val_loss["ssim"]
    assert epochs[6]["train/learning_rate"] == 0.01
    assert epochs[6]["train/frames_per_s"] > 0
    for name in ("total", "mse", "ssim"):
        (two, one) = (m[f"train/loss/{name}"] for s, m in memory.points if s > 3 and f"train/loss/{name}" in m)
        assert (2 * two + one) / 3 == pytest.approx(history[1].train_loss[name])


def test_bf16_trains_too_and_its_loss_stays_finite(folder: Path) -> None:
    history, _ = run(folder, small_network(), epochs=1, bf16=True)
    assert math.isfinite(history[0].train_loss["total"])
