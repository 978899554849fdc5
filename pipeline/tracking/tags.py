"""What a run's tags say: where it comes from and what it belongs to."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.environment import describe_environment
from pipeline.files import locked, write_text
from pipeline.params import WHERE_COMPUTED, flatten
from pipeline.paths import STATE, repository_root
from pipeline.tracking.execution import Execution

PLACE = "dvc.place"
"""Tag that says whether the stages were executed in the workspace or in one of DVC's copies of it."""


def execution_tags(execution: Execution) -> dict[str, str]:
    """Where a run that is executed now comes from."""
    environment = describe_environment("")
    place = "workspace" if Path.cwd().resolve() == repository_root() else "copy"
    return origin_tags(execution, environment.get("git_commit", "")) | {PLACE: place} | environment


def origin_tags(execution: Execution, commit: str) -> dict[str, str]:
    """The part of it that holds also for runs made later from files."""
    tags = {
        "execution": execution.key,
        "repository": repository_mark(),
        "dvc.experiment": execution.experiment or "",
        "dvc.baseline_rev": execution.baseline_rev or "",
        "mlflow.source.git.commit": commit,
    }
    return {key: value for key, value in tags.items() if value}


def repository_mark() -> str:
    """Which clone on which machine a run belongs to: a server holds the runs of several."""
    root = repository_root()
    return f"{_clone_id(root)}@{platform.node()}:{root}"


@functools.cache
def _clone_id(root: Path) -> str:
    """Made once for each clone: containers may share host name and path."""
    path = root / STATE / "clone"
    with locked(path.with_name("clone.lock")):
        if not path.is_file():
            write_text(path, uuid.uuid4().hex[:12])
        return path.read_text(encoding="utf-8")


def group_tags(params: Mapping[str, Any], group: str | None) -> dict[str, str]:
    """By `group` MLflow's UI puts runs together; without a name they are those that differ in the seed only."""
    compared = {
        key: value
        for key, value in flatten(params).items()
        if key not in ("seed", *WHERE_COMPUTED) and not key.startswith("tracking.")
    }
    return {"group": group or f"seeds-{digest(json.dumps(compared, sort_keys=True, default=str))[:8]}"}


def run_name(execution: Execution) -> str:
    """The DVC experiment's name; a plain `dvc repro` has none."""
    return execution.experiment or f"repro-{time.strftime('%Y%m%d-%H%M%S')}"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
