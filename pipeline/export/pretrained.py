"""The weights that come with the project, made of a finished training on NYU Depth v2: `make pretrained`.

Weights, facts and card lie side by side in models/pretrained and are committed. Figures and parameters are those
that the stages wrote; nothing is typed in.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from pipeline import paths
from pipeline.data.kinds import KINDS, kind_of
from pipeline.data.shards import read_index
from pipeline.data.source import open_source
from pipeline.data.splits import TRAINED_ON
from pipeline.environment import git
from pipeline.errors import PipelineError, reported_to_user
from pipeline.evaluation.protocols import PROTOCOLS
from pipeline.files import read_json, sha256_of, write_json, write_text, written_whole
from pipeline.model.checkpoint import CheckpointInfo, load_network, read_checkpoint_info
from pipeline.model.network import count_parameters
from pipeline.overrides import changed_overrides
from pipeline.params import WHERE_COMPUTED, flatten
from pipeline.yaml_text import parse_yaml

MOST_PARAMETERS = 500_000
MOST_BYTES = 2_500_000
"""Of what every clone carries; half a million float32 are 2.0 MB."""
OFFICIAL_TEST_FRAMES = 654
FIGURES = ("rmse", "abs_rel", "delta1")
STAGES = ("fetch", "preprocess", "train", "evaluate")


def keep_pretrained() -> dict[str, Any]:
    """Copy the best checkpoint to its place beside facts and card, and return the facts.

    Works in the working folder, the repository's root. Raises `PipelineError`, and writes nothing, if the weights
    are not of NYU Depth v2's training split, too large, name a path, or do not belong to the figures beside them.
    """
    params = _parameters_noted()
    info, parameters = _checked_weights()
    facts = _facts(info, parameters, params)
    with written_whole(paths.PRETRAINED) as partial:
        shutil.copyfile(paths.BEST_CHECKPOINT, partial)
    write_json(paths.PRETRAINED_FACTS, facts)
    write_text(paths.PRETRAINED_CARD, card(facts))
    return facts


def _parameters_noted() -> dict[str, Any]:
    """The parameters that weights and figures were made with, flat, as dvc.lock has them.

    params.yaml may have changed since. Raises `PipelineError` unless the files are those that dvc.lock notes.
    """
    mend = "run `dvc repro` (or `dvc exp run`) to the end first"
    if not paths.LOCK.is_file():
        raise PipelineError(f"{paths.LOCK} does not exist here; {mend}, at the root of the repository")
    stages = (parse_yaml(paths.LOCK.read_text(encoding="utf-8")) or {}).get("stages", {})
    if missing := [stage for stage in STAGES if stage not in stages]:
        raise PipelineError(f"{paths.LOCK} notes no stage {missing[0]}; {mend}")
    made = {out["path"]: out["md5"] for stage in STAGES for out in stages[stage].get("outs", ())}
    read = {dep["path"]: dep["md5"] for stage in ("train", "evaluate") for dep in stages[stage].get("deps", ())}
    start = stages["train"].get("params", {}).get(paths.PARAMS.name, {}).get("train", {}).get("start_from")
    # Of another start than that in git DVC notes nothing.
    starts = [Path(start)] if start in read else []
    for path in (paths.BEST_CHECKPOINT, paths.RUN, paths.METRICS, *starts):
        name = path.as_posix()
        found = hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else "no file"
        noted = {hashes[name] for hashes in (made, read) if name in hashes}
        if noted != {found}:
            raise PipelineError(f"{name} is not the one that {paths.LOCK} notes of weights and figures; {mend}")
    flat: dict[str, Any] = {}
    for stage in STAGES:
        flat |= flatten(stages[stage].get("params", {}).get(paths.PARAMS.name, {}))
    others = tuple(f"fetch.{source}." for source in KINDS if source != flat["fetch.source"])
    return {
        name: value
        for name, value in sorted(flat.items())
        if name not in WHERE_COMPUTED and not name.startswith(("tracking.", *others))
    }


def _for_others(value: Any) -> Any:
    """A parameter as anybody may see it: of a path outside the repository only what the file is called."""
    is_elsewhere = isinstance(value, str) and value.startswith(("/", "~", ".."))
    return f"/path/to/{Path(value).name}" if is_elsewhere else value


def _checked_weights() -> tuple[CheckpointInfo, int]:
    """What the best checkpoint says of itself, and how many parameters it has."""
    path = paths.BEST_CHECKPOINT
    parameters = count_parameters(load_network(path))
    info = read_checkpoint_info(path)
    if parameters > MOST_PARAMETERS or path.stat().st_size > MOST_BYTES:
        raise PipelineError(
            f"{path} has {parameters:,} parameters in {path.stat().st_size / 1e6:.1f} MB; at most "
            f"{MOST_PARAMETERS:,} in {MOST_BYTES / 1e6} MB are kept in git, so train with a smaller network.width"
        )
    if not (info.source and kind_of(info.source).is_nyu):
        kept = " or ".join(source for source, kind in KINDS.items() if kind.is_nyu)
        raise PipelineError(
            f"{path} was trained with fetch.source {info.source}; {paths.PRETRAINED.name} is for weights of "
            f"NYU Depth v2's labelled frames: {kept}"
        )
    if info.trained_on != TRAINED_ON["official"]:
        raise PipelineError(
            f"{path} was trained on {info.trained_on}, so its test figures say nothing; train with "
            "preprocess.split=official"
        )
    with safe_open(path, framework="np") as file:
        for key, value in file.metadata().items():
            # JSON escapes a backslash, and nothing else that a checkpoint tells has either.
            if "/" in value or "\\" in value:
                raise PipelineError(f"{path} names what looks like a path of this machine in its {key}: {value}")
    return info, parameters


def _facts(info: CheckpointInfo, parameters: int, params: Mapping[str, Any]) -> dict[str, Any]:
    metrics, index = read_json(paths.METRICS), read_index(paths.SHARDS)
    if metrics["checkpoint_epoch"] != info.epoch:
        raise PipelineError(
            f"{paths.METRICS} scores the weights of epoch {metrics['checkpoint_epoch']}, and the best ones are of "
            f"epoch {info.epoch}; evaluate those with -S evaluate.checkpoint=best"
        )
    if index["fingerprint"] != info.data_fingerprint:
        raise PipelineError(f"{paths.SHARDS} holds other frames than those trained on; run `dvc checkout`")
    frames = {
        split: sum(frame["copy"] == 0 for frame in index["splits"][split]["contents"]) for split in ("train", "val")
    }
    environment = read_json(paths.RUN)["environment"]
    return {
        "file": paths.PRETRAINED.name,
        "sha256": sha256_of(paths.BEST_CHECKPOINT),
        "bytes": paths.BEST_CHECKPOINT.stat().st_size,
        "parameters": parameters,
        "architecture": info.architecture,
        "options": info.options,
        "input_size": list(info.input_size),
        "data": KINDS["nyu_v2"].name,
        "data_source": info.source,
        "data_licence": KINDS["nyu_v2"].terms,
        "trained_on": info.trained_on,
        "start": _start(params.get("train.start_from")),
        "train_frames": frames["train"],
        "validation_frames": frames["val"],
        "epochs": params["train.epochs"],
        "epoch": info.epoch,
        "val_rmse_m": info.val_rmse,
        "seed": params["seed"],
        "device": environment["device"].partition(":")[0],
        "processor": environment.get("processor"),
        "torch": environment["torch"],
        "test": {
            "split": metrics["split"],
            "frames": metrics["frames"],
            "frames_sha256": metrics["frames_sha256"],
            "height": metrics["height"],
            "width": metrics["width"],
            "raw_depth_is_filled": _raw_depth_is_filled(),
        },
        "figures": list(_figures(metrics)),
        "mean_map": list(_rows("full", metrics["baseline_mean_map"]["full"], flips_averaged=False)),
        "command": _command(params),
        "params": {name: _for_others(value) for name, value in params.items()},
    }


def _start(path: str | None) -> dict[str, Any] | None:
    """The weights that the training began with; None for random ones."""
    if path is None:
        return None
    info = read_checkpoint_info(path)
    if info.trained_on != TRAINED_ON["official"]:
        raise PipelineError(f"train.start_from {path} was trained on {info.trained_on}; begin with other weights")
    kind = kind_of(info.source or "unknown sources")
    return {"file": Path(path).name, "sha256": sha256_of(Path(path)), "data": kind.name, "data_licence": kind.terms}


def _figures(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each protocol without flips averaged, as `depth predict` works, and one as it asks for them."""
    for name, protocol in PROTOCOLS.items():
        yield from _rows(name, metrics["single"][name], flips_averaged=False)
        if protocol.flip_averaging:
            yield from _rows(name, metrics["flip_averaged"][name], flips_averaged=True)


def _rows(protocol: str, scores: Mapping[str, float], *, flips_averaged: bool) -> Iterator[dict[str, Any]]:
    averaged = PROTOCOLS[protocol].averaged
    ending = "_pooled" if averaged == "pooled" else ""
    figures = {name: scores[f"{name}{ending}"] for name in FIGURES}
    yield {"protocol": protocol, "averaged": averaged, "flips_averaged": flips_averaged} | figures


def _raw_depth_is_filled() -> bool:
    """Whether the raw depth that `eigen` scores has no holes of the sensor, as in files of decoded frames."""
    with open_source(paths.RAW) as source:
        first = source.splits["test"][0]
        frame = source.frames.read(first, first + 1)
    return bool((frame.depth_m == frame.raw_depth_m).all())


def _command(params: Mapping[str, Any]) -> str:
    """What trains it at the present commit: the parameters that differ from the committed ones."""
    committed = git("show", f"HEAD:./{paths.PARAMS}")
    if not committed:
        raise PipelineError(f"git has no commit here that holds {paths.PARAMS}; run this in a clone")
    defaults = flatten(parse_yaml(committed))
    told = {name: _for_others(value) for name, value in params.items() if value != defaults.get(name)}
    changed = changed_overrides(told, defaults)
    return " ".join(["dvc exp run", *changed]) if changed else "dvc repro"


def card(facts: Mapping[str, Any]) -> str:
    """README.md beside the weights, of their facts alone."""
    test = facts["test"]
    rows, columns = facts["input_size"]
    of_all = "All" if test["frames"] == OFFICIAL_TEST_FRAMES else f"{test['frames']} of the"
    hardware = f" ({facts['processor']})" if facts["device"] == "cpu" and facts["processor"] else ""
    chosen = (
        f"{facts['validation_frames']} more, of other scenes, chose the epoch"
        if facts["validation_frames"]
        else "none were set aside for validation"
    )
    filled = (
        "The file's raw depth has no holes: `eigen` scores in-painted pixels, too.\n"
        if test["raw_depth_is_filled"]
        else ""
    )
    table = "\n".join(
        [_table_row("this network", row) for row in facts["figures"]]
        + [_table_row("mean-depth map of the training frames", row) for row in facts["mean_map"]]
    )
    command = facts["command"].replace(" -S ", " \\\n        -S ")
    weights = f"{facts['parameters']:,} parameters, {facts['bytes'] / 1e6:.1f} MB"
    start = facts["start"]
    began = (
        f"`{start['file']}`, trained on {start['data']} (sha256 `{start['sha256']}`)" if start else "random weights"
    )
    licence = facts["data_licence"] + (
        f"\nOf the weights that it began with: {start['data_licence']}" if start else ""
    )
    size = f"{test['height']} x {test['width']}"
    name = Path(facts["file"]).stem
    deepest = f"{facts['options']['max_depth_m']:g}"
    return f"""\
# {name}

Depth in metres from one photo of a room. `depth predict`, `depth demo`, `depth export` and `DepthEstimator()` use
these weights where nothing was trained yet. `make pretrained` writes this card, from `{name}.json`.

| | |
|---|---|
| network | {facts["architecture"]}, {weights} |
| began with | {began} |
| trained on | {facts["data"]}, {facts["trained_on"]}: {facts["train_frames"]} labelled frames; {chosen} |
| sees | {rows} x {columns} pixels (height x width), to which a photo is stretched |
| training | epoch {facts["epoch"]} of {facts["epochs"]}, seed {facts["seed"]}, on {facts["device"]}{hardware} |
| made with | torch {facts["torch"]} |
| sha256 | `{facts["sha256"]}` |

## Figures

{of_all} {OFFICIAL_TEST_FRAMES} frames of the official test split, scored at {size}.
None of them was trained or selected on.

| | protocol | averaged | flips averaged | RMSE (m) | AbsRel | δ1 |
|---|---|---|---|---|---|---|
{table}

Figures compare only within one protocol, averaging and use of flips. `depth predict` averages no flips.
{filled}
## How it was made

    {command}
    make pretrained

`{name}.json` has every parameter, and the figures unrounded.

## Limits

Not for measuring: one image does not determine scale. It knows rooms up to {deepest} m and the lens of one
camera; another field of view shifts every depth, and close-ups come out wrong.

## Terms

The weights are this project's own. {licence}
"""


def _table_row(name: str, row: Mapping[str, Any]) -> str:
    flips = "yes" if row["flips_averaged"] else "no"
    figures = " | ".join(f"{row[figure]:.3f}" for figure in FIGURES)
    return f"| {name} | `{row['protocol']}` | {row['averaged']} | {flips} | {figures} |"


def main() -> None:
    facts = keep_pretrained()
    full = next(row for row in facts["figures"] if row["protocol"] == "full")
    print(
        f"{paths.PRETRAINED}: {facts['parameters']:,} parameters, {facts['bytes'] / 1e6:.1f} MB; RMSE "
        f"{full['rmse']:.3f} m on {facts['test']['frames']} test frames (full); commit {paths.PRETRAINED.parent}"
    )


if __name__ == "__main__":
    with reported_to_user("make pretrained"):
        main()
