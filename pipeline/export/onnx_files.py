"""ONNX files: written with their metadata, and opened without following them out of the file.

The only module that imports onnx and ONNX Runtime, with `int8.py`; the extra `export` brings them.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.export import ExportedProgram

from pipeline.data.frames import cores
from pipeline.errors import PipelineError

try:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401  PyTorch's exporter needs it
    from google.protobuf.message import DecodeError, Message
except ImportError as error:
    raise PipelineError(
        f"{error.name} is not installed, which ONNX files need; "
        "install it with: pip install --no-deps -r requirements-export.lock"
    ) from error

OPSET = 18
"""The oldest that the exporter writes without converting, so that the most runtimes take it."""
INPUT, OUTPUT = "rgb", "depth_m"


class OnnxNetwork:
    """An ONNX file as a function: (N, 3, H, W) float32 RGB in [0, 1] to (N, 1, H, W) metres, on the CPU."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        depth_m: np.ndarray = self._session.run(None, {self._session.get_inputs()[0].name: rgb})[0]
        return depth_m


def onnx_model(program: ExportedProgram) -> onnx.ModelProto:
    """The program as a model with the input `rgb` and the output `depth_m`."""
    with _quiet():
        converted = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert converted is not None  # without a file to write to the exporter returns the program
    model = converted.model_proto
    # The exporter notes for each operation where in this machine's files it came from.
    for message in _messages(model):
        for field in ("metadata_props", "doc_string"):
            if field in message.DESCRIPTOR.fields_by_name:
                message.ClearField(field)
    return model


def save_onnx(model: onnx.ModelProto, metadata: Mapping[str, str], path: Path) -> None:
    """Write the model with exactly this metadata. Raises onnx's error for a model that breaks the standard."""
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def open_onnx(path: str | Path, threads: int | None = None) -> OnnxNetwork:
    """Open a model for ONNX Runtime. `threads` of the CPU; None: as many as this process may use.

    A file is data and nothing in it is executed but ONNX's own operations. Raises `PipelineError` for a file that
    is no ONNX model, that refers to other files, or that wants operations from elsewhere.
    """
    path = Path(path)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except FileNotFoundError:
        raise PipelineError(f"{path} does not exist; write it with: depth export --format onnx") from None
    except DecodeError as error:
        raise PipelineError(f"{path} is no ONNX model: {error}") from error
    if not model.graph.node:
        raise PipelineError(f"{path} is no ONNX model: it holds no operations")
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto) and (
            message.data_location == onnx.TensorProto.EXTERNAL or message.external_data
        ):
            raise PipelineError(f"{path} keeps {message.name or 'a tensor'} in another file, which is not opened")
    try:
        return run_model(model, threads)
    except Exception as error:  # ONNX Runtime has a class for each of its refusals
        raise PipelineError(f"{path} cannot be run by ONNX Runtime: {' '.join(str(error).split())}") from error


def run_model(model: onnx.ModelProto, threads: int | None = None) -> OnnxNetwork:
    """As `open_onnx` does, a model that was made here."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or cores()
    options.log_severity_level = 3  # errors are raised
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return OnnxNetwork(session)


def _messages(message: Message) -> Iterator[Message]:
    """The message and all that it contains: tensors hide in graphs, attributes, subgraphs and functions."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if isinstance(value, Sequence) else [value]:
                yield from _messages(inner)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's talk of packages that are not needed and of its own old functions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
