"""An MLflow run as those see it who have something to tell: what they call returns at once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from pipeline.paths import STATE, repository_root
from pipeline.tracking.kept import Entry

LONGEST_TAG = 5000


class Channel(Protocol):
    """Takes the calls of one run to the store, in order."""

    def put(self, entry: Entry) -> None:
        """Returns at once."""

    def close(self) -> None:
        """Wait until everything is sent or kept on disk. Raises `OSError` if it can be neither."""


class Run:
    """An MLflow run, as a context manager that tells the truth about how the work inside it ended.

    It implements the `Tracker` interface of training.
    """

    def __init__(self, channel: Channel, run_id: str, tags: Mapping[str, str] | None = None) -> None:
        """Go on in the run of this id. `tags` are those that it has, as far as the caller cares."""
        self.run_id = run_id
        self.tags = dict(tags or {})
        """those that the run has, as far as is known here"""
        self.channel = channel
        self.in_caller_s = 0.0
        """seconds that the calls of this run kept their callers waiting"""
        self._files = repository_root() / STATE / "pictures" / run_id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.set_tags({"error": error_tag(error)})
        self.close(status_of(error))

    def close(self, status: str | None) -> None:
        """End the run as FINISHED, FAILED or KILLED (None: as it is) and wait until all is sent or kept."""
        if status:
            self.channel.put({"call": "status", "status": status, "end_time": now_ms()})
        self.channel.close()
        shutil.rmtree(self._files, ignore_errors=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0, *, time_ms: int | None = None) -> None:
        """time_ms: when the points came; a point that is told again with its own time is stored once."""
        moment = now_ms() if time_ms is None else time_ms
        self.log_points([(name, float(value), moment, int(step)) for name, value in metrics.items()])

    def log_points(self, points: list[tuple[str, float, int, int]]) -> None:
        """Points of (name, value, time in ms since 1970, step)."""
        started = time.perf_counter()
        self.channel.put({"call": "metrics", "points": points})
        self.in_caller_s += time.perf_counter() - started

    def log_params(self, params: Mapping[str, Any]) -> None:
        self.channel.put({"call": "params", "pairs": [(key, str(value)) for key, value in params.items()]})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.tags |= tags
        self.channel.put({"call": "tags", "pairs": [(key, str(value)) for key, value in tags.items()]})

    def log_dataset(self, context: str, **dataset: str) -> None:
        """A data set as the run's input: name, digest, source_type, source, schema and profile of MLflow."""
        self.channel.put({"call": "dataset", "context": context, "dataset": dataset})

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of the file among the run's artifacts. It must stay as it is until the run is closed."""
        self.channel.put({"call": "artifact", "path": str(path.resolve()), "folder": folder})

    def log_figure(self, name: str, png: bytes, step: int, *, time_ms: int | None = None) -> None:
        """A picture that MLflow's UI shows with a slider over the steps; told again, it replaces itself."""
        started = time.perf_counter()
        # Named as `MlflowClient.log_image` names them, which could not be sent again without doubling.
        moment = now_ms() if time_ms is None else time_ms
        picture = self._files / f"{name}+step+{step}+timestamp+{moment}+{self.run_id[:8]}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(png)
        self.channel.put({"call": "picture", "path": str(picture), "temporary": True})
        self.set_tags({"mlflow.loggedImages": "True"})
        self.in_caller_s += time.perf_counter() - started


class StageRun(Run):
    """The run of the present execution while one stage of it works."""

    def __init__(self, channel: Channel, run_id: str, tags: Mapping[str, str], stage: str, began_ms: int) -> None:
        super().__init__(channel, run_id, tags)
        self.began_ms = began_ms
        """when the run began, in ms since 1970"""
        self._stage = stage
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.set_tags({stage_tag(self._stage): "executed"})
        # By the run's own clock: a stage that is gone on with in it ends twice.
        step = (now_ms() - self.began_ms) // 1000
        self.log_metrics({f"wall_s/{self._stage}": time.perf_counter() - self._started}, step)
        super().__exit__(kind, error, trace)


def status_of(error: BaseException | None) -> str:
    """How MLflow calls the end of work that raised `error`."""
    return "FINISHED" if error is None else "FAILED" if isinstance(error, Exception) else "KILLED"


def error_tag(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")[:LONGEST_TAG]


def stage_tag(stage: str) -> str:
    """The tag that says whether a stage was executed in the run or its results were reused."""
    return f"stage.{stage}"


def hash_tag(stage: str) -> str:
    """The tag that holds the hash of a stage's entry in dvc.lock."""
    return f"{stage_tag(stage)}.hash"


def now_ms() -> int:
    return time.time_ns() // 1_000_000
