"""The run of the present execution, whichever stages it consists of: found, gone on with, or new."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run as StoredRun
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException

from pipeline import paths
from pipeline.errors import PipelineError
from pipeline.files import read_json, write_json
from pipeline.params import flatten
from pipeline.tracking.execution import Execution, current_execution, has_ended, is_alive, process_mark
from pipeline.tracking.kept import kept_runs, kept_tags, outbox_folder, warn
from pipeline.tracking.outbox import Outbox, deliver_kept, is_refusal
from pipeline.tracking.run import Run, StageRun
from pipeline.tracking.store import experiment_id, new_client, open_store, search_runs, told
from pipeline.tracking.tags import digest, execution_tags, group_tags, run_name

LONGEST_PARAMETER = 6000
"""MLflow cuts the rest off."""
SENDER_S = 10.0
"""How long a start waits for the process that still sends what a killed stage has told to the same run."""


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
            with contextlib.suppress(FileNotFoundError):  # another start was faster
                if has_ended(read_json(path)["command"]):
                    path.unlink()
        write_json(folder / f"{digest(key)}.json", asdict(self))

    @classmethod
    def read(cls, key: str) -> Origin | None:
        path = _origins_folder() / f"{digest(key)}.json"
        return cls(**read_json(path)) if path.is_file() else None


@dataclass(frozen=True)
class Opening:
    """What is about to work, and with what."""

    stage: str
    experiment: str
    """MLflow's"""
    params: Mapping[str, Any]
    """the nested content of params.yaml"""
    group: str | None = None
    """a name that the runs of a sweep share"""
    resume: str | None = None
    """id of the run whose training was interrupted and is gone on with"""
    process: int = 0
    """number of the stage's process; 0 for this one"""


def open_run(
    opening: Opening,
    open_store: Callable[[], mlflow.MlflowClient] = open_store,
    settled: Callable[[int], None] = lambda number: None,
) -> StageRun:
    """The run of the present execution: the one that an earlier stage of it opened, or else a new one.

    An execution that has none yet goes on in the run to `resume`, if that has the same parameters. settled: see
    `Outbox`. Raises `PipelineError` if the store cannot be opened and no earlier stage has opened the run; else
    what is told to the run is kept until the store is back.
    """
    execution = current_execution(opening.process or os.getpid())
    origin, is_new = Origin.read(execution.key), False
    try:
        client = open_store()
        with told():
            origin, tags, is_new = _find_or_create(client, opening, execution, origin)
    except PipelineError as error:
        if origin is None:
            raise
        warn(f"{error}; going on, and keeping what run {origin.run_id} is told")
        client, tags = new_client(), {}
    folder = outbox_folder() / origin.run_id
    outbox = Outbox(client, origin.run_id, folder, settled)
    run = StageRun(outbox, origin.run_id, tags | kept_tags(folder), opening.stage, origin.began_ms)
    if is_new:
        run.log_params(flatten(opening.params))
        run.log_file(paths.PARAMS)
    return run


def close_unopened(execution: Execution, stage: str) -> None:
    """Close the run of an execution as FAILED: `stage`, its next one, has ended before it could open the run.

    For want of a module, say, or because of a parameter. The stages before it had ended well, and said so.
    """
    if (origin := Origin.read(execution.key)) is not None:
        run = go_on(new_client(), origin.run_id, {})
        run.set_tags({"error": f"stage {stage} ended before it began to work; its output says why"})
        run.close("FAILED")


def go_on(client: mlflow.MlflowClient, run_id: str, tags: Mapping[str, str]) -> Run:
    """The run of this id, whose calls a thread of this process sends."""
    return Run(Outbox(client, run_id, outbox_folder() / run_id), run_id, tags)


def _find_or_create(
    client: mlflow.MlflowClient, opening: Opening, execution: Execution, origin: Origin | None
) -> tuple[Origin, dict[str, str], bool]:
    """The run, RUNNING, its tags, and whether it was made here and holds no parameters yet."""
    known = origin.run_id if origin else opening.resume
    if known:
        _await_sender(client, known)
    _, failed = deliver_kept(client, outbox_folder())
    if failed:
        warn("calls kept from earlier runs could still not be sent")
    number = experiment_id(client, opening.experiment)
    close_abandoned(client, number)
    process = opening.process or os.getpid()
    tags = {"owner": process_mark(process), "sender": process_mark(os.getpid()), "stage": opening.stage}
    found, is_new = _find(client, known) if known else None, False
    if origin is not None:
        if opening.resume not in (None, origin.run_id):
            tags["resumed_from"] = str(opening.resume)
        return origin, _restart(client, origin.run_id, found, tags), False
    tags |= execution_tags(execution) | group_tags(opening.params, opening.group)
    if found is not None and _goes_on(found, number, opening.params):
        tags = _restart(client, found.info.run_id, found, tags, run_name(execution))
    else:
        if opening.resume:
            tags["resumed_from"] = opening.resume
        found = client.create_run(number, run_name=run_name(execution), tags=tags)
        tags, is_new = found.data.tags, True
    origin = Origin(found.info.run_id, found.info.start_time, execution.command)
    origin.write(execution.key)
    return origin, tags, is_new


def _goes_on(run: StoredRun, experiment: str, params: Mapping[str, Any]) -> bool:
    """Whether an interrupted run can be gone on with as if it had not been interrupted."""
    return bool(
        run.info.status != "RUNNING"  # by somebody else, then
        and run.info.experiment_id == experiment
        and run.data.params == logged_params(params)
    )


def logged_params(params: Mapping[str, Any]) -> dict[str, str]:
    """The parameters as MLflow has them when they have been logged."""
    return {key: str(value)[:LONGEST_PARAMETER] for key, value in flatten(params).items()}


def _restart(
    client: mlflow.MlflowClient,
    run_id: str,
    found: StoredRun | None,
    tags: dict[str, str],
    name: str | None = None,
) -> dict[str, str]:
    # The owner first: a run that is RUNNING and whose owner has ended is closed by whoever sees it.
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    before = dict(found.data.tags) if found else {}
    if name:
        before["mlflow.runName"] = name
        if before.pop("error", None) is not None:
            client.delete_tag(run_id, "error")
    client.update_run(run_id, status="RUNNING", name=name)
    return before | tags


def _find(client: mlflow.MlflowClient, run_id: str) -> StoredRun | None:
    """The run as the store has it; None if it was deleted."""
    try:
        found = client.get_run(run_id)
    except MlflowException as error:
        if is_refusal(error):
            return None
        raise
    return found if found.info.lifecycle_stage == "active" else None


def _await_sender(client: mlflow.MlflowClient, run_id: str) -> None:
    """Wait for the process that closes the run of a killed stage: what it says of the end must not come later."""
    end = time.monotonic() + SENDER_S
    while time.monotonic() < end:
        found = _find(client, run_id)
        if found is None or not has_ended(found.data.tags.get("owner", "")) or not _is_being_sent(found):
            return
        time.sleep(0.1)


def _is_being_sent(run: StoredRun) -> bool:
    sender = run.data.tags.get("sender", "")
    return sender != process_mark(os.getpid()) and is_alive(sender)


def close_abandoned(client: mlflow.MlflowClient, experiment: str) -> None:
    """Close the runs that a power cut left RUNNING on this host, or a kill -9 of all their processes."""
    for run in search_runs(client, experiment, "attributes.status = 'RUNNING'"):
        owner = run.data.tags.get("owner", "")
        if not has_ended(owner) or _is_being_sent(run):
            continue
        # It may have ended in good order, or gone on in its next stage, since the search.
        now = _find(client, run.info.run_id)
        unsent = run.info.run_id in kept_runs(outbox_folder())
        if now is not None and now.info.status == "RUNNING" and now.data.tags.get("owner") == owner and not unsent:
            stage = now.data.tags.get("stage", "?")
            client.set_tag(run.info.run_id, "error", silent_end(stage, "kill -9, power cut"))
            client.set_terminated(run.info.run_id, "KILLED")


def silent_end(stage: str, how: str) -> str:
    """The error of a stage that could not tell any."""
    return f"stage {stage} ended without a word ({how})"


def _origins_folder() -> Path:
    return paths.repository_root() / paths.STATE / "executions"
