"""Sample predictions during training, as pictures over the steps."""

from __future__ import annotations

import functools
import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.data.pixels import to_unit_rgb
from pipeline.data.shards import ShardSet
from pipeline.training.journal import Journal

FRAMES = 3
MOMENTS = 5
"""How many pictures are made: before training, after it, and some between."""
GAP_PX = 4
MISSING = (139, 143, 148)


class SamplePictures:
    """The same few validation frames, predicted at a few epochs: image, true depth, predicted depth."""

    def __init__(self, validation: ShardSet, training: ShardSet, epochs: int, device: torch.device) -> None:
        """Training frames stand in where there is no validation set."""
        shards = validation if len(validation) else training
        chosen = np.unique(np.linspace(0, len(shards) - 1, FRAMES + 2).round().astype(int)[1:-1])
        self._rgb_u8 = shards.rgb_u8[chosen]
        self._depth_m = shards.depth_mm[chosen].float() / 1000
        # From 0, where MLflow's slider stands at first.
        self._epochs = set(np.linspace(0, epochs, MOMENTS).round().astype(int).tolist())
        self._device = device

    @torch.inference_mode()
    def log(self, journal: Journal, network: nn.Module, epoch: int, step: int) -> None:
        """Log a picture if `epoch` is one of those chosen; epoch 0 is before training."""
        if epoch not in self._epochs:
            return
        was_training = network.training
        prediction_m = network.eval()(to_unit_rgb(self._rgb_u8).to(self._device)).float()
        network.train(was_training)
        # Drawn later, in the thread that saves: a tenth of a second that no step has to wait for.
        draw = functools.partial(tiles, self._rgb_u8, self._depth_m, prediction_m)
        journal.log_figure("predictions", draw, step)


def tiles(rgb_u8: Tensor, depth_m: Tensor, prediction_m: Tensor) -> bytes:
    """PNG with a row for each of k frames: image, true and predicted depth on one scale, near bright, missing grey.

    rgb_u8 (k, 3, h, w); depth_m, prediction_m (k, 1, h, w) metres, 0 = missing.
    """
    rows = []
    for rgb, true_m, predicted_m in zip(rgb_u8.numpy(), depth_m.numpy(), prediction_m.cpu().numpy(), strict=True):
        valid = true_m[0][true_m[0] > 0]
        low, high = np.quantile(valid, (0.01, 0.99)) if valid.size else (0.0, 10.0)
        painted = [
            _paint(values[0], float(low), max(float(high), float(low) + 0.5)) for values in (true_m, predicted_m)
        ]
        row = [rgb.transpose(1, 2, 0), *painted]
        gap = np.full((row[0].shape[0], GAP_PX, 3), 255, np.uint8)
        rows.append(np.concatenate([row[0], gap, row[1], gap, row[2]], axis=1))
    gap = np.full((GAP_PX, rows[0].shape[1], 3), 255, np.uint8)
    stacked = np.concatenate([part for row in rows for part in (row, gap)][:-1])
    png = io.BytesIO()
    # The default level takes twice the time for a file that is a tenth smaller.
    Image.fromarray(stacked).save(png, "PNG", compress_level=1)
    return png.getvalue()


def _paint(values_m: np.ndarray, low_m: float, high_m: float) -> np.ndarray:
    from matplotlib import colormaps  # half a second, which the training's start need not wait for

    share = np.clip((values_m - low_m) / (high_m - low_m), 0.0, 1.0)
    colours: np.ndarray = colormaps["magma_r"](share, bytes=True)[..., :3]
    return np.where((values_m > 0)[..., None], colours, np.array(MISSING, np.uint8))
