"""MLflow's registry: checkpoints as versions of one model, each with all that it needs to be served."""

from __future__ import annotations

import base64
import io
import logging
import re
import shutil
from collections.abc import Mapping
from importlib.metadata import version as installed_version
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import Model
from PIL import Image

import pipeline
from pipeline.errors import PipelineError
from pipeline.tracking.store import first_line, shown_uri, told

MODEL = "depth"
CHAMPION = "champion"
REQUIREMENTS = ("mlflow", "numpy", "pillow", "safetensors", "torch")
"""What the served model imports, and nothing else of this project's packages."""
PACKAGE = Path(pipeline.__file__).parent
SERVED_MODEL = PACKAGE / "tracking" / "served_model.py"
CODE = (
    "__init__.py",
    "errors.py",
    "files.py",
    "paths.py",
    "data/__init__.py",
    "data/pixels.py",
    "evaluation/__init__.py",
    "evaluation/metrics.py",
    "evaluation/predictor.py",
    "evaluation/protocols.py",
    "model",
    "prediction",
    "training/__init__.py",
    "training/device.py",
)
"""What of this package the served model imports; the rest stays out of the versions."""


def versions(client: mlflow.MlflowClient) -> list[ModelVersion]:
    """Those of the model that can be used, the newest first."""
    with told():
        found = list(client.search_model_versions(f"name = '{MODEL}'"))
    ready = [version for version in found if version.status == "READY"]
    return sorted(ready, key=lambda version: int(version.version), reverse=True)


def champion(client: mlflow.MlflowClient) -> ModelVersion | None:
    with told():
        models = client.search_registered_models(f"name = '{MODEL}'")
        number = models[0].aliases.get(CHAMPION) if models else None
        return client.get_model_version(MODEL, number) if number else None


def registered_runs(client: mlflow.MlflowClient) -> set[str]:
    """Ids of the runs that versions of the model come from."""
    return {str(version.tags.get("run_id", version.run_id)) for version in versions(client)}


def make_champion(client: mlflow.MlflowClient, version: str) -> None:
    with told():
        client.set_registered_model_alias(MODEL, CHAMPION, version)


def set_tags(client: mlflow.MlflowClient, version: str, tags: Mapping[str, str]) -> None:
    with told():
        for key, value in tags.items():
            client.set_model_version_tag(MODEL, version, key, value)


def register(client: mlflow.MlflowClient, run_id: str, checkpoint: Path, tags: Mapping[str, str]) -> str:
    """Log the checkpoint as a model of the run, and make it the next version of `MODEL`. Returns its number."""
    with told():
        if not client.search_registered_models(f"name = '{MODEL}'"):
            client.create_registered_model(MODEL)
        run = client.get_run(run_id)
        logged = client.create_logged_model(
            run.info.experiment_id, MODEL, run_id, params=dict(run.data.params), model_type="monocular depth"
        )
    description = Model(artifact_path=logged.artifact_location, run_id=run_id, model_id=logged.model_id)
    with TemporaryDirectory(prefix="depth-model-") as scratch:
        save(Path(scratch) / "model", checkpoint, description)
        try:
            client.log_model_artifacts(logged.model_id, str(Path(scratch) / "model"))
        except Exception as error:  # every kind of artifact store has its own
            with told():
                client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
            raise PipelineError(
                f"the model cannot be stored in {shown_uri(logged.artifact_location)}: {first_line(error)}"
            ) from error
    with told():
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        made = client.create_model_version(
            MODEL, f"models:/{logged.model_id}", run_id, dict(tags), model_id=logged.model_id
        )
    return str(made.version)


def save(folder: Path, checkpoint: Path, description: Model | None = None) -> None:
    """Write the checkpoint as a model that MLflow serves: tensors, code as text, and what describes them."""
    # That an image may be a string or numbers is known.
    logging.getLogger("mlflow.types.type_hints").setLevel(logging.ERROR)
    with TemporaryDirectory(prefix="depth-code-") as scratch:
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(SERVED_MODEL),
            artifacts={"checkpoint": str(checkpoint)},
            code_paths=[str(_copy_code(Path(scratch)))],
            # MLflow would find them out by loading the model, which takes it eight seconds.
            pip_requirements=requirements(),
            input_example=[_example()],
            mlflow_model=description,
        )


def _copy_code(folder: Path) -> Path:
    """`CODE` as a package in the folder."""
    package = folder / PACKAGE.name
    for part in CODE:
        source, target = PACKAGE / part, package / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    return package


def requirements() -> list[str]:
    """Pinned to what is installed here; a local build such as `+cpu` is not, since no index has it."""
    return [f"{name}=={re.sub(r'[+].*', '', installed_version(name))}" for name in REQUIREMENTS]


def _example() -> str:
    """A small picture as a request holds it."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
