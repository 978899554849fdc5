"""One MLflow run for each execution of the pipeline, whichever stages it consists of."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import platform
import shutil
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import mlflow
from PIL import Image

from pipeline import paths
from pipeline.environment import describe_environment
from pipeline.errors import PipelineError
from pipeline.files import locked, read_json, write_json, write_text
from pipeline.tracking.execution import Execution, current_execution, has_ended, process_mark
from pipeline.tracking.outbox import Outbox, deliver_kept, kept_runs, kept_tags
from pipeline.tracking.store import experiment_id, open_store, search_runs, store_uri, told
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
        """those that the run has, as far as is known here"""
        self.in_caller_s = 0.0
        """seconds that the calls of this run kept their callers waiting"""
        self._outbox = Outbox(client, run_id, outbox_folder() / run_id)
        self._files = paths.repository_root() / paths.STATE / "pictures" / run_id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        if kind is not None and error is not None:
            self.set_tags({"error": f"{kind.__name__}: {error}".rstrip(": ")[:LONGEST_TAG]})
        self.close(status)

    def close(self, status: str | None) -> None:
        """End the run as FINISHED, FAILED or KILLED (None: as it is) and wait until all is sent or kept."""
        if status:
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

    def __init__(self, client: mlflow.MlflowClient, origin: Origin, tags: Mapping[str, str], stage: str) -> None:
        super().__init__(client, origin.run_id, tags)
        self._stage = stage
        self._started = time.perf_counter()
        self._system = SystemMetrics(self.log_points, origin.began_ms)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._system.stop()
        if kind is None:
            self.set_tags({stage_tag(self._stage): "executed"})
        self.log_metrics({f"wall_s/{self._stage}": time.perf_counter() - self._started})
        super().__exit__(kind, error, trace)


@dataclass(frozen=True)
class Origin:
    """The run of an execution, as the stage that opened it noted it under `.state` for the stages to come."""

    run_id: str
    began_ms: int
    command: str
    """mark of the process that executes the stages"""

    def write(self, key: str) -> None:
        folder = _origins_folder()
        for path in folder.glob("*.json"):
            if has_ended(read_json(path)["command"]):
                path.unlink(missing_ok=True)
        write_json(folder / f"{_digest(key)}.json", asdict(self))

    @classmethod
    def read(cls, key: str) -> Origin | None:
        path = _origins_folder() / f"{_digest(key)}.json"
        return cls(**read_json(path)) if path.is_file() else None


def open_run(stage: str, experiment: str, params: Mapping[str, Any], group: str | None = None) -> StageRun:
    """The run of the present execution: the one that an earlier stage of it opened, or else a new one.

    stage: which one is about to work. params: the nested content of params.yaml. group: a name that the runs of
    a sweep share. Raises `PipelineError` if the store cannot be opened and no earlier stage has opened the run;
    else what is told to the run is kept until the store is back.
    """
    execution = current_execution()
    origin = Origin.read(execution.key)
    try:
        client = open_store()
        with told():
            return _open_run(client, origin, execution, stage, experiment, params, group)
    except PipelineError as error:
        if origin is None:
            raise
        print(f"warning: {error}; going on, and keeping what run {origin.run_id} is told", file=sys.stderr)
        client = mlflow.MlflowClient(tracking_uri=store_uri(), registry_uri=store_uri())
        return StageRun(client, origin, kept_tags(outbox_folder() / origin.run_id), stage)


def _open_run(
    client: mlflow.MlflowClient,
    origin: Origin | None,
    execution: Execution,
    stage: str,
    experiment: str,
    params: Mapping[str, Any],
    group: str | None,
) -> StageRun:
    _, failed = deliver_kept(client, outbox_folder())
    if failed:
        print("warning: calls kept from earlier runs could still not be sent", file=sys.stderr)
    number = experiment_id(client, experiment)
    close_abandoned(client, number)
    owner = {"owner": process_mark(), "stage": stage}
    if origin is not None:
        found = client.get_run(origin.run_id)
        # The owner first: a run that is RUNNING and whose owner has ended is closed by whoever sees it.
        for key, value in owner.items():
            client.set_tag(origin.run_id, key, value)
        client.update_run(origin.run_id, status="RUNNING")
        return StageRun(client, origin, found.data.tags | kept_tags(outbox_folder() / origin.run_id), stage)
    tags = owner | execution_tags(execution) | group_tags(params, group)
    created = client.create_run(number, run_name=run_name(execution), tags=tags)
    origin = Origin(created.info.run_id, created.info.start_time, execution.command)
    origin.write(execution.key)
    run = StageRun(client, origin, tags, stage)
    run.log_params(params)
    run.log_file(paths.PARAMS)
    return run


def _origins_folder() -> Path:
    return paths.repository_root() / paths.STATE / "executions"


def execution_tags(execution: Execution) -> dict[str, str]:
    """Where the run comes from, as tags."""
    environment = describe_environment("")
    return origin_tags(execution, environment.get("git_commit", "")) | environment


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
    root = paths.repository_root()
    return f"{_clone_id(root)}@{platform.node()}:{root}"


@functools.cache
def _clone_id(root: Path) -> str:
    """Made once for each clone: containers may share host name and path."""
    path = root / paths.STATE / "clone"
    with locked(path.with_name("clone.lock")):
        if not path.is_file():
            write_text(path, uuid.uuid4().hex[:12])
        return path.read_text(encoding="utf-8")


def group_tags(params: Mapping[str, Any], group: str | None) -> dict[str, str]:
    """By `group` MLflow's UI puts runs together; without a name they are those that differ in the seed only."""
    compared = {key: value for key, value in params.items() if key not in ("seed", "tracking")}
    return {"group": group or f"seeds-{_digest(json.dumps(compared, sort_keys=True, default=str))[:8]}"}


def close_abandoned(client: mlflow.MlflowClient, experiment: str) -> None:
    """Close the runs that a kill -9 or a power cut left RUNNING on this host."""
    for run in search_runs(client, experiment, "attributes.status = 'RUNNING'"):
        owner = run.data.tags.get("owner", "")
        if owner.count(":") < 2 or not has_ended(owner):
            continue
        # It may have ended in good order, or gone on in its next stage, since the search.
        now = client.get_run(run.info.run_id)
        unsent = run.info.run_id in kept_runs(outbox_folder())
        if now.info.status == "RUNNING" and now.data.tags.get("owner") == owner and not unsent:
            stage = now.data.tags.get("stage", "?")
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


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
