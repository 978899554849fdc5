"""A dozen tiny frames from which a depth can be learned, as shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.data.frames import Frames
from pipeline.data.shards import write_shards
from pipeline.training.loop import TrainingOptions

SIZE = (32, 40)
TRAIN, VAL = 10, 3
BATCH = 4
STEPS = 3
"""steps an epoch"""
OPTIONS = TrainingOptions(
    epochs=3,
    learning_rate=0.01,
    schedule="onecycle",
    weight_decay=0.01,
    gradient_clip_norm=1.0,
    ema_decay=0.9,
    early_stopping_epochs=0,
    bf16=False,
    log_every_steps=2,
)
"""With everything on that has a state."""


class Slopes:
    """Depth from 1 to about 8 m, larger where the frame is brighter: something that can be learned."""

    size = SIZE
    slab_frames = 13
    names = tuple(str(index) for index in range(TRAIN + VAL))
    scenes = names
    scene_types = names

    def __len__(self) -> int:
        return TRAIN + VAL

    def read(self, start: int, stop: int) -> Frames:
        random = np.random.default_rng(1)
        ramps = np.linspace(0, 1, SIZE[1]) * random.uniform(0.2, 1, (TRAIN + VAL, 1, 1))
        depth_m = np.broadcast_to(1 + 7 * ramps, (TRAIN + VAL, *SIZE)).astype(np.float32)
        rgb_u8 = np.repeat((depth_m * 30).astype(np.uint8)[..., None], 3, axis=-1)
        return Frames(rgb_u8[start:stop], depth_m[start:stop], depth_m[start:stop])


def write_slopes(folder: Path) -> Path:
    write_shards(
        Slopes(),
        {"train": list(range(TRAIN)), "val": list(range(TRAIN, TRAIN + VAL)), "test": []},
        folder,
        size=SIZE,
        border=0,
        augmentation=None,
        copies=0,
        seed=0,
        facts={"source": "slopes", "trained_on": "slopes"},
    )
    return folder
