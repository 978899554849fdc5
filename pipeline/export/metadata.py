"""What an exported file says of itself, as plain text by key."""

from __future__ import annotations

import json
from importlib.metadata import version

from pipeline.data.kinds import kind_of
from pipeline.export.graph import MIN_DEPTH_M
from pipeline.model.checkpoint import CheckpointInfo
from pipeline.model.network import MIN_SIDE


def describe(info: CheckpointInfo) -> dict[str, str]:
    """Units, range, sizes and origin. Lists and numbers are JSON."""
    rows, columns = info.input_size
    unknown = "not known: the checkpoint does not name the data's source"
    terms = kind_of(info.source).terms if info.source else unknown
    facts = {
        "task": "monocular depth: metres from the camera's plane to what each pixel shows",
        "input": f"rgb: float32 (N, 3, H, W), red, green, blue from 0 to 1; H and W of {MIN_SIDE} or more",
        "output": "depth_m: float32 (N, 1, H, W)",
        "units": "metres",
        "range_m": [MIN_DEPTH_M, info.options["max_depth_m"]],
        "input_size": list(info.input_size),
        "border": info.border,
        "use": f"It was trained on images of {rows} x {columns} (height x width) and is most accurate there: "
        f"average an image down to that size, replace {info.border} pixels at each edge of the image and of the "
        "result by the nearest pixel inside, and enlarge the result bilinearly.",
        "architecture": info.architecture,
        "options": info.options,
        "run_id": info.run_id,
        "epoch": info.epoch,
        "val_rmse_m": info.val_rmse,
        "trained_on": info.trained_on,
        "data_source": info.source,
        "data_fingerprint": info.data_fingerprint,
        "data_licence": terms,
        "made_with": f"depth-pipeline {version('depth-pipeline')}, torch {version('torch')}",
    }
    return {key: fact if isinstance(fact, str) else json.dumps(fact) for key, fact in facts.items()}
