"""One MLflow run for each execution of the pipeline, whichever stages it consists of."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import mlflow
from PIL import Image

from pipeline import paths
from pipeline.environment import describe_environment
from pipeline.tracking.execution import Execution, current_execution, has_ended, process_mark
from pipeline.tracking.outbox import Outbox, deliver_kept, kept_runs
from pipeline.tracking.store import experiment_id, open_store, search_runs
from pipeline.tracking.system import SystemMetrics

LONGEST_TAG = 5000
THUMBNAIL_PX = 256
"""Longer side of the small copy that MLflow's UI shows in its grid."""


class Run:
    """An MLflow run, as a context manager that tells the truth about how the work inside it ended.

    It implements the `Tracker` interface of training. What it is told is sent by a thread, in order; while the
    store cannot be reached it is kept under `.state/outbox`.
    """

    def __init__(self, client: mlflow.MlflowClient, run_id: str, tags: Mapping[str, str] | None = None) -> None:
        """Go on in the run of this id. `tags` are those that it has, as far as the caller cares."""
        self.run_id = run_id
        self.tags = dict(tags or {})
        self.in_caller_s = 0.0
        """seconds that the calls of this run kept their callers waiting"""
        self._outbox = Outbox(client, run_id, outbox_folder() / run_id)
        self._files = paths.repository_root() / paths.STATE / "pictures" / run_id

    @property
    def busy_s(self) -> float:
        """Seconds of this process that tracking has taken: callers kept waiting, and the thread's own work."""
        return self.in_caller_s + self._outbox.busy_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        if kind is not None and error is not None:
            self.set_tags({"error": f"{kind.__name__}: {error}".rstrip(": ")[:LONGEST_TAG]})
        self.close(status)

    def close(self, status: str) -> None:
        """End the run with FINISHED, FAILED or KILLED and wait until all is sent or kept."""
        self._outbox.put({"call": "status", "status": status, "end_time": _now_ms()})
        self._outbox.close()
        shutil.rmtree(self._files, ignore_errors=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        self.log_points([(name, float(value), _now_ms(), step) for name, value in metrics.items()])

    def log_points(self, points: list[tuple[str, float, int, int]]) -> None:
        """Points of (name, value, time in ms since 1970, step)."""
        started = time.perf_counter()
        self._outbox.put({"call": "metrics", "points": points})
        self.in_caller_s += time.perf_counter() - started

    def log_params(self, params: Mapping[str, Any]) -> None:
        pairs = [(key, str(value)) for key, value in flatten(params).items()]
        self._outbox.put({"call": "params", "pairs": pairs})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.tags |= tags
        self._outbox.put({"call": "tags", "pairs": [(key, str(value)) for key, value in tags.items()]})

    def log_dataset(self, context: str, **dataset: str) -> None:
        """A data set as the run's input: name, digest, source_type, source, schema and profile of MLflow."""
        self._outbox.put({"call": "dataset", "context": context, "dataset": dataset})

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of the file among the run's artifacts. It must stay as it is until the run is closed."""
        self._outbox.put({"call": "artifact", "path": str(path.resolve()), "folder": folder})

    def log_figure(self, name: str, png: bytes, step: int) -> None:
        """A picture that MLflow's UI shows with a slider over the steps."""
        started = time.perf_counter()
        # Named as `MlflowClient.log_image` names them, which could not be sent again without doubling.
        stem = f"{name}+step+{step}+timestamp+{_now_ms()}+{self.run_id[:8]}"
        self._files.mkdir(parents=True, exist_ok=True)
        picture, small = self._files / f"{stem}.png", self._files / f"{stem}+compressed.webp"
        picture.write_bytes(png)
        with Image.open(io.BytesIO(png)) as image:
            image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
            image.save(small)
        for path in (picture, small):
            self._outbox.put({"call": "artifact", "path": str(path), "folder": "images", "temporary": True})
        self.set_tags({"mlflow.loggedImages": "True"})
        self.in_caller_s += time.perf_counter() - started


class StageRun(Run):
    """The run of the present execution while one stage of it works."""

    def __init__(self, client: mlflow.MlflowClient, run: mlflow.entities.Run, stage: str) -> None:
        super().__init__(client, run.info.run_id, run.data.tags)
        self._stage = stage
        self._started = time.perf_counter()
        self._system = SystemMetrics(self.log_points, run.info.start_time)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._system.stop()
        if kind is None:
            self.set_tags({stage_tag(self._stage): "executed"})
        self.log_metrics({f"wall_s/{self._stage}": time.perf_counter() - self._started})
        super().__exit__(kind, error, trace)


def open_run(stage: str, experiment: str, params: Mapping[str, Any], group: str | None = None) -> StageRun:
    """The run of the present execution: the one that an earlier stage of it opened, or else a new one.

    stage: which one is about to work. params: the nested content of params.yaml. group: a name that the runs of
    a sweep share. Raises `PipelineError` if the store cannot be opened.
    """
    client = open_store()
    _, failed = deliver_kept(client, outbox_folder())
    if failed:
        print("warning: calls kept from earlier runs could still not be sent", file=sys.stderr)
    experiment_number = experiment_id(client, experiment)
    close_abandoned(client, experiment_number)
    execution = current_execution()
    found = search_runs(client, experiment_number, f"tags.execution = '{execution.key}'")
    owner = {"owner": process_mark(), "stage": stage}
    if found:
        client.update_run(found[0].info.run_id, status="RUNNING")
        run = StageRun(client, found[0], stage)
        run.set_tags(owner)
        return run
    tags = owner | execution_tags(execution) | group_tags(params, group)
    supersede(client, experiment_number, execution)
    created = client.create_run(experiment_number, run_name=run_name(execution), tags=tags)
    run = StageRun(client, created, stage)
    run.log_params(params)
    run.log_file(paths.PARAMS)
    return run


def execution_tags(execution: Execution) -> dict[str, str]:
    """Where the run comes from, as tags."""
    environment = describe_environment("")
    tags = {
        "execution": execution.key,
        "repository": repository_mark(),
        "dvc.experiment": execution.experiment or "",
        "dvc.baseline_rev": execution.baseline_rev or "",
        "mlflow.source.git.commit": environment.get("git_commit", ""),
        **environment,
    }
    return {key: value for key, value in tags.items() if value}


def repository_mark() -> str:
    """Which clone on which machine a run belongs to: a server holds the runs of several."""
    return f"{platform.node()}:{paths.repository_root()}"


def group_tags(params: Mapping[str, Any], group: str | None) -> dict[str, str]:
    """By `group` MLflow's UI puts runs together; without a name they are those that differ in the seed only."""
    compared = {key: value for key, value in params.items() if key not in ("seed", "tracking")}
    digest = hashlib.sha256(json.dumps(compared, sort_keys=True, default=str).encode()).hexdigest()
    return {"group": group or f"seeds-{digest[:8]}"}


def supersede(client: mlflow.MlflowClient, experiment: str, execution: Execution) -> None:
    """Mark the earlier attempts at the same DVC experiment, so that one run remains for it."""
    if execution.experiment is None:
        return
    where = f"tags.`dvc.experiment` = '{execution.experiment}'"
    if execution.baseline_rev:
        where += f" AND tags.`dvc.baseline_rev` = '{execution.baseline_rev}'"
    for earlier in search_runs(client, experiment, where):
        if earlier.data.tags.get("repository") == repository_mark():
            client.set_tag(earlier.info.run_id, "superseded", "true")


def close_abandoned(client: mlflow.MlflowClient, experiment: str) -> None:
    """Close the runs that a kill -9 or a power cut left RUNNING on this host."""
    kept = kept_runs(outbox_folder())
    for run in search_runs(client, experiment, "attributes.status = 'RUNNING'"):
        owner = run.data.tags.get("owner", "")
        if owner.count(":") >= 2 and has_ended(owner) and run.info.run_id not in kept:
            stage = run.data.tags.get("stage", "?")
            client.set_tag(run.info.run_id, "error", f"stage {stage} ended without a word (kill -9, power cut)")
            client.set_terminated(run.info.run_id, "KILLED")


def run_name(execution: Execution) -> str:
    """The DVC experiment's name; a plain `dvc repro` has none."""
    return execution.experiment or f"repro-{time.strftime('%Y%m%d-%H%M%S')}"


def stage_tag(stage: str) -> str:
    """The tag that says whether a stage was executed in the run or its results were reused."""
    return f"stage.{stage}"


def outbox_folder() -> Path:
    return paths.repository_root() / paths.STATE / "outbox"


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"loss": {"ssim_weight": 0.5}} as {"loss.ssim_weight": 0.5}, the names that DVC uses."""
    flat: dict[str, Any] = {}
    for key, value in params.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
