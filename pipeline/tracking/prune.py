"""Runs that are left over, of experiments that were removed and of attempts that came to nothing, deleted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mlflow.entities import Run as StoredRun
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from pipeline import paths
from pipeline.environment import git
from pipeline.errors import PipelineError
from pipeline.experiments import Experiment
from pipeline.files import read_json
from pipeline.tracking.execution import has_ended
from pipeline.tracking.records import STAGES
from pipeline.tracking.registry import registered_runs
from pipeline.tracking.run import stage_tag
from pipeline.tracking.store import first_line, open_store, replaced_runs, shown_uri, store_uri, told
from pipeline.tracking.sync import FilesOf, all_runs, command_of, find_renamed, is_of_dvc, is_own, run_of
from pipeline.tracking.tags import PLACE

SETTLING_S = 600.0
"""A run whose experiment is not listed is left alone for so long: DVC saves the experiment after its last stage."""
COLLECTING_S = 60.0
"""So long where DVC's process in a copy has ended: a queue's worker has yet to fetch the experiment."""


@dataclass(frozen=True)
class Leftover:
    """A run that `depth prune` deletes."""

    run_id: str
    name: str
    reason: str


def find_leftovers(experiments: Sequence[Experiment], files_of: FilesOf) -> list[Leftover]:
    """Runs of this clone whose DVC experiment was removed, that failed, or that a later attempt has replaced.

    A run that trained the weights of one that stays, here or in another clone, or those that are committed, is no
    leftover, nor is one whose model is registered: the next is compared with its scores.
    """
    listed = {(experiment.name, experiment.baseline_rev) for experiment in experiments}
    client = open_store()
    with told():
        runs = all_runs(client)
    registered = registered_runs(client)
    lacking = [experiment for experiment in experiments if run_of(experiment, runs) is None]
    replaced, renamed = replaced_runs(runs), find_renamed(lacking, experiments, runs, files_of)
    committed = _committed()
    reasons: dict[str, str] = {}
    for run in runs:
        tags, run_id = run.data.tags, run.info.run_id
        if not is_own(run) or not is_of_dvc(run) or run.info.status == "RUNNING" or run_id in renamed:
            continue
        if run_id in registered or (run_id == committed and run.info.status == "FINISHED"):
            continue
        if run_id in replaced:
            reasons[run_id] = "replaced by a later attempt"
        elif (tags["dvc.experiment"], tags.get("dvc.baseline_rev")) in listed:
            continue
        elif run.info.status != "FINISHED":
            reasons[run_id] = f"{run.info.status}, never became an experiment"
        elif _is_settled(run):
            reached_end = stage_tag(STAGES[-1]) in tags
            reasons[run_id] = "experiment removed" if reached_end else "ended early, and has no experiment"
    # Weights that a remaining run uses were trained there, and its curves are nowhere else.
    linked = {run.data.tags.get("training.run_id") for run in runs if run.info.run_id not in reasons}
    return [
        Leftover(run.info.run_id, run.info.run_name, reasons[run.info.run_id])
        for run in runs
        if run.info.run_id in reasons and run.info.run_id not in linked
    ]


def _committed() -> str | None:
    """The run that trained the weights in the workspace, if they are those of the present commit."""
    root = paths.repository_root()
    is_tracked = git("-C", str(root), "ls-files", "--", str(paths.LOCK))
    is_changed = git("-C", str(root), "status", "--porcelain", "--", str(paths.LOCK))
    if not (root / paths.RUN).is_file() or not is_tracked or is_changed:
        return None
    return str(read_json(root / paths.RUN)["run_id"])


def _is_settled(run: StoredRun) -> bool:
    """Whether DVC would have saved the run's experiment by now."""
    ended_s_ago = time.time() - (run.info.end_time or 0) / 1000
    if not has_ended(command_of(run)):
        return ended_s_ago > SETTLING_S
    return run.data.tags.get(PLACE) == "workspace" or ended_s_ago > COLLECTING_S


def delete_for_good(leftovers: Sequence[Leftover]) -> None:
    """Delete the runs and their artifacts, so that the disk is free again.

    Of a server only artifacts can be deleted from outside; there the runs go to its bin, which `mlflow gc` empties.
    """
    client = open_store()
    for leftover in leftovers:
        with told():
            artifact_uri = client.get_run(leftover.run_id).info.artifact_uri
        try:  # before the run, which nobody would find again
            if client.list_artifacts(leftover.run_id):
                get_artifact_repository(artifact_uri, tracking_uri=client.tracking_uri).delete_artifacts()
        except Exception as error:  # every kind of store has its own
            raise PipelineError(
                f"the artifacts of run {leftover.run_id} in {shown_uri(artifact_uri)} cannot be deleted: "
                f"{first_line(error)}; mend that and prune again"
            ) from error
        with told():
            client.delete_run(leftover.run_id)
    uri = store_uri()
    if leftovers and not uri.startswith("http"):
        # Not as a command line, which everybody on this machine could read the database's password in.
        arguments = ["gc", "--run-ids", ",".join(leftover.run_id for leftover in leftovers), "--backend-store-uri"]
        code = f"import os; from mlflow.cli import cli; cli({arguments!r} + [os.environ['MLFLOW_TRACKING_URI']])"
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=os.environ | {"MLFLOW_TRACKING_URI": uri},
        )
        if done.returncode:
            raise PipelineError(
                f"the runs are in MLflow's bin, but `mlflow gc` failed: {done.stderr.strip()[-300:]}"
            )
