"""The name of what a stage is about to make, from all that decides it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.files import sha256_of
from pipeline.params import WHERE_COMPUTED, Params, flatten
from pipeline.state import state_key
from pipeline.yaml_text import parse_yaml


def stage_key(stage: str, params: Params, data: Any) -> str:
    """The name of a stage's work: parameters, data and code decide it.

    They are those by which DVC tells whether the stage is the same, so dvc.yaml names them. data: what tells the
    stage's input from any other, as JSON.
    """
    listed = parse_yaml(paths.PIPELINE.read_text(encoding="utf-8"))["stages"][stage]
    decisive = {
        key: value
        for key, value in flatten(params.model_dump()).items()
        if key not in WHERE_COMPUTED  # work can be gone on with elsewhere
        and any(key == name or key.startswith(f"{name}.") for name in listed["params"])
    }
    code = {name: sha256_of(Path(name)) for name in listed["deps"] if name.endswith(".py")}
    return state_key(params=decisive, data=data, code=code)
