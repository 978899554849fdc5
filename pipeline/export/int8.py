"""ONNX models whose convolutions compute in 8 bits, and what that costs in accuracy."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor

from pipeline.data.pixels import from_millimetres, to_unit_rgb
from pipeline.data.shards import ShardSet
from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import depth_errors
from pipeline.export.onnx_files import INPUT, OnnxNetwork, open_onnx, save_onnx
from pipeline.progress import progress_bar

CALIBRATION_FRAMES, MEASURED_FRAMES = 64, 256
"""At most, spread over the split."""
MEASURED = ("val", "test", "train")
"""The first of these splits that has frames tells the cost."""
QUANTISED = ["Conv", "Add", "Concat", "Resize"]
"""With convolutions alone features go to float32 and back around each sum and join: 8.9 ms instead of 7.8 for an
image of 240 x 320 on one core with VNNI, where float32 takes 11.7. Unsigned features, which ReLU leaves, take a
third less time than signed ones."""


def make_int8(path: Path, shards: Path, input_size: tuple[int, int]) -> str:
    """Replace the float32 model in the file by its int8 variant and tell what that costs, in a line of text.

    The ranges of features come from clean training frames of the shards; the cost is measured on validation
    frames, or on test or training frames where there are none, and stands in the metadata too.
    Raises `PipelineError` for shards of another size than the network was trained on.
    """
    train = ShardSet(shards, "train")
    if train.size != input_size:
        (height, width), (rows, columns) = train.size, input_size
        raise PipelineError(
            f"the frames in {shards} are {height} x {width}, the network was trained on {rows} x {columns}; "
            "give shards of that size with --shards"
        )
    measured = next(found for found in (ShardSet(shards, split) for split in MEASURED) if len(found))
    model = onnx.load_from_string(path.read_bytes())
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    exact = open_onnx(path)
    calibrated_on = _spread(train, CALIBRATION_FRAMES)
    model = quantise(model, (rgb for rgb, _ in _frames(train, calibrated_on)))
    save_onnx(model, metadata, path)
    measured_on = _spread(measured, MEASURED_FRAMES)
    loss = accuracy_lost(exact, open_onnx(path), _frames(measured, measured_on), len(measured_on))
    facts = {
        "precision": "int8",
        "calibrated_on": f"{len(calibrated_on)} frames of train",
        "measured_on": f"{len(measured_on)} frames of {measured.split}",
        "shards_fingerprint": train.index["fingerprint"],
        **{key: json.dumps(value) for key, value in loss.items()},
    }
    save_onnx(model, metadata | facts, path)
    return (
        f"int8, set by {facts['calibrated_on']}: on {facts['measured_on']} depth differs by "
        f"{loss['mean_difference_m']:.4f} m (at most {loss['largest_difference_m']:.3f}), RMSE goes from "
        f"{loss['rmse_float32_m']:.4f} to {loss['rmse_int8_m']:.4f} m"
    )


def quantise(model: onnx.ModelProto, frames: Iterable[np.ndarray]) -> onnx.ModelProto:
    """The model in int8 as far as `QUANTISED`: weights by output channel, features by their range over `frames`.

    frames: (1, 3, H, W) float32 RGB in [0, 1]. The last convolution, which tells metres, and what follows it stay
    in float32.
    """
    nodes = list(model.graph.node)
    last = max(number for number, node in enumerate(nodes) if node.op_type == "Conv")
    with TemporaryDirectory(prefix="depth-export-") as folder, _quiet():
        quantised = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            quantised,
            _Reader(frames),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=QUANTISED,
            nodes_to_exclude=[node.name for node in nodes[last:]],
        )
        return onnx.load(quantised, load_external_data=False)


def accuracy_lost(
    exact: OnnxNetwork, quantised: OnnxNetwork, frames: Iterable[tuple[np.ndarray, Tensor]], count: int
) -> dict[str, float]:
    """How far the quantised network is from the exact one, and both from the truth, in metres.

    frames: `count` pairs of (1, 3, H, W) RGB and (1, 1, H, W) true metres, 0 = missing. RMSE is the
    mean over images that have a true pixel.
    """
    differences, largest = [], 0.0
    errors: dict[str, list[Tensor]] = {"float32": [], "int8": []}
    with progress_bar(count, "measure", "frame") as progress:
        for rgb, depth_m in frames:
            predictions_m = {"float32": torch.from_numpy(exact(rgb)), "int8": torch.from_numpy(quantised(rgb))}
            difference_m = (predictions_m["int8"] - predictions_m["float32"]).abs()
            differences.append(float(difference_m.mean()))
            largest = max(largest, float(difference_m.max()))
            for name, prediction_m in predictions_m.items():
                errors[name].append(depth_errors(prediction_m, depth_m)["rmse"])
            progress.update()
    rmse = {name: float(torch.cat(found).nanmean()) for name, found in errors.items()}
    return {
        "mean_difference_m": sum(differences) / len(differences),
        "largest_difference_m": largest,
        "rmse_float32_m": rmse["float32"],
        "rmse_int8_m": rmse["int8"],
    }


def _spread(shards: ShardSet, most: int) -> list[int]:
    """Positions of so many clean frames, from the first to the last."""
    clean = [position for position, frame in enumerate(shards.frames) if frame.copy == 0]
    return [clean[int(place)] for place in np.linspace(0, len(clean) - 1, min(most, len(clean)))]


def _frames(shards: ShardSet, positions: Iterable[int]) -> Iterator[tuple[np.ndarray, Tensor]]:
    """(1, 3, H, W) float32 RGB and (1, 1, H, W) metres of each."""
    for position in positions:
        one = slice(position, position + 1)
        yield to_unit_rgb(shards.rgb_u8[one]).numpy(), from_millimetres(shards.depth_mm[one])


class _Reader(CalibrationDataReader):
    def __init__(self, frames: Iterable[np.ndarray]) -> None:
        self._frames = iter(frames)

    def get_next(self) -> dict[str, np.ndarray] | None:
        rgb = next(self._frames, None)
        return None if rgb is None else {INPUT: rgb}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice to prepare models that PyTorch's exporter has prepared."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
