"""Depth of single photographs of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image, ImageOps
from torch import nn
from torch.nn.functional import interpolate

from pipeline.data.pixels import to_millimetres, to_unit_rgb
from pipeline.errors import PipelineError
from pipeline.evaluation.predictor import network_predictor
from pipeline.files import written_whole
from pipeline.model.checkpoint import CheckpointInfo


def open_image(path: Path) -> Image.Image:
    """An RGB image the right way up. Raises `PipelineError` for a file that is no image."""
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all that Pillow raises
        raise PipelineError(f"{path} cannot be read as an image: {error}") from error


def predict_image(network: nn.Module, info: CheckpointInfo, image: Image.Image) -> np.ndarray:
    """Depth in metres at the image's own size, (H, W) float32."""
    rgb = to_unit_rgb(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])
    prediction_m = network_predictor(network, info.input_size, info.border, torch.device("cpu"))(rgb)
    depth_m = interpolate(prediction_m, rgb.shape[-2:], mode="bilinear", align_corners=False)
    return depth_m[0, 0].numpy()


def write_depth(folder: Path, stem: str, depth_m: np.ndarray) -> None:
    """Write `{stem}-depth.png` (16-bit millimetres) and `{stem}-depth-colour.png` (near is bright)."""
    depth_mm = to_millimetres(torch.from_numpy(depth_m)).numpy()
    near, far = float(depth_m.min()), float(depth_m.max())
    colour = colormaps["viridis_r"]((depth_m - near) / max(far - near, 1e-6), bytes=True)[..., :3]
    for name, picture in (("depth", depth_mm.astype(np.uint16)), ("depth-colour", colour)):
        with written_whole(folder / f"{stem}-{name}.png") as partial:
            Image.fromarray(picture).save(partial, format="PNG")
