"""Training from `Batches` against training from image files through a `DataLoader`.

The peer does what SavtaDepth, BTS and DenseDepth do: worker processes read one JPEG and one 16-bit PNG a frame at
the camera's resolution, resize them to that of training and turn them into tensors. Network, loss, optimizer and
batch size are the same; nothing is augmented. Its workers live through all epochs, and depth is resized to the
nearest pixel, the cheapest way. Epochs of both alternate.

The frames are drawn here: smooth surfaces with fine grain, since their files are to be as large as photographs'.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.entries import Entry
from benchmarks.noise import original
from pipeline.data.batches import Batches
from pipeline.data.frames import Frames
from pipeline.data.shards import ShardSet, write_shards
from pipeline.model.losses import DepthLoss
from pipeline.model.network import build_network
from pipeline.params import Params
from pipeline.training.device import choose_bf16, choose_device
from pipeline.training.distributed import Ranks
from pipeline.training.step import Step

LIMITS = {"cpu": 1.5, "cuda": 5.0}
WORKERS = {"cpu": 2, "cuda": 4}
"""One a core on the two cores that the limit is for; on a GPU what the peers' own settings say."""
EPOCHS = {"cpu": 1, "cuda": 5}
"""In one timing."""


@dataclass(frozen=True)
class Sizes:
    stored: tuple[int, int]
    training: tuple[int, int]
    frames: int
    repetitions: int


def measure(quick: bool) -> list[Entry]:
    """How many times as many frames a second."""
    params = original()
    size = (params.preprocess.height, params.preprocess.width)
    sizes = Sizes((64, 96), (32, 64), 8, 1) if quick else Sizes((480, 640), size, 320, 5)
    device = choose_device("auto")
    batch_size = 4 if quick else params.train.batch_size
    with TemporaryDirectory(prefix="depth-bench-") as folder:
        images = ImageFiles(Path(folder) / "images", sizes)
        kilobytes = {f"{kind}_kb": images.mean_kb(kind) for kind in ("jpg", "png")}
        shards = _shards_of(images, Path(folder) / "shards")
        loader = DataLoader(
            images,
            batch_size,
            shuffle=True,
            num_workers=WORKERS[device.type],
            persistent_workers=True,
            pin_memory=device.type == "cuda",
        )
        training = _Training(params, device)
        ours, streamed = (
            Batches(shards, batch_size, device, shuffle_seed=0, resident=resident) for resident in ("auto", "never")
        )
        sources: dict[str, Callable[[], Iterable[tuple[Tensor, Tensor]]]] = {
            "batches": ours.epoch,
            "streamed": streamed.epoch,
            "files": lambda: loader,
        }
        speeds: dict[str, list[float]] = {name: [] for name in sources}
        for repetition in range(sizes.repetitions + 1):
            for name, source in sources.items():
                speed = training.frames_per_s(source, EPOCHS[device.type])
                if repetition > 0:  # the first starts the workers, and loads and compiles what is needed
                    speeds[name].append(speed)
    ratios, streamed_ratios = (
        [mine / peer for mine, peer in zip(speeds[name], speeds["files"], strict=True)]
        for name in ("batches", "streamed")
    )
    return [
        Entry(
            "loader",
            statistics.median(ratios),
            "x",
            f"a DataLoader with {WORKERS[device.type]} workers that read a JPEG and a PNG a frame; "
            f"pairs from {min(ratios):.2f} to {max(ratios):.2f}",
            limit=LIMITS[device.type],
            better="higher",
            device=device.type,
            details={
                **{f"{name}_frames_per_s": statistics.median(found) for name, found in speeds.items()},
                "resident": ours.resident,
                "pairs": ratios,
                "pairs_streamed": streamed_ratios,
                "stored": list(sizes.stored),
                "training": list(sizes.training),
                **kilobytes,
            },
        )
    ]


class ImageFiles(Dataset):
    """Drawn frames as files, and what a worker does with one of them."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        folder.mkdir()
        self._folder, self._frames = folder, sizes.frames
        self.stored, self.training = sizes.stored, sizes.training
        random = np.random.default_rng(0)
        for number in range(sizes.frames):
            rgb = np.stack([_surface(random, sizes.stored, (3, 9, 40, 160, 320), 0.6) for _ in range(3)], axis=-1)
            depth_m = 1 + 8 * _surface(random, sizes.stored, (2, 5, 20, 80), 1.2)
            rgb_path, depth_path = self.paths(number)
            Image.fromarray((255 * rgb).astype(np.uint8)).save(rgb_path, quality=90)
            Image.fromarray((1000 * depth_m).astype(np.uint16)).save(depth_path)

    def __len__(self) -> int:
        return self._frames

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        height, width = self.training
        rgb, depth = (Image.open(path) for path in self.paths(number))
        rgb_u8 = np.array(rgb.resize((width, height), Image.Resampling.BILINEAR))
        depth_mm = np.array(depth.resize((width, height), Image.Resampling.NEAREST), np.float32)
        return torch.from_numpy(rgb_u8).permute(2, 0, 1).float() / 255, torch.from_numpy(depth_mm)[None] / 1000

    def paths(self, number: int) -> tuple[Path, Path]:
        return self._folder / f"{number}.jpg", self._folder / f"{number}.png"

    def mean_kb(self, suffix: str) -> float:
        return statistics.mean(path.stat().st_size for path in self._folder.glob(f"*.{suffix}")) / 1000


def _surface(
    random: np.random.Generator, size: tuple[int, int], grids: tuple[int, ...], smoothness: float
) -> np.ndarray:
    """(H, W) in [0, 1]: random values on ever finer grids, the finer the weaker."""
    height, width = size
    total = np.zeros(size, np.float32)
    for cells in grids:
        grid = Image.fromarray(random.random((cells, cells), np.float32) / cells**smoothness)
        total += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    total -= total.min()
    return total / total.max()


class Drawn:
    """The drawn frames as a `FrameSource`."""

    slab_frames = 16

    def __init__(self, images: ImageFiles) -> None:
        self._images = images
        self.size = images.stored
        self.names = [str(number) for number in range(len(images))]
        self.scenes = self.scene_types = ["drawn"] * len(images)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, start: int, stop: int) -> Frames:
        pairs = [[np.array(Image.open(path)) for path in self._images.paths(n)] for n in range(start, stop)]
        depth_m = np.stack([depth_mm for _, depth_mm in pairs]).astype(np.float32) / 1000
        return Frames(np.stack([rgb_u8 for rgb_u8, _ in pairs]), depth_m, depth_m)


def _shards_of(images: ImageFiles, folder: Path) -> ShardSet:
    write_shards(
        Drawn(images),
        {"train": list(range(len(images))), "val": [], "test": []},
        folder,
        size=images.training,
        border=0,
        augmentation=None,
        copies=0,
        seed=0,
        facts={"source": "drawn", "trained_on": "drawn"},
    )
    return ShardSet(folder, "train")


class _Training:
    """Steps of the default network, whatever its batches come from."""

    def __init__(self, params: Params, device: torch.device) -> None:
        self._device = device
        network = build_network(**params.network.model_dump()).to(device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._step = Step(
            network,
            DepthLoss(**params.loss.model_dump()),
            torch.optim.AdamW(network.parameters(), lr=params.train.learning_rate, fused=True),
            average=None,
            ranks=Ranks(),
            bf16=choose_bf16(params.train.precision, device),
            gradient_clip_norm=0.0,
        )

    def frames_per_s(self, epoch: Callable[[], Iterable[tuple[Tensor, Tensor]]], epochs: int) -> float:
        started, frames = time.perf_counter(), 0
        for _ in range(epochs):
            for rgb, depth_m in epoch():
                self._step(rgb.to(self._device, non_blocking=True), depth_m.to(self._device, non_blocking=True))
                frames += len(rgb)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return frames / (time.perf_counter() - started)
