"""Runs and DVC experiments brought to the same set: missing runs made from files, runs of removed ones deleted."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import mlflow
import yaml
from mlflow.entities import Run as StoredRun
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from pipeline import paths
from pipeline.errors import PipelineError
from pipeline.experiments import Experiment
from pipeline.files import locked
from pipeline.params import flatten, load_params
from pipeline.progress import progress_bar
from pipeline.tracking.execution import Execution
from pipeline.tracking.kept import outbox_folder
from pipeline.tracking.opening import go_on
from pipeline.tracking.outbox import deliver_kept
from pipeline.tracking.records import STAGES, Files, record_reused
from pipeline.tracking.run import stage_tag
from pipeline.tracking.store import experiment_id, open_store, replaced_runs, search_runs, store_uri, told
from pipeline.tracking.tags import group_tags, origin_tags, repository_mark

SETTLING_S = 600.0
"""A run whose experiment is not listed is left alone for so long: DVC saves the experiment after its last stage."""


@dataclass(frozen=True)
class Synced:
    made: list[str]
    """experiments that had no run"""
    completed: list[str]
    """experiments whose run lacked stages that were not executed in it"""
    sent: int
    """runs whose calls had been kept while the store could not be reached"""


def sync(
    experiments: Sequence[Experiment], files_of: Callable[[Experiment], AbstractContextManager[Files]]
) -> Synced:
    """Give each DVC experiment its one complete run, from the files that it consists of."""
    with locked(outbox_folder().with_name("sync.lock")), told():
        return _sync(open_store(), experiments, files_of)


def _sync(
    client: mlflow.MlflowClient,
    experiments: Sequence[Experiment],
    files_of: Callable[[Experiment], AbstractContextManager[Files]],
) -> Synced:
    sent, failed = deliver_kept(client, outbox_folder())
    if failed:
        raise PipelineError("the calls kept while MLflow could not be reached could again not be sent; try later")
    runs = all_runs(client)
    made, completed = [], []
    with progress_bar(len(experiments), "sync", "experiment") as progress:
        for experiment in experiments:
            found = run_of(experiment, runs)
            if found is None or is_incomplete(found):
                with files_of(experiment) as files:
                    if found is None:
                        made += [experiment.name] * make_run(client, experiment, files)
                    else:
                        run = go_on(client, found.info.run_id, found.data.tags)
                        try:
                            record_reused(run, files=files)
                        finally:
                            run.close(None)  # however this goes, the run ended as it did
                        completed.append(experiment.name)
            progress.update()
    return Synced(made, completed, sent)


def make_run(client: mlflow.MlflowClient, experiment: Experiment, files: Files) -> bool:
    """Whether there was anything to make a run from: an experiment of other code has no parameters of ours."""
    params_file = files(paths.PARAMS)
    if params_file is None:
        return False
    params = yaml.safe_load(params_file.read_text(encoding="utf-8"))
    with contextlib.suppress(PipelineError):  # as executed stages log them; those of other code stay as they are
        params = load_params(params_file).model_dump()
    if "experiment" not in params.get("tracking", {}):
        return False
    key = f"sync:{experiment.baseline_rev}:{experiment.name}"
    execution = Execution(key, experiment.name, experiment.baseline_rev, "")
    tags = origin_tags(execution, experiment.baseline_rev) | {"synced": "true"}
    tags |= group_tags(params, params["tracking"].get("group"))
    number = experiment_id(client, params["tracking"]["experiment"])
    created = client.create_run(number, run_name=experiment.name, tags=tags)
    try:
        with go_on(client, created.info.run_id, tags) as run:
            run.log_params(flatten(params))
            run.log_file(params_file)
            record_reused(run, files=files)
    except BaseException:
        client.delete_run(created.info.run_id)  # half of a run would pass for the whole
        raise
    return True


def all_runs(client: mlflow.MlflowClient) -> list[StoredRun]:
    experiments = client.search_experiments()
    return [run for found in experiments for run in search_runs(client, found.experiment_id)]


def is_own(run: StoredRun) -> bool:
    """Whether the run was made from this clone; of the experiments of others on a server nothing is known here."""
    return bool(run.data.tags.get("repository") == repository_mark())


def run_of(experiment: Experiment, runs: Sequence[StoredRun]) -> StoredRun | None:
    """The run that holds the experiment, or is about to; this clone's own before those of others."""
    matching = [
        run
        for run in runs
        if run.data.tags.get("dvc.experiment") == experiment.name
        and run.data.tags.get("dvc.baseline_rev") == experiment.baseline_rev
        and run.info.status in ("FINISHED", "RUNNING")
    ]
    return max(matching, key=lambda run: (is_own(run), run.info.start_time), default=None)


def is_incomplete(run: StoredRun) -> bool:
    """Whether the run ended without stages that DVC took from its cache after the last one that was executed."""
    lacking = any(stage_tag(stage) not in run.data.tags for stage in STAGES)
    return lacking and is_own(run) and run.info.status == "FINISHED"


@dataclass(frozen=True)
class Leftover:
    """A run that `depth prune` deletes."""

    run_id: str
    name: str
    reason: str


def find_leftovers(experiments: Sequence[Experiment]) -> list[Leftover]:
    """Runs of this clone whose DVC experiment was removed, that failed, or that a later attempt has replaced.

    A run that trained the weights of one that stays is no leftover.
    """
    listed = {(experiment.name, experiment.baseline_rev) for experiment in experiments}
    with told():
        runs = [run for run in all_runs(open_store()) if is_own(run)]
    replaced = replaced_runs(runs)
    reasons: dict[str, str] = {}
    for run in runs:
        tags, run_id = run.data.tags, run.info.run_id
        if "dvc.experiment" not in tags or run.info.status == "RUNNING":
            continue
        if run_id in replaced:
            reasons[run_id] = "replaced by a later attempt"
        elif (tags["dvc.experiment"], tags.get("dvc.baseline_rev")) in listed:
            continue
        elif run.info.status != "FINISHED":
            reasons[run_id] = f"{run.info.status}, never became an experiment"
        elif _ended_s_ago(run) > SETTLING_S:
            reasons[run_id] = "experiment removed"
    # Weights that a remaining run uses were trained there, and its curves are nowhere else.
    linked = {run.data.tags.get("training.run_id") for run in runs if run.info.run_id not in reasons}
    return [
        Leftover(run.info.run_id, run.info.run_name, reasons[run.info.run_id])
        for run in runs
        if run.info.run_id in reasons and run.info.run_id not in linked
    ]


def delete_for_good(leftovers: Sequence[Leftover]) -> None:
    """Delete the runs and their artifacts, so that the disk is free again.

    Of a server only artifacts can be deleted from outside; there the runs go to its bin, which `mlflow gc` empties.
    """
    client = open_store()
    for leftover in leftovers:
        # A run without artifacts has no folder.
        with told(), contextlib.suppress(FileNotFoundError):
            artifact_uri = client.get_run(leftover.run_id).info.artifact_uri
            client.delete_run(leftover.run_id)
            get_artifact_repository(artifact_uri, tracking_uri=client.tracking_uri).delete_artifacts()
    uri = store_uri()
    if leftovers and not uri.startswith("http"):
        command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", uri, "--tracking-uri", uri]
        command += ["--run-ids", ",".join(leftover.run_id for leftover in leftovers)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise PipelineError(
                f"the runs are in MLflow's bin, but `mlflow gc` failed: {done.stderr.strip()[-300:]}"
            )


def _ended_s_ago(run: StoredRun) -> float:
    return time.time() - (run.info.end_time or 0) / 1000
