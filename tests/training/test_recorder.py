"""A training that is interrupted, wherever that is, ends as one that was not; and is told once."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.data.augment import Augmentation
from pipeline.data.batches import Batches
from pipeline.data.shards import ShardSet
from pipeline.errors import Diverged, Terminated
from pipeline.model.losses import DepthLoss
from pipeline.model.network import build_network
from pipeline.training import recorder as recorder_module
from pipeline.training.history import Epoch
from pipeline.training.journal import Journal
from pipeline.training.loop import TrainingOptions, train
from pipeline.training.recorder import Reached, Recorder
from pipeline.training.resume import StateFolder, claimed_folder
from tests.training.slopes import BATCH, OPTIONS, STEPS, write_slopes

CPU = torch.device("cpu")
EPOCHS = OPTIONS.epochs
Hook = Callable[[str], None]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slopes(tmp_path_factory.mktemp("shards"))


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is saved that the writing thread has time for."""
    monkeypatch.setattr(recorder_module, "INTERVAL_S", 0.0)
    monkeypatch.setattr(recorder_module, "LARGEST_SHARE", 1e9)


class Store:
    """A `Tracker` that, as MLflow does, holds equal points once."""

    def __init__(self) -> None:
        self.points: set[tuple[str, float, int, int | None]] = set()

    def log_metrics(self, metrics: Mapping[str, float], step: int, *, time_ms: int | None = None) -> None:
        self.points |= {(name, value, step, time_ms) for name, value in metrics.items()}

    def log_figure(self, name: str, png: bytes, step: int, *, time_ms: int | None = None) -> None:
        raise AssertionError("training draws nothing")

    def told(self) -> list[tuple[str, int, float]]:
        """Without what depends on the clock."""
        return sorted((n, step, v) for n, v, step, _ in self.points if n != "train/frames_per_s")


class Interrupted(nn.Module):
    """A network that meets something in the n-th forward pass, of training (1, 2, …) or of validation (-1, …)."""

    def __init__(self, at: int, what: Callable[[], None]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = build_network("unet", width=4, max_depth_m=10.0)
        self._at, self._what = at, what
        self._passes = {True: 0, False: 0}

    def forward(self, rgb: Tensor) -> Tensor:
        depth_m: Tensor = self.network(rgb)
        # EMA's copy of the network counts for itself: it predicts in validation only.
        self._passes[self.training] += 1
        if self._passes[self.training] == abs(self._at) and self.training == (self._at > 0):
            self._what()
        return depth_m


def run(
    shards: Path,
    store: Store,
    folder: StateFolder | None,
    network: nn.Module,
    *,
    options: TrainingOptions = OPTIONS,
    after_epoch: Callable[[Epoch, nn.Module, bool], None] = lambda *_: None,
) -> tuple[dict[str, Tensor], Reached | None]:
    """Train, from the folder's state if it has one; the final weights, and what was written last."""
    written: list[Reached] = []
    journal = Journal(store)
    with Recorder(journal, written.append, folder, folder.load() if folder else None, run_id="r") as recorder:
        train(
            network,
            DepthLoss(0.5),
            Batches(ShardSet(shards, "train"), BATCH, CPU, shuffle_seed=3, augmentation=Augmentation(0.5, 0.02)),
            Batches(ShardSet(shards, "val"), BATCH, CPU),
            options,
            journal,
            after_epoch,
            recorder,
        )
    return network.state_dict(), written[-1] if written else None


def never() -> None:
    raise AssertionError


def raises(number: int) -> Callable[[], None]:
    return lambda: signal.raise_signal(number)


@pytest.fixture(scope="module")
def uninterrupted(shards: Path) -> tuple[dict[str, Tensor], Reached, list[tuple[str, int, float]]]:
    store = Store()
    weights, reached = run(shards, store, None, Interrupted(0, never))
    assert reached is not None
    return weights, reached, store.told()


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first | second)


@pytest.mark.parametrize("at", [1, 2, STEPS, STEPS + 1, 2 * STEPS + 2, EPOCHS * STEPS, -1, -EPOCHS])
def test_after_ctrl_c_it_goes_on_bit_by_bit(
    shards: Path, tmp_path: Path, uninterrupted: tuple[dict[str, Tensor], Reached, list[Any]], at: int
) -> None:
    store = Store()
    with claimed_folder(tmp_path / "key") as folder:
        assert folder is not None
        with pytest.raises(KeyboardInterrupt):
            run(shards, store, folder, Interrupted(at, raises(signal.SIGINT)))
        saved = folder.load()
        assert saved is not None and saved["run_id"] == "r"
        weights, reached = run(shards, store, folder, Interrupted(0, never))
    expected, expected_reached, told = uninterrupted
    assert equal(weights, expected)
    assert reached is not None
    assert equal(reached.best, expected_reached.best) and equal(reached.last, expected_reached.last)
    assert reached.best_epoch == expected_reached.best_epoch
    assert [epoch.val for epoch in reached.history] == [epoch.val for epoch in expected_reached.history]
    assert [epoch.train_loss for epoch in reached.history] == [e.train_loss for e in expected_reached.history]
    assert store.told() == told, "nothing is doubled, nothing is missing"
    assert not (tmp_path / "key").exists(), "a training that is done leaves no state"


def test_a_kill_after_the_last_step_trains_nothing_again(
    shards: Path, tmp_path: Path, uninterrupted: tuple[dict[str, Tensor], Reached, list[Any]]
) -> None:
    store = Store()
    folder = StateFolder(tmp_path / "key")  # without the block at whose end it would be deleted
    run(shards, store, folder, Interrupted(0, never))
    weights, reached = run(shards, store, folder, Interrupted(1, never))
    assert equal(weights, uninterrupted[0])
    assert reached is not None and equal(reached.best, uninterrupted[1].best)
    assert store.told() == uninterrupted[2]


def test_sigterm_saves_too_and_is_told_apart(shards: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with claimed_folder(tmp_path / "key") as folder:
        assert folder is not None
        with pytest.raises(Terminated):
            run(shards, Store(), folder, Interrupted(4, raises(signal.SIGTERM)))
        saved = folder.load()
    assert saved is not None
    assert (saved["training"]["epoch"], saved["training"]["step"]) == (2, 1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_an_error_comes_after_is_kept_and_gone_on_from(
    shards: Path, tmp_path: Path, uninterrupted: tuple[dict[str, Tensor], Reached, list[Any]]
) -> None:
    def break_down() -> None:
        raise RuntimeError("a card fell off the bus")

    store = Store()
    with claimed_folder(tmp_path / "key") as folder:
        assert folder is not None
        with pytest.raises(RuntimeError, match="bus"):
            run(shards, store, folder, Interrupted(2 * STEPS + 2, break_down))
        assert folder.load() is not None
        weights, _ = run(shards, store, folder, Interrupted(0, never))
    assert equal(weights, uninterrupted[0])
    assert store.told() == uninterrupted[2]


def test_a_training_that_diverged_keeps_its_good_epochs_and_is_not_gone_on_with(
    shards: Path, tmp_path: Path
) -> None:
    class Breaking(Interrupted):
        def forward(self, rgb: Tensor) -> Tensor:
            depth_m = super().forward(rgb)
            return depth_m * (math.nan if self.training and self._passes[True] == 2 * STEPS + 2 else 1)

    store, written = Store(), []
    journal = Journal(store)
    with (
        pytest.raises(Diverged, match="epoch 3, step 2"),
        claimed_folder(tmp_path / "key") as folder,
        Recorder(journal, written.append, folder, None) as recorder,
    ):
        train(
            Breaking(0, never),
            DepthLoss(0.5),
            Batches(ShardSet(shards, "train"), BATCH, CPU, shuffle_seed=3),
            Batches(ShardSet(shards, "val"), BATCH, CPU),
            OPTIONS,
            journal,
            lambda *_: None,
            recorder,
        )
    assert not (tmp_path / "key").exists()
    assert [epoch.epoch for epoch in written[-1].history] == [1, 2]
    assert all(bool(torch.isfinite(values).all()) for values in written[-1].last.values())
    assert max(step for _, step, _ in store.told()) >= 2 * STEPS, "what was reached is told"


def test_a_full_disk_ends_the_training_and_the_state_before_it_stays(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with claimed_folder(tmp_path / "key") as folder:
        assert folder is not None
        saves: list[dict[str, Any]] = []

        class Filling(StateFolder):
            def save(self, state: dict[str, Any]) -> None:
                if saves:
                    raise OSError(28, "No space left on device", "state.pt")
                saves.append(state)
                super().save(state)

        filling = Filling(tmp_path / "key")
        with pytest.raises(OSError, match="No space left"):
            run(shards, Store(), filling, Interrupted(0, never), options=OPTIONS)
        saved = folder.load()
    assert saved is not None
    assert saved["training"]["step"] == saves[0]["training"]["step"]
