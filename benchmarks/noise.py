"""A working copy whose frames are noise: how long a step of training takes does not depend on what is seen."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import yaml

from pipeline import paths
from pipeline.data.frames import Frames
from pipeline.data.shards import write_shards
from pipeline.params import Params, load_params

ROOT = Path(__file__).resolve().parents[1]


class NoiseFrames:
    """A `FrameSource` of random pixels and depths."""

    def __init__(self, size: tuple[int, int], frames: int) -> None:
        self.size = size
        self.names = [str(number) for number in range(frames)]
        self.scenes = self.scene_types = ["noise"] * frames
        self.slab_frames = 64

    def __len__(self) -> int:
        return len(self.names)

    def read(self, start: int, stop: int) -> Frames:
        random = np.random.default_rng(start)
        depth_m = random.uniform(1.0, 9.0, (stop - start, *self.size)).astype(np.float32)
        return Frames(random.integers(0, 256, (stop - start, *self.size, 3), np.uint8), depth_m, depth_m)


def make_working_copy(folder: Path, params: Params, train_frames: int, val_frames: int) -> None:
    """Parameters, this repository's code and dvc.yaml, and shards of noise."""
    folder.mkdir(exist_ok=True)
    for name in ("pipeline", "stages", paths.PIPELINE):
        (folder / name).symlink_to(ROOT / name)
    (folder / paths.PARAMS).write_text(yaml.safe_dump(params.model_dump()), encoding="utf-8")
    size = (params.preprocess.height, params.preprocess.width)
    numbers = list(range(train_frames + val_frames))
    write_shards(
        NoiseFrames(size, len(numbers)),
        {"train": numbers[:train_frames], "val": numbers[train_frames:], "test": []},
        folder / paths.SHARDS,
        size=size,
        border=0,
        augmentation=None,
        copies=0,
        seed=0,
        facts={"source": "noise", "trained_on": "noise"},
    )


def smallest(params: Params) -> Params:
    """As small as the parameters may be: for runs that only show that a benchmark works."""
    return changed(
        params, preprocess={"height": 32, "width": 64}, network={"width": 4}, train={"batch_size": 2, "epochs": 2}
    )


def changed(params: Params, **sections: Mapping[str, object]) -> Params:
    """The parameters with keys of some sections changed."""
    content = params.model_dump()
    for section, keys in sections.items():
        content[section] |= keys
    return Params.model_validate(content)


def original() -> Params:
    """The committed parameters with the original recipe, by which all these figures are measured.

    So they stay comparable when the default recipe changes, and the loop is compared with a step that does the
    same: nothing is augmented at a step or averaged after it.
    """
    return changed(
        load_params(paths.repository_root() / paths.PARAMS),
        augment={"at": "shards", "zoom": 1.0, "colour": 0.0},
        network={"width": 16, "attention": 0},
        loss={"error": "mse", "ssim_weight": 0.5},
        train={
            "epochs": 20,
            "learning_rate": 0.0001,
            "schedule": "cosine",
            "weight_decay": 0.0,
            "ema_decay": 0.0,
            "start_from": None,
        },
    )


@contextlib.contextmanager
def inside(root: Path) -> Iterator[Path]:
    """A new folder as the user's repository and working directory; afterwards all is as it was."""
    root.mkdir()
    before, environment = Path.cwd(), dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("DVC_", "MLFLOW_TRACKING"))]:
        del os.environ[name]
    os.environ["DVC_ROOT"] = str(root)
    os.chdir(root)
    try:
        yield root
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)
