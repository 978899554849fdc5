"""Depth of images in three lines of Python."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.data.pixels import resize_rgb, to_unit_rgb
from pipeline.errors import PipelineError
from pipeline.evaluation.predictor import network_predictor
from pipeline.model.checkpoint import load_network, read_checkpoint_info
from pipeline.model.network import count_parameters
from pipeline.prediction.images import Photo, as_rgb, read_photo
from pipeline.prediction.models import checkpoint_file, chosen_model
from pipeline.training.device import choose_device

BATCH = 16
ImageLike = str | Path | IO[bytes] | Image.Image | np.ndarray | Tensor | Photo


class DepthEstimator:
    """Predicts the distance from the camera's plane, in metres, for images of any size.

    >>> from pipeline import DepthEstimator
    >>> estimator = DepthEstimator()
    >>> depth_m = estimator("photo.jpg")
    >>> depth_m.shape, depth_m.dtype
    ((48, 64), dtype('float32'))

    Several images are given as a list, and their depth maps come as a list:

    >>> [depth_m.shape for depth_m in estimator(["photo.jpg", np.zeros((30, 40, 3), np.uint8)])]
    [(48, 64), (30, 40)]
    """

    def __init__(self, model: str | Path | None = None, *, device: str = "auto", batch_size: int = BATCH) -> None:
        """model: a checkpoint's file, `models:/NAME@ALIAS` or `models:/NAME/VERSION` of MLflow's registry, or the
        id or name of an MLflow run; None for what was trained in the repository, or else the weights that come
        with it. device: auto, cpu or cuda. batch_size: how many images are predicted at once.

        Raises `PipelineError` if the model is not there or no checkpoint of this project. Nothing in it is
        executed.
        """
        if device not in ("auto", "cpu", "cuda"):
            raise PipelineError(f"there is no device {device!r}; choose auto, cpu or cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise PipelineError("the device is cuda, but PyTorch sees no CUDA device; choose auto or cpu")
        if batch_size < 1:
            raise PipelineError(f"a batch of {batch_size} images is none; choose a batch size of 1 or more")
        self.device = choose_device(device)
        model = chosen_model(model)
        with checkpoint_file(model) as path:
            network, self.info = load_network(path), read_checkpoint_info(path)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.batch_size = batch_size
        self.facts: dict[str, Any] = {
            "model": str(model),
            "sha256": digest,
            "architecture": self.info.architecture,
            "parameters": count_parameters(network),
            "input_size": list(self.info.input_size),
            "trained_on": self.info.trained_on,
            "data_source": self.info.source,
            "epoch": self.info.epoch,
            "val_rmse_m": self.info.val_rmse,
            "data_fingerprint": self.info.data_fingerprint,
            "mlflow_run_id": self.info.run_id,
            "max_depth_m": self.info.options.get("max_depth_m"),
        }
        """what is known of the model, as JSON takes it"""
        self._predict = network_predictor(network, self.info.input_size, self.info.border, self.device)

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a string is a sequence of strings, but no list of images
        self, images: ImageLike
    ) -> np.ndarray: ...

    @overload
    def __call__(self, images: Sequence[ImageLike]) -> list[np.ndarray]: ...

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> np.ndarray | list[np.ndarray]:
        """The depth map of an image, float32 metres (H, W) at the image's own size; of a list of images a list.

        An image is a path or an opened file, a Pillow image, a numpy array (H, W, 3) or, if grey, (H, W), or a
        tensor (3, H, W), (1, H, W) or (H, W). Arrays and tensors hold uint8, or floats from 0 to 1. The image need
        not have the proportions of the training frames: it is stretched to them and its depth stretched back. On
        108 NYU test frames, cropped to five proportions from 2:1 to 9:16, RMSE then was between 5 % lower and 3 %
        higher than that of undistorted frames with the same longer side, and between 23 % lower and 2 % higher
        than with the same shorter side.

        Raises `PipelineError`, which names the file or the image's place in the list, for anything else.
        """
        if not isinstance(images, (list, tuple)):
            return self([images])[0]  # type: ignore[list-item]  # no sequence, so one image
        found: list[np.ndarray] = []
        for start in range(0, len(images), self.batch_size):
            prepared, sizes = [], []
            for number, image in enumerate(images[start : start + self.batch_size], start):
                place = f"image {number + 1} of {len(images)}" if len(images) > 1 else "the image"
                small, size = self._prepared(image, place)
                prepared.append(small)
                sizes.append(size)
            small_m = self.predict(torch.stack(prepared))
            found += [enlarged(depth_m, size) for depth_m, size in zip(small_m, sizes, strict=True)]
        return found

    def prepare(self, rgb_u8: np.ndarray) -> Tensor:
        """What the network sees of an image: (H, W, 3) uint8 to (3, h, w) in [0, 1], averaged by area."""
        return self._reduced(torch.from_numpy(rgb_u8).permute(2, 0, 1))

    def predict(self, prepared: Tensor) -> Tensor:
        """(n, 3, h, w) prepared images to (n, h, w) metres, on the CPU."""
        return self._predict(prepared)[:, 0].cpu()

    def _prepared(self, image: ImageLike, place: str) -> tuple[Tensor, tuple[int, int]]:
        """What the network sees of it, and its own size (height, width)."""
        if isinstance(image, (np.ndarray, Tensor)):
            planes = _planes(image, place)
            return self._reduced(planes), (planes.shape[1], planes.shape[2])
        if isinstance(image, Image.Image):
            try:
                rgb = as_rgb(image)
            except (OSError, ValueError) as error:
                raise PipelineError(f"{place} cannot be read: {error}") from error
            return self.prepare(np.array(rgb)), (rgb.height, rgb.width)
        if isinstance(image, Photo):
            return self.prepare(np.array(image.rgb)), image.size
        if not (isinstance(image, (str, Path)) or hasattr(image, "read")):
            raise PipelineError(
                f"{place} is a {type(image).__name__}; give a path, a Pillow image, an array or a tensor"
            )
        photo = read_photo(image)
        return self.prepare(np.array(photo.rgb)), photo.size

    def _reduced(self, planes: Tensor) -> Tensor:
        """(3, H, W) uint8 or [0, 1] to (3, h, w) in [0, 1]."""
        # One plane at a time: as floats a large photograph takes four times its memory.
        averaged = [
            resize_rgb(to_unit_rgb(plane) if plane.dtype == torch.uint8 else plane.float(), self.info.input_size)
            for plane in planes[:, None, None]
        ]
        return torch.cat(averaged, dim=1)[0]


def enlarged(depth_m: Tensor, size: tuple[int, int]) -> np.ndarray:
    """(h, w) metres at another (height, width), bilinear, as float32."""
    whole_m = interpolate(depth_m[None, None], size, mode="bilinear", align_corners=False)
    return np.asarray(whole_m[0, 0].numpy())


def _planes(image: np.ndarray | Tensor, place: str) -> Tensor:
    """An array or tensor as (3, H, W), uint8 or floats in [0, 1]. Raises `PipelineError` if it is neither."""
    kind, wanted = ("array", "(H, W, 3) or (H, W)") if isinstance(image, np.ndarray) else ("tensor", "(3, H, W)")
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 and image.dtype.kind != "f":
            raise PipelineError(f"{place} is an array of {image.dtype}; give uint8, or floats from 0 to 1")
        is_rgb = image.ndim == 3 and image.shape[2] == 3
        # PyTorch takes neither every kind of float nor, without a warning, an array that is read-only.
        kind_of_numbers = np.float32 if image.dtype.kind == "f" else np.uint8
        planes = torch.from_numpy(np.require(image, kind_of_numbers, ["C", "W"]))
        planes = planes.permute(2, 0, 1) if is_rgb else planes[None]
    else:
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise PipelineError(f"{place} is a tensor of {image.dtype}; give uint8, or floats from 0 to 1")
        planes = image.detach().cpu()
        is_rgb = planes.ndim == 3 and planes.shape[0] == 3
        if planes.ndim == 2:
            planes = planes[None]
    if planes.ndim != 3 or planes.shape[0] not in (1, 3) or 0 in planes.shape:
        raise PipelineError(f"{place} is {_article(kind)} of shape {tuple(image.shape)}; give {wanted}")
    if planes.is_floating_point():
        low, high = float(planes.min()), float(planes.max())
        if not (low >= 0 and high <= 1):  # also with NaN
            raise PipelineError(f"{place} holds floats from {low:g} to {high:g}; give them from 0 to 1, or uint8")
    return planes if is_rgb else planes.expand(3, -1, -1)


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
