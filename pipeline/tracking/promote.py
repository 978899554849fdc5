"""Which model is the champion: a run's best checkpoint against the present one, on the same test frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline import paths
from pipeline.data.splits import TRAINED_ON
from pipeline.errors import PipelineError
from pipeline.evaluation.bootstrap import LEVEL, Difference, paired_difference_of_tables
from pipeline.evaluation.protocols import PROTOCOLS
from pipeline.files import locked, read_json, sha256_of
from pipeline.model.checkpoint import CheckpointInfo, load_network, read_checkpoint_info
from pipeline.tracking import registry
from pipeline.tracking.store import first_line, open_store, search_runs, shown_uri, store_is_missing, told
from pipeline.tracking.stored_runs import StoredRun, find_run
from pipeline.tracking.table import JUDGED_BY

TAGGED = ("rmse", "abs_rel", "delta1")
"""Metrics of each protocol that a version is tagged with."""


@dataclass(frozen=True)
class Scored:
    """A run and what its evaluation found on each test frame."""

    run_id: str
    name: str
    metrics: dict[str, Any]
    """the content of metrics.json"""
    per_image: pd.DataFrame

    def rmse_m(self, protocol: str) -> float:
        return float(self.metrics[protocol]["rmse"])


@dataclass(frozen=True)
class Comparison:
    """The candidate's error per image minus that of the champion."""

    version: str
    """of the champion"""
    champion: Scored
    difference_m: Difference

    @property
    def is_better(self) -> bool:
        """By more than the confidence interval: all of it lies below zero."""
        return self.difference_m.high < 0


@dataclass(frozen=True)
class Verdict:
    """What `promote` found and did."""

    protocol: str
    candidate: Scored
    version: str
    """of the candidate"""
    is_new: bool
    """whether the version was registered now"""
    is_champion: bool
    before: str | None
    """the version that was champion before"""
    comparison: Comparison | None
    not_compared: str | None
    """why there is no comparison, if it was called for"""

    def lines(self) -> list[str]:
        """The figures, for a person."""
        told = [
            f"run {self.candidate.name} ({self.candidate.run_id[:8]}): RMSE "
            f"{self.candidate.rmse_m(self.protocol):.4f} m, protocol {self.protocol}, per image, on "
            f"{self.candidate.metrics['frames']} test frames"
        ]
        if self.comparison is not None:
            champion, difference = self.comparison.champion, self.comparison.difference_m
            told += [
                f"champion, version {self.comparison.version}, run {champion.name} ({champion.run_id[:8]}): RMSE "
                f"{champion.rmse_m(self.protocol):.4f} m on the same frames",
                f"difference {difference.mean:+.4f} m, {LEVEL:.0%} interval {difference.low:+.4f} to "
                f"{difference.high:+.4f} m: " + ("better" if self.comparison.is_better else "not clearly better"),
            ]
        if self.not_compared is not None:
            told.append(f"not compared: {self.not_compared}")
        registered = "registered as" if self.is_new else "it is"
        told.append(f"{registered} version {self.version} of the model {registry.MODEL}, {self._standing()}")
        return told

    def _standing(self) -> str:
        if not self.is_champion:
            return f"while version {self.before} stays champion"
        if self.before is None:
            return "the first champion"
        return "champion already" if self.before == self.version else "champion now"


def promote(run: str | None, protocol: str, force: bool) -> Verdict:
    """Register a run's best checkpoint, and make it champion if it beats the present one, there is none, or by
    `force`.

    run: id or name; by default the newest evaluation of the training whose weights lie in the workspace. A
    checkpoint that is registered already gets no second version, and the figures of its version are renewed.
    Raises `PipelineError` if the run has nothing to register, and, except by `force`, if its figures are none of
    unseen frames or the champion was scored on other frames; nothing is registered then.
    """
    if protocol not in PROTOCOLS:
        raise PipelineError(f"there is no protocol {protocol!r}; choose {', '.join(PROTOCOLS)}")
    if store_is_missing():
        raise PipelineError(
            f"there is no MLflow store at {shown_uri()}, so no run to promote; run `dvc repro` first"
        )
    client = open_store()
    with (
        locked(paths.repository_root() / paths.STATE / "promote.lock"),
        TemporaryDirectory(prefix="depth-") as folder,
    ):
        stored = _named(client, run) if run else _of_workspace(client)
        scored, checkpoint, info = _candidate(client, stored, Path(folder))
        tags = _tags(scored, checkpoint, info)
        same = [
            version
            for version in registry.versions(client)
            if version.tags.get("checkpoint.sha256") == tags["checkpoint.sha256"]
        ]
        champion = registry.champion(client)
        comparison, not_compared = None, None
        try:
            _check_unseen(scored)
            if champion is not None and champion.version not in {version.version for version in same}:
                comparison = _compare(client, scored, champion, protocol, Path(folder))
        except PipelineError as error:
            if not force:
                raise
            not_compared = str(error)
        if same:
            number = str(same[0].version)
            registry.set_tags(client, number, tags)
        else:
            number = registry.register(client, scored.run_id, checkpoint, tags)
        before = str(champion.version) if champion else None
        wins = before in (None, number) or force or (comparison is not None and comparison.is_better)
        if wins and before != number:
            registry.make_champion(client, number)
        return Verdict(protocol, scored, number, not same, wins, before, comparison, not_compared)


def _named(client: mlflow.MlflowClient, name: str) -> Run:
    found = find_run(client, name)
    if found is None:
        raise PipelineError(f"MLflow at {shown_uri()} has no run whose id or name is {name}")
    with told():
        return client.get_run(found.run_id)


def _of_workspace(client: mlflow.MlflowClient) -> Run:
    """Of the run that trained the weights in the workspace and those that only evaluated them, the newest."""
    path = paths.repository_root() / paths.RUN
    if not path.is_file():
        raise PipelineError(f"{path} does not exist, which names the run to promote; run `dvc repro`, or name one")
    training = str(read_json(path)["run_id"])
    try:
        trained = client.get_run(training)
    except MlflowException as error:
        raise PipelineError(
            f"run {training}, which {path} names, cannot be had from MLflow: {first_line(error)}"
        ) from error
    with told():
        others = search_runs(client, trained.info.experiment_id, f"tags.`training.run_id` = '{training}'")
    evaluated = [
        run for run in (trained, *others) if run.info.status == "FINISHED" and JUDGED_BY in run.data.metrics
    ]
    if not evaluated:
        raise PipelineError(f"run {training}, which {path} names, has not been evaluated; run `dvc repro` first")
    return max(evaluated, key=lambda run: run.info.start_time)


def _candidate(client: mlflow.MlflowClient, run: Run, folder: Path) -> tuple[Scored, Path, CheckpointInfo]:
    """The run's scores and its best checkpoint, which is one that can be loaded and that was scored."""
    name = run.info.run_name
    if run.info.status != "FINISHED":
        raise PipelineError(f"run {name} is {run.info.status}; only a finished one can be promoted")
    stored = StoredRun.of(run, client)
    scored = _scored(stored, folder)
    checkpoint = stored.needed(paths.BEST_CHECKPOINT, folder / stored.run_id)
    load_network(checkpoint)
    info = read_checkpoint_info(checkpoint)
    if scored.metrics.get("checkpoint_epoch") != info.epoch:
        raise PipelineError(
            f"run {name} scored the weights of epoch {scored.metrics.get('checkpoint_epoch')}, and its best ones "
            f"are of epoch {info.epoch}; evaluate those with -S evaluate.checkpoint=best"
        )
    return scored, checkpoint, info


def _scored(run: StoredRun, folder: Path) -> Scored:
    own = folder / run.run_id
    metrics = read_json(run.needed(paths.METRICS, own))
    per_image = pd.read_csv(run.needed(paths.PER_IMAGE, own), dtype={"frame": str})
    return Scored(run.run_id, run.name, metrics, per_image)


def _check_unseen(scored: Scored) -> None:
    if scored.metrics["trained_on"] == TRAINED_ON["all"]:
        raise PipelineError(
            f"run {scored.name} was trained on {scored.metrics['trained_on']}, so its test figures say nothing; "
            "promote one with preprocess.split=official, or use --force"
        )


def _compare(
    client: mlflow.MlflowClient, candidate: Scored, version: Any, protocol: str, folder: Path
) -> Comparison:
    """Raises `PipelineError` if the two were not scored on the same test frames."""
    place = f"the champion, version {version.version}"
    run_id = version.tags.get("run_id", version.run_id)
    try:
        champion = _scored(StoredRun.of(client.get_run(run_id), client), folder)
        _check_unseen(champion)
    except (MlflowException, PipelineError) as error:
        raise PipelineError(
            f"{place}, gives no figures to compare with: {first_line(error)}; or use --force"
        ) from error
    found = [one.metrics.get("frames_sha256") for one in (candidate, champion)]
    for one, sha256 in zip((candidate, champion), found, strict=True):
        if sha256 is None:
            raise PipelineError(
                f"run {one.name} does not say which test frames it was scored on, as evaluations now do; "
                "evaluate it again, or use --force"
            )
    if found[0] != found[1]:
        raise PipelineError(
            f"run {candidate.name} was scored on other test frames ({candidate.metrics['source']}, "
            f"{candidate.metrics['frames']}) than {place} ({champion.metrics['source']}, "
            f"{champion.metrics['frames']}), which does not compare; use --force to replace it all the same"
        )
    difference_m = paired_difference_of_tables(candidate.per_image, champion.per_image, f"{protocol}_rmse")
    return Comparison(str(version.version), champion, difference_m)


def _tags(scored: Scored, checkpoint: Path, info: CheckpointInfo) -> dict[str, str]:
    """What a version says of itself in MLflow's registry."""
    metrics = {
        f"test/{protocol}/{name}": str(figures[name])
        for protocol, figures in scored.metrics.items()
        if protocol in scored.metrics["baseline_mean_map"]
        for name in TAGGED
    }
    return metrics | {
        "run_id": scored.run_id,
        "run_name": scored.name,
        "checkpoint.sha256": sha256_of(checkpoint),
        "checkpoint.epoch": str(info.epoch),
        "data.fingerprint": info.data_fingerprint,
        "trained_on": info.trained_on,
        "test.frames": str(scored.metrics["frames"]),
        "test.frames_sha256": str(scored.metrics.get("frames_sha256", "")),
        "parameters": str(scored.metrics["parameters"]),
    }
