"""Runs brought to the same set as DVC experiments: renamed as they were, missing ones made from files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.entities import Run as StoredRun

from pipeline import paths
from pipeline.errors import PipelineError
from pipeline.experiments import Experiment, list_experiments
from pipeline.files import locked
from pipeline.params import flatten, load_params
from pipeline.progress import progress_bar
from pipeline.tracking.execution import Execution, is_alive
from pipeline.tracking.kept import outbox_folder
from pipeline.tracking.opening import go_on, logged_params
from pipeline.tracking.outbox import deliver_kept
from pipeline.tracking.records import STAGES, Files, record_reused, stage_hashes
from pipeline.tracking.run import hash_tag, stage_tag
from pipeline.tracking.store import experiment_id, open_store, search_runs, told
from pipeline.tracking.tags import group_tags, origin_tags, repository_mark
from pipeline.yaml_text import parse_yaml

FilesOf = Callable[[Experiment], AbstractContextManager[Files]]


@dataclass(frozen=True)
class Synced:
    renamed: list[str]
    """experiments whose run had the name that they bore before"""
    made: list[str]
    """experiments that had no run"""
    completed: list[str]
    """experiments whose run lacked stages that were not executed in it"""
    sent: int
    """runs whose calls had been kept while the store could not be reached"""


def sync(experiments: Sequence[Experiment], files_of: FilesOf) -> Synced:
    """Give each DVC experiment its one complete run, from the files that it consists of."""
    with locked(outbox_folder().with_name("sync.lock")), told():
        return _sync(open_store(), experiments, files_of)


def _sync(client: mlflow.MlflowClient, experiments: Sequence[Experiment], files_of: FilesOf) -> Synced:
    sent, failed = deliver_kept(client, outbox_folder())
    if failed:
        raise PipelineError("the calls kept while MLflow could not be reached could again not be sent; try later")
    runs = all_runs(client)
    lacking = [experiment for experiment in experiments if run_of(experiment, runs) is None]
    renamed = find_renamed(lacking, list_experiments(), runs, files_of) if lacking else {}
    for run_id, experiment in renamed.items():
        client.set_tag(run_id, "dvc.experiment", experiment.name)
        client.update_run(run_id, name=experiment.name)
    if renamed:
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
                        completed += [experiment.name] * complete_run(client, found, files)
            progress.update()
    return Synced([experiment.name for experiment in renamed.values()], made, completed, sent)


def make_run(client: mlflow.MlflowClient, experiment: Experiment, files: Files) -> bool:
    """Whether there was anything to make a run from: an experiment of other code has no parameters of ours."""
    params = _params(files)
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
            if (params_file := files(paths.PARAMS)) is not None:
                run.log_file(params_file)
            record_reused(run, files=files)
    except BaseException:
        client.delete_run(created.info.run_id)  # half of a run would pass for the whole
        raise
    return True


def complete_run(client: mlflow.MlflowClient, found: StoredRun, files: Files) -> bool:
    """Whether the files had anything that the run lacked: an experiment may consist of some stages only."""
    run = go_on(client, found.info.run_id, found.data.tags)
    try:
        record_reused(run, files=files)
    finally:
        run.close(None)  # however this goes, the run ended as it did
    return run.tags != found.data.tags


def _params(files: Files) -> dict[str, Any]:
    """The parameters as executed stages log them; those of other code as they are."""
    if (found := files(paths.PARAMS)) is None:
        return {}
    with contextlib.suppress(PipelineError):
        return load_params(found).model_dump()
    return dict(parse_yaml(found.read_text(encoding="utf-8")) or {})


def all_runs(client: mlflow.MlflowClient) -> list[StoredRun]:
    experiments = client.search_experiments()
    return [run for found in experiments for run in search_runs(client, found.experiment_id)]


def is_own(run: StoredRun) -> bool:
    """Whether the run was made from this clone; of the experiments of others on a server nothing is known here."""
    return bool(run.data.tags.get("repository") == repository_mark())


def is_of_dvc(run: StoredRun) -> bool:
    """Whether it is the run of a DVC experiment, not of a plain `dvc repro`."""
    return "dvc.experiment" in run.data.tags


def command_of(run: StoredRun) -> str:
    """Mark of the process that executed the stages of an experiment's run."""
    tags = run.data.tags
    return str(tags.get("execution", "")).removesuffix(f":{tags['dvc.experiment']}")


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
    """Whether the run ended without stages that DVC took from its cache after the last one that was executed.

    Or without what DVC notes of the last stage only when its process has ended.
    """
    needed = [stage_tag(stage) for stage in STAGES] + [hash_tag(STAGES[-1])]
    return any(tag not in run.data.tags for tag in needed) and is_own(run) and run.info.status == "FINISHED"


def find_renamed(
    lacking: Sequence[Experiment], listed: Sequence[Experiment], runs: Sequence[StoredRun], files_of: FilesOf
) -> dict[str, Experiment]:
    """By id the runs of this clone whose experiment got another name since, by `dvc exp rename`.

    They hold none of the experiments that are listed, and one that is `lacking` a run starts from the same commit
    and has the same parameters and stage hashes, as far as both tell them.
    """
    held = [run_of(experiment, runs) for experiment in listed]
    taken = {run.info.run_id for run in held if run is not None}
    spare = [
        run
        for run in runs
        if is_own(run) and is_of_dvc(run) and run.info.status == "FINISHED" and run.info.run_id not in taken
        # The experiment of a DVC that is still at work will be listed.
        if not is_alive(command_of(run))
    ]
    renamed: dict[str, Experiment] = {}
    for experiment in lacking:
        alike = [run for run in spare if run.data.tags.get("dvc.baseline_rev") == experiment.baseline_rev]
        if alike:
            with files_of(experiment) as files:
                params = logged_params(_params(files))
                hashes = {hash_tag(stage): value for stage, value in stage_hashes(files).items()}
            same = next((run for run in alike if params and _holds(run, params, hashes)), None)
            if same is not None:
                renamed[same.info.run_id] = experiment
                spare.remove(same)
    return renamed


def _holds(run: StoredRun, params: dict[str, str], hashes: dict[str, str]) -> bool:
    known = {key: value for key, value in run.data.tags.items() if key in map(hash_tag, STAGES)}
    # A parameter that came or went with the code since is on one side only.
    return known.items() <= hashes.items() and all(
        params.get(key, value) == value for key, value in run.data.params.items()
    )
