"""What `-S` gives a study: what differs by machine, and what of it the record tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from pipeline.errors import PipelineError
from pipeline.params import WHERE_COMPUTED
from pipeline.yaml_text import parse_yaml

OF_MACHINE = ("evaluate.batch_size", *WHERE_COMPUTED)
"""What `-S` may set beside `fetch`: where something is computed. Of none of these the record speaks."""
PATHS_OF_MACHINE = (
    "fetch.nyu_v2.",
    "fetch.file.",
    "fetch.folder.list",
    "fetch.folder.test_list",
    "fetch.folder.root",
    "fetch.nyu_raw.directory",
    "fetch.nyu_raw.labeled",
    "fetch.nyu_raw.splits",
)
"""Beginnings of parameters that name files and addresses; no more are these recorded."""


def machine_overrides(items: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` by key. Raises `PipelineError` for what belongs into a study's file."""
    found: dict[str, Any] = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator:
            raise PipelineError(f"-S {item}: write KEY=VALUE")
        if not key.startswith("fetch.") and key not in OF_MACHINE:
            raise PipelineError(
                f"-S {item}: a recipe stands in its study's file; -S is for fetch.… and {', '.join(OF_MACHINE)}"
            )
        try:
            found[key] = parse_yaml(value)
        except yaml.YAMLError:
            raise PipelineError(f"-S {item}: {value!r} is no value of YAML") from None
    return found


def recorded(machine: dict[str, Any]) -> dict[str, Any]:
    """Without what names files of this machine, and what changes no result."""
    return {
        key: value
        for key, value in machine.items()
        if key not in OF_MACHINE and not key.startswith(PATHS_OF_MACHINE) and "/" not in str(value)
    }
