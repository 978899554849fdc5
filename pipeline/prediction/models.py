"""Where a model is: in a file, in MLflow's registry, or among the files of a run."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline import paths
from pipeline.errors import PipelineError

REGISTRY = "models:/"
DEFAULT_HELP = f"{paths.BEST_CHECKPOINT} of the repository; where nothing was trained, {paths.PRETRAINED}"


def chosen_model(model: str | Path | None) -> str | Path:
    """`model`; where it is None the best checkpoint of the repository, else the weights that come with the project.

    The repository is that of the working folder. The weights are looked for there and then beside the code that
    runs, so that an editable install finds its own from any folder. Taking them is said in one line on stderr.
    Raises `PipelineError` if there are none either.
    """
    if model is not None:
        return model
    root = paths.repository_root()
    best = root / paths.BEST_CHECKPOINT
    # A link into DVC's cache whose file is gone was trained all the same; opening it says what to do.
    if best.is_file() or best.is_symlink():
        return Path(os.path.relpath(best))
    shown = (Path(os.path.relpath(root / paths.PRETRAINED)), paths.code_root() / paths.PRETRAINED)
    found = next((path for path in shown if path.is_file()), None)
    if found is None:
        raise PipelineError(
            f"there is no model: neither {os.path.relpath(best)}, which `dvc repro` trains, nor "
            f"{paths.PRETRAINED}, which a clone of the repository holds; train one or name one"
        )
    # With a lock something was trained, perhaps elsewhere.
    why = (
        f"{os.path.relpath(best)} is not here (`dvc pull` or `dvc repro` brings it)"
        if (root / paths.LOCK).is_file()
        else "nothing was trained here yet"
    )
    print(f"{why}; using {found}, trained on NYU Depth v2", file=sys.stderr)
    return found


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
