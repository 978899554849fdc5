"""What an exported file says of itself, as plain text by key."""

from __future__ import annotations

import json
from importlib.metadata import version

from pipeline.export.graph import MIN_DEPTH_M
from pipeline.model.checkpoint import CheckpointInfo
from pipeline.model.network import MIN_SIDE

LICENCES = {
    "rooms": "none: rendered by the program itself, from nobody's pictures",
    "nyu_v2": "NYU Depth v2, research data under its own terms",
    "nyu_raw": "NYU Depth v2 (its raw recordings), research data under its own terms",
    "file": "those of the file that was given; NYU Depth v2 is research data under its own terms",
    "folder": "those of the images that were given",
}
"""By `fetch.source`, the terms of the data that the network was trained on."""


def _licence(source: str | None) -> str:
    if not source:
        return "not known: the checkpoint does not name the data's source"
    return LICENCES.get(source, f"not known: that of the data source {source}")


def describe(info: CheckpointInfo) -> dict[str, str]:
    """Units, range, sizes and origin. Lists and numbers are JSON."""
    rows, columns = info.input_size
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
        "data_licence": _licence(info.source),
        "made_with": f"depth-pipeline {version('depth-pipeline')}, torch {version('torch')}",
    }
    return {key: fact if isinstance(fact, str) else json.dumps(fact) for key, fact in facts.items()}
