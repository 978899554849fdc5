"""Sample predictions: which epochs have a picture, and what is on it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.data.frames import Frames
from pipeline.data.shards import ShardSet, write_shards
from pipeline.tracking.pictures import GAP_PX, MISSING, SamplePictures, tiles
from pipeline.training.journal import Journal

SIZE = (32, 64)
FRAMES = 7


class Ramps:
    """Frames whose depth grows from left to right; the upper left quarter has none."""

    size = SIZE
    slab_frames = FRAMES
    names = scenes = scene_types = tuple(str(index) for index in range(FRAMES))

    def __len__(self) -> int:
        return FRAMES

    def read(self, start: int, stop: int) -> Frames:
        depth_m = np.broadcast_to(np.linspace(1, 9, SIZE[1]), (stop - start, *SIZE)).astype(np.float32).copy()
        depth_m[:, : SIZE[0] // 2, : SIZE[1] // 2] = 0
        return Frames(np.full((stop - start, *SIZE, 3), 200, np.uint8), depth_m, depth_m)


class Kept:
    """A `Tracker` that remembers pictures."""

    def __init__(self) -> None:
        self.pictures: list[tuple[str, int, Image.Image]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int, *, time_ms: int | None = None) -> None:
        raise AssertionError("pictures are no metrics")

    def log_figure(self, name: str, png: bytes, step: int, *, time_ms: int | None = None) -> None:
        self.pictures.append((name, step, Image.open(io.BytesIO(png))))


class Constant(nn.Module):
    def forward(self, rgb: Tensor) -> Tensor:
        assert not self.training
        return torch.full_like(rgb[:, :1], 5.0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    splits: dict[str, list[int]] = {"train": [0, 1], "val": [2, 3, 4, 5, 6], "test": []}
    write_shards(Ramps(), splits, folder, size=SIZE, border=0, augmentation=None, copies=0, seed=0, facts={})
    return folder


def logged(shards: Path, validation: str, epochs: int) -> Kept:
    kept, network = Kept(), Constant().train()
    journal = Journal(kept)
    pictures = SamplePictures(ShardSet(shards, validation), ShardSet(shards, "train"), epochs, torch.device("cpu"))
    for epoch in range(epochs + 1):
        pictures.log(journal, network, epoch, step=10 * epoch)
        assert network.training, "training goes on as it was"
    assert not kept.pictures, "nothing is drawn in the training's path"
    journal.tell()
    return kept


@pytest.mark.parametrize(
    ("epochs", "steps"), [(1, [0, 10]), (3, [0, 10, 20, 30]), (20, [0, 50, 100, 150, 200])], ids=str
)
def test_there_are_at_most_five_from_before_training_to_its_end(
    shards: Path, epochs: int, steps: list[int]
) -> None:
    assert [step for _, step, _ in logged(shards, "val", epochs).pictures] == steps


@pytest.mark.parametrize(("split", "rows"), [("val", 3), ("test", 2)], ids=["validation", "without validation"])
def test_a_row_a_frame_and_training_frames_where_none_validate(shards: Path, split: str, rows: int) -> None:
    _, _, picture = logged(shards, split, 1).pictures[0]
    assert picture.size == (3 * SIZE[1] + 2 * GAP_PX, rows * SIZE[0] + (rows - 1) * GAP_PX)


def test_near_is_bright_missing_is_grey_and_both_depths_share_a_scale() -> None:
    depth_m = torch.linspace(1, 9, SIZE[1]).expand(1, 1, *SIZE).clone()
    depth_m[..., :4, :4] = 0
    rgb_u8 = torch.full((1, 3, *SIZE), 200, dtype=torch.uint8)
    picture = np.asarray(Image.open(io.BytesIO(tiles(rgb_u8, depth_m, depth_m.clamp(min=1)))).convert("RGB"))
    image, truth, prediction = (picture[:, start : start + SIZE[1]] for start in (0, 68, 136))
    assert (image == 200).all()
    assert (truth[:4, :4] == MISSING).all()
    assert (truth[4:] == prediction[4:]).all()
    brightness = truth[10].astype(int).sum(axis=1)
    assert (np.diff(brightness) <= 0).all()
    assert brightness[0] > 3 * brightness[-1]
