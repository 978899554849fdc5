"""Networks as single safetensors files that describe themselves. Loading one never runs code from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.files import written_whole
from pipeline.model.network import build_network


@dataclass(frozen=True)
class CheckpointInfo:
    """The file's own metadata: everything needed to rebuild the network and to know where it came from."""

    architecture: str
    options: dict[str, Any]
    input_size: tuple[int, int]
    """(height, width) of the frames that it was trained on"""
    border: int
    """pixels at each edge of the input that were not trained on; predictions there are not to be used"""
    epoch: int
    val_rmse: float | None
    """metres, mean over the validation frames; None without validation frames"""
    data_fingerprint: str
    trained_on: str
    run_id: str | None
    """the MLflow run that made it"""
    source: str | None = None
    """`fetch.source` of its data; None in files from before it was kept"""
    started_from: dict[str, str | None] | None = None
    """`file`, `sha256`, `source` and `trained_on` of the weights that its training began with; None: random ones"""


def save_checkpoint(path: Path, weights: Mapping[str, Tensor], info: CheckpointInfo) -> None:
    """Write the `state_dict` of a network with its metadata; the file appears whole or not at all."""
    # A tensor's memory layout is the trainer's business; files hold plain row-major tensors.
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    metadata = {key: json.dumps(value) for key, value in vars(info).items()}
    with written_whole(path) as partial:
        save_file(plain, partial, metadata)


def read_checkpoint_info(path: str | Path) -> CheckpointInfo:
    """The metadata alone. Raises `PipelineError` if the file is missing, damaged or not a checkpoint of ours."""
    with _opened(Path(path)) as file:
        return _info(Path(path), file.metadata())


def load_network(path: str | Path) -> nn.Module:
    """A ready network in eval mode on the CPU; `read_checkpoint_info` tells its input size and origin."""
    path = Path(path)
    with _opened(path) as file:
        info = _info(path, file.metadata())
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    try:
        network = build_network(info.architecture, **info.options)
        network.load_state_dict(weights)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())  # PyTorch lists the tensors line by line
        raise PipelineError(f"{path} does not fit its own description: {reason}") from error
    return network.eval()


def start_from(network: nn.Module, path: str | Path, options: Mapping[str, Any]) -> None:
    """Give `network`, which `options` describe, the weights of a checkpoint to begin with.

    Raises `PipelineError` if the file is missing or damaged, or is of another network.
    """
    path = Path(path)
    theirs = read_checkpoint_info(path)
    # Files from before there was attention do not name it, and have none.
    described = {"attention": 0, "architecture": theirs.architecture, **theirs.options}
    other = [f"{key} {described.get(key)}" for key, value in options.items() if described.get(key) != value]
    if other:
        raise PipelineError(f"train.start_from: {path} has network.{', network.'.join(other)}; set the same here")
    network.load_state_dict(load_network(path).state_dict())


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise PipelineError(f"{path} does not exist; run the train stage first")
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise PipelineError(f"{path} is not a readable safetensors file: {error}") from error


def _info(path: Path, metadata: dict[str, str] | None) -> CheckpointInfo:
    try:
        fields = {key: json.loads(value) for key, value in (metadata or {}).items() if key != "format"}
        fields["input_size"] = tuple(fields["input_size"])
        return CheckpointInfo(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise PipelineError(f"{path} lacks the metadata of a depth checkpoint: {error}") from error
