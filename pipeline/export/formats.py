"""Graphs as files with their metadata, and files as functions that can be checked against the network."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.export.graph import DepthGraph, export_program

Run = Callable[[np.ndarray], np.ndarray]
"""(N, 3, H, W) float32 RGB to (N, 1, H, W) float32 metres, in whatever runtime"""
Writer = Callable[[DepthGraph, Mapping[str, str], Path], None]

METADATA = "metadata.json"
"""Name of the extra file in a TorchScript or PT2 archive."""
EXAMPLE_SHAPE = (2, 3, 96, 64)
"""Of the images that graphs are recorded with; two sides and a number that are told apart."""


def write_torchscript(graph: DepthGraph, metadata: Mapping[str, str], path: Path) -> None:
    """A traced graph, for `torch.jit.load` and libtorch, on the CPU."""
    with warnings.catch_warnings():
        # What depends on the size in Python is only that too small images are refused.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        with torch.no_grad():
            traced = torch.jit.trace(graph, torch.rand(EXAMPLE_SHAPE), check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={METADATA: json.dumps(dict(metadata))})


def run_torchscript(path: Path) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return _of_tensors(torch.jit.load(str(path), map_location="cpu"))


def write_pt2(graph: DepthGraph, metadata: Mapping[str, str], path: Path) -> None:
    """An exported program, for `torch.export.load` and AOTInductor."""
    buffer = io.BytesIO()  # a file has to be called .pt2, and one that is not whole yet is not
    program = export_program(graph, torch.rand(EXAMPLE_SHAPE))
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(dict(metadata))})
    path.write_bytes(buffer.getvalue())


def run_pt2(path: Path) -> Run:
    """For files that were just written only: the format can hold pickles, which PyTorch would execute."""
    with path.open("rb") as file:
        return _of_tensors(torch.export.load(file).module())


def write_onnx(graph: DepthGraph, metadata: Mapping[str, str], path: Path) -> None:
    """A model of one file, for ONNX Runtime and whatever else reads the format."""
    from pipeline.export.onnx_files import onnx_model, save_onnx

    save_onnx(onnx_model(export_program(graph, torch.rand(EXAMPLE_SHAPE))), metadata, path)


def run_onnx(path: Path) -> Run:
    from pipeline.export.onnx_files import open_onnx

    return open_onnx(path)


def _of_tensors(module: Callable[[Tensor], Tensor]) -> Run:
    def run(rgb: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            depth_m: np.ndarray = module(torch.from_numpy(rgb)).numpy()
        return depth_m

    return run


WRITERS_AND_RUNNERS: dict[str, tuple[Writer, Callable[[Path], Run]]] = {
    "onnx": (write_onnx, run_onnx),
    "torchscript": (write_torchscript, run_torchscript),
    "pt2": (write_pt2, run_pt2),
}
"""Name of a format -> what writes a file of it, and what opens one."""
