"""MLflow: one store at the repository's root, one run for each execution of the pipeline.

The only module that imports mlflow. It speaks to the store through a client and explicit run ids, never
through MLflow's global active run, so that nothing is logged anywhere by accident.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.environment import git
from pipeline.errors import PipelineError
from pipeline.paths import repository_root

# Read by mlflow when it is imported. Its default retries hang four minutes on a dead server.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")

import mlflow
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from PIL import Image
from sqlalchemy.exc import SQLAlchemyError

FLUSH_METRICS = 400
"""Points sent in one call: a call costs 5 ms whatever it carries, 800 points cost 75 ms."""
BATCH_PARAMS = 100
"""The most parameters that MLflow takes in one call."""


def store_uri() -> str:
    """`MLFLOW_TRACKING_URI` if set, else the SQLite file at the repository's root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{repository_root() / 'mlflow.db'}"


def open_store() -> mlflow.MlflowClient:
    """A client of the store. Its first use, which creates the tables, is for one process at a time."""
    uri = store_uri()
    try:
        with _first_use_lock(uri):
            client = mlflow.MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
        return client
    except (MlflowException, SQLAlchemyError) as error:
        reason = str(error).partition("\n")[0]  # SQLAlchemy adds the statement and a link below
        raise PipelineError(f"the MLflow store {uri} cannot be opened: {reason}") from error


def experiment_id(client: mlflow.MlflowClient, name: str) -> str:
    """The id of the experiment, created with artifacts beside a local store."""
    uri = store_uri()
    # A server decides itself where artifacts go; a local path would be meaningless to it.
    location = (repository_root() / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
    with _first_use_lock(uri):
        found = client.get_experiment_by_name(name)
        if found is None:
            return str(client.create_experiment(name, artifact_location=location))
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)


@contextlib.contextmanager
def _first_use_lock(uri: str) -> Iterator[None]:
    """Several processes that create the tables of one SQLite file at once corrupt it for good."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    path = Path(uri.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class Run:
    """One MLflow run, as a context manager that tells the truth about how the work inside it ended.

    `Run.start` opens a new run, `Run.attach` goes on in the one that an earlier stage opened. Implements the
    `Tracker` interface of training. Metrics are buffered and sent in bunches.
    """

    def __init__(self, client: mlflow.MlflowClient, run_id: str) -> None:
        self._client = client
        self.run_id = run_id
        self._metrics: list[Metric] = []

    @classmethod
    def start(cls, experiment: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> Self:
        client = open_store()
        run = client.create_run(
            experiment_id(client, experiment), run_name=_run_name(), tags={**_provenance(), **tags}
        )
        started = cls(client, run.info.run_id)
        flat = [Param(key, str(value)) for key, value in flatten(params).items()]
        for first in range(0, len(flat), BATCH_PARAMS):
            client.log_batch(started.run_id, params=flat[first : first + BATCH_PARAMS])
        return started

    @classmethod
    def attach(cls, run_id: str) -> Self:
        """Raises `PipelineError` if this store does not have the run."""
        client = open_store()
        try:
            client.get_run(run_id)
        except MlflowException as error:
            raise PipelineError(
                f"run {run_id} of models/run.json is not in the MLflow store {store_uri()}; "
                "run `dvc repro --single-item --force train`, or set MLFLOW_TRACKING_URI to the store that has it"
            ) from error
        return cls(client, run_id)

    def __enter__(self) -> Self:
        self._client.update_run(self.run_id, status="RUNNING")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What cannot be sent any more must not hide why the work ended.
        with contextlib.suppress(MlflowException) if kind else contextlib.nullcontext():
            self.flush()
        if kind is None:
            status = "FINISHED"
        elif issubclass(kind, Exception):
            status = "FAILED"
            self._client.set_tag(self.run_id, "error", f"{kind.__name__}: {error}"[:5000])
        else:
            status = "KILLED"
        self._client.set_terminated(self.run_id, status)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        now = time.time_ns() // 1_000_000
        self._metrics += [Metric(name, float(value), now, step) for name, value in metrics.items()]
        if len(self._metrics) >= FLUSH_METRICS:
            self.flush()

    def flush(self) -> None:
        if self._metrics:
            self._client.log_batch(self.run_id, metrics=self._metrics)
            self._metrics = []

    def log_figure(self, name: str, png: bytes, step: int) -> None:
        self._client.log_image(self.run_id, Image.open(io.BytesIO(png)), key=name, step=step)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of the file among the run's artifacts."""
        self._client.log_artifact(self.run_id, str(path), folder)


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"loss": {"ssim_weight": 0.5}} as {"loss.ssim_weight": 0.5}, the names that DVC uses."""
    flat: dict[str, Any] = {}
    for key, value in params.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _run_name() -> str:
    """The DVC experiment's name; a plain `dvc repro` has none."""
    return os.environ.get("DVC_EXP_NAME") or f"repro-{time.strftime('%Y%m%d-%H%M%S')}"


def _provenance() -> dict[str, str]:
    tags = {
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline_rev": os.environ.get("DVC_EXP_BASELINE_REV", ""),
        "mlflow.source.git.commit": git("rev-parse", "HEAD"),
    }
    return {key: value for key, value in tags.items() if value}
