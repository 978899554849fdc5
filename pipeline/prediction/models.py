"""Where a model is: in a file, in MLflow's registry, or among the files of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

REGISTRY = "models:/"


@contextlib.contextmanager
def checkpoint_file(model: str | Path) -> Iterator[Path]:
    """The checkpoint's file, which is there during the block.

    model: a file; `models:/NAME@ALIAS` or `models:/NAME/VERSION` of MLflow's registry; else the id or name of a
    run, which is that of its DVC experiment. Raises `PipelineError` if MLflow has no such model.
    """
    if is_file_name(model):
        yield Path(model)
        return
    from pipeline.tracking.checkpoints import fetch_checkpoint  # MLflow takes seconds to import

    with TemporaryDirectory(prefix="depth-model-") as folder:
        yield fetch_checkpoint(str(model), Path(folder))


def is_file_name(model: str | Path) -> bool:
    """Whether it names a file, there or not, rather than a model of MLflow's."""
    if isinstance(model, Path):
        return True
    if model.startswith(REGISTRY):
        return False
    return Path(model).is_file() or "/" in model or model.endswith(".safetensors")
