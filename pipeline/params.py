"""The typed view of params.yaml, and its only reader.

Every section is strict, frozen and forbids unknown keys, so that a slip of the pen stops the stage instead of
training something else. Meanings, units and ranges of the keys are told in params.yaml itself.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator
from pydantic_core import ErrorDetails

from pipeline import paths
from pipeline.errors import PipelineError
from pipeline.yaml_text import read_yaml

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=1)]

WHERE_COMPUTED = ("preprocess.cluster", "train.device", "train.devices", "train.resident", "evaluate.device")
"""Parameters that say where something is computed, not what comes of it."""


def _devices(value: Any) -> int | str:
    # A union would be told as two errors, one for each of its types.
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise ValueError(f"it is {value!r}; it should be auto or a whole number of at least 1")


def _cluster(value: Any) -> str:
    if isinstance(value, str) and (value in ("local", "auto") or re.fullmatch(r"\S+:\d+", value)):
        return value
    raise ValueError(
        f"it is {value!r}; it should be local, the HOST:PORT of a Ray cluster, or auto on a machine of it"
    )


class Section(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Rooms(Section):
    frames: Annotated[int, Field(ge=8)]
    frames_per_scene: Count
    test_fraction: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed


class NyuV2(Section):
    labeled_urls: Annotated[list[str], Field(min_length=1)]
    splits_urls: Annotated[list[str], Field(min_length=1)]


class File(Section):
    labeled: str | None
    splits: str | None


class Folder(Section):
    list: str | None
    test_list: str | None
    root: str | None
    depth_scale: Positive


class NyuRaw(Section):
    directory: str | None
    every: Count
    max_gap_s: NotNegative
    labeled: str | None
    splits: str | None
    test_fraction: Annotated[float, Field(gt=0, lt=1)]


class Fetch(Section):
    source: Literal["rooms", "nyu_v2", "file", "folder", "nyu_raw"]
    rooms: Rooms
    nyu_v2: NyuV2
    file: File
    folder: Folder
    nyu_raw: NyuRaw

    @model_validator(mode="after")
    def _path_is_given(self) -> Fetch:
        if self.source == "file" and not self.file.labeled:
            raise ValueError("source is file, so file.labeled must name the labelled .mat file")
        if self.source == "folder" and not self.folder.list:
            raise ValueError("source is folder, so folder.list must name a list of images")
        if self.source == "nyu_raw" and not self.nyu_raw.directory:
            raise ValueError("source is nyu_raw, so nyu_raw.directory must name the folder of the raw sequences")
        if self.nyu_raw.splits and not self.nyu_raw.labeled:
            raise ValueError("nyu_raw.splits is of use only with nyu_raw.labeled; name both or neither")
        return self


class Preprocess(Section):
    height: Annotated[int, Field(ge=32, le=480)]
    # Not 32 by 32: one such frame leaves the deepest batch normalisation a single value.
    width: Annotated[int, Field(ge=64, le=640)]
    border: Annotated[int, Field(ge=0, le=64)]
    split: Literal["official", "all"]
    val_fraction: Annotated[float, Field(ge=0, le=0.5)]
    train_frames: Count | None
    cluster: Annotated[str, PlainValidator(_cluster)]


class Augment(Section):
    at: Literal["shards", "step", "none"]
    copies: Annotated[int, Field(ge=0, le=16)]
    flip: Probability
    zoom: Annotated[float, Field(ge=1, le=2)]
    colour: Probability
    noise_std: Annotated[float, Field(ge=0, le=0.5)]


class Network(Section):
    architecture: Literal["unet"]
    width: Annotated[int, Field(ge=4, le=128)]
    max_depth_m: Annotated[float, Field(gt=0, le=32)]
    attention: Annotated[int, Field(ge=0, le=8)]


class Loss(Section):
    error: Literal["mse", "silog"]
    scale_invariance: Probability
    ssim_weight: Probability
    gradient_weight: NotNegative


class Train(Section):
    start_from: Annotated[str, Field(min_length=1)] | None
    epochs: Count
    batch_size: Count
    learning_rate: Positive
    schedule: Literal["constant", "cosine", "onecycle"]
    weight_decay: NotNegative
    gradient_clip_norm: NotNegative
    ema_decay: Annotated[float, Field(ge=0, le=0.99999)]
    early_stopping_epochs: Annotated[int, Field(ge=0)]
    precision: Literal["auto", "fp32", "bf16"]
    device: Literal["auto", "cpu", "cuda"]
    resident: Literal["auto", "always", "never"]
    devices: Annotated[int | str, PlainValidator(_devices)]


class Evaluate(Section):
    checkpoint: Literal["best", "last"]
    batch_size: Count
    device: Literal["auto", "cpu", "cuda"]
    examples: Annotated[int, Field(ge=1, le=20)]


class Report(Section):
    title: Annotated[str, Field(min_length=1)]


class Tracking(Section):
    experiment: Annotated[str, Field(min_length=1)]
    group: Annotated[str, Field(min_length=1)] | None
    log_every_steps: Count


class Params(Section):
    seed: Seed
    fetch: Fetch
    preprocess: Preprocess
    augment: Augment
    network: Network
    loss: Loss
    train: Train
    evaluate: Evaluate
    report: Report
    tracking: Tracking


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"loss": {"ssim_weight": 0.5}} as {"loss.ssim_weight": 0.5}, the names that DVC uses."""
    flat: dict[str, Any] = {}
    for key, value in params.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def load_params(path: Path = paths.PARAMS) -> Params:
    """Read and check every parameter. Raises `PipelineError` naming the first wrong key and what is allowed."""
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        raise PipelineError(f"{path} does not exist here; run from the root of the repository") from None
    return parse_params(content, str(path))


def parse_params(content: Any, where: str) -> Params:
    """Check the nested content of params.yaml. Raises `PipelineError` that begins with `where` it comes from."""
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise PipelineError(f"{where}: {explain(error, Params)}") from error


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing that is wrong with a file of `model`, as one line."""
    # A misspelled key is both unknown and missing; the unknown one is the one to show.
    details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden")
    first = _explain_one(details[0], model)
    return first if len(details) == 1 else f"{first} (and {len(details) - 1} more)"


def _explain_one(detail: ErrorDetails, model: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "the file"
    value = detail["input"]
    if detail["type"] == "extra_forbidden":
        allowed = _keys_beside(detail["loc"], model)
        close = difflib.get_close_matches(str(detail["loc"][-1]), allowed, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        what = "a parameter" if model is Params else "a key"
        return f"{key} is not {what}; {hint}allowed here: {', '.join(allowed)}"
    if detail["type"] == "missing":
        return f"{key} is missing"
    if detail["type"] == "value_error":
        return f"{key}: {detail['ctx']['error']}"
    if detail["type"] == "model_type":
        return f"{key} should be a section of keys, not {value!r}"
    if isinstance(value, dict | list):
        return f"{key}: {_lower_first(detail['msg'])}"
    return f"{key} is {value!r}; {_lower_first(detail['msg']).replace('input should', 'it should')}"


def _keys_beside(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    section: Any = model
    for part in location[:-1]:
        if isinstance(part, str):
            section = section.model_fields[part].annotation
        # Of a list its items, and of what may be absent what it is otherwise.
        section = next((one for one in get_args(section) if hasattr(one, "model_fields")), section)
    return list(section.model_fields)


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
