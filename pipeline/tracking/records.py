"""What the files of the stages say, as data sets, metrics, tags and artifacts of a run.

A stage that was executed and one whose results are reused, now or in a later `depth sync`, end in the same run.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.files import read_json
from pipeline.tracking.run import Run, hash_tag, stage_tag
from pipeline.training.history import Epoch
from pipeline.yaml_text import parse_yaml

Files = Callable[[Path], Path | None]
"""Where a file of the pipeline lies, in the working copy or copied from a DVC experiment; None if it is absent."""

STAGES = ("fetch", "preprocess", "train", "evaluate", "report")

MTIME_S = 0.05
"""The file system's clock ticks behind the other by so much at most."""

ALIGNED = ("rmse", "abs_rel", "delta1", "median_ratio")
INTERVALS = ("rmse", "abs_rel", "delta1")

ARTIFACTS: dict[str, tuple[tuple[Path, str | None], ...]] = {
    "fetch": (),
    "preprocess": (),
    "train": (
        (paths.BEST_CHECKPOINT, "checkpoints"),
        (paths.LAST_CHECKPOINT, "checkpoints"),
        (paths.HISTORY, None),
    ),
    "evaluate": ((paths.METRICS, None), (paths.PER_IMAGE, None), (paths.PREDICTIONS, None)),
    "report": ((paths.REPORT, None),),
}


def working_copy(path: Path) -> Path | None:
    return path if path.is_file() else None


def record_executed(run: Run, stage: str) -> None:
    """What a stage wrote: artifacts, data sets, test metrics. Training logs its own metrics."""
    _record_files(run, stage, working_copy)


def record_failed(run: Run, stage: str, since_s: float) -> None:
    """What a stage wrote before it failed; what lies there from before `since_s`, when it began, is another's."""

    def written(path: Path) -> Path | None:
        return path if path.is_file() and path.stat().st_mtime >= since_s - MTIME_S else None

    with contextlib.suppress(Exception):  # the error to be told is that of the stage
        _record_files(run, stage, written)


def record_reused(run: Run, before: str | None = None, files: Files = working_copy) -> None:
    """Add what the run lacks of the stages before `before` (of all, if None): DVC took them from its cache.

    Of all stages dvc.lock is told, too. It must be what DVC wrote after the last one.
    """
    entries = _entries(files)
    outdated = _outdated(entries)
    stages = [stage for stage in STAGES[: STAGES.index(before) if before else None] if stage not in outdated]
    for stage in stages:
        if stage_tag(stage) in run.tags:
            continue
        if stage == "train":
            _record_training(run, files)
        _record_files(run, stage, files)
        run.set_tags({stage_tag(stage): "reused"})
    _record_hashes(run, stages, entries)
    if before is None and (lock := files(paths.LOCK)) is not None:
        run.log_file(lock)


def record_lock(run: Run, lock: Path) -> None:
    """dvc.lock as DVC left it after the last stage, and its hashes."""
    _record_hashes(run, STAGES, _entries(lambda _: lock))
    run.log_file(lock)


def _record_files(run: Run, stage: str, files: Files) -> None:
    for path, folder in ARTIFACTS[stage]:
        if (found := files(path)) is not None:
            run.log_file(found, folder)
    if stage == "preprocess":
        _record_data(run, files)
    if stage == "evaluate":
        _record_scores(run, files)


def _record_data(run: Run, files: Files) -> None:
    if (found := files(paths.SHARDS_INDEX)) is None:
        return
    index = read_json(found)
    run.set_tags({"data.fingerprint": index["fingerprint"], "trained_on": index["trained_on"]})
    for split, content in index["splits"].items():
        run.log_dataset(
            {"train": "training", "val": "validation", "test": "testing"}[split],
            name=f"{index['source']}-{split}",
            digest=index["fingerprint"][:16],
            source_type="local",
            source=json.dumps({"uri": paths.SHARDS.as_posix()}),
            profile=json.dumps(
                {key: content[key] for key in ("frames", "scenes")}
                | {key: index[key] for key in ("height", "width")}
            ),
        )


def _record_training(run: Run, files: Files) -> None:
    """A training that this run did not execute: its history by epoch, and the link to the run that did."""
    if (found := files(paths.RUN)) is not None:
        origin = read_json(found)
        run.set_tags({"training.run_id": origin["run_id"]})
        run.set_tags({f"training.{key}": value for key, value in origin.get("environment", {}).items()})
    if (found := files(paths.HISTORY)) is not None:
        with found.open(encoding="utf-8", newline="") as rows:
            for row in csv.DictReader(rows):
                epoch = Epoch.of_row({name: float(value or "nan") for name, value in row.items()})
                # The losses of single steps stand in the run that is linked to.
                losses = {f"train/loss/{name}": value for name, value in epoch.train_loss.items()}
                run.log_metrics(epoch.metrics() | losses, epoch.step)


def _record_scores(run: Run, files: Files) -> None:
    if (found := files(paths.METRICS)) is None:
        return
    run.log_metrics(_test_metrics(read_json(found)))


def _test_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """Each protocol's own figures, those of aligned predictions, and the limits of what one looks at first."""
    logged: dict[str, float] = {}
    for protocol in metrics["baseline_mean_map"]:
        logged |= {f"test/{protocol}/{name}": value for name, value in metrics[protocol].items()}
        aligned = metrics.get("aligned", {}).get(protocol, {})
        logged |= {f"test/{protocol}/aligned/{name}": aligned[name] for name in ALIGNED if name in aligned}
        intervals = metrics.get("intervals", {}).get(protocol, {})
        for name in INTERVALS:
            if name in intervals:
                low, high = intervals[name]
                logged |= {f"test/{protocol}/{name}_low": low, f"test/{protocol}/{name}_high": high}
    return logged


def stage_hashes(files: Files) -> dict[str, str]:
    """One hash for each stage's command, code, parameters, inputs and outputs as dvc.lock has them."""
    return _hashes(_entries(files))


def _record_hashes(run: Run, stages: Sequence[str], entries: dict[str, Any]) -> None:
    run.set_tags({hash_tag(stage): value for stage, value in _hashes(entries).items() if stage in stages})


def _hashes(entries: dict[str, Any]) -> dict[str, str]:
    return {
        stage: hashlib.sha256(json.dumps(entries[stage], sort_keys=True).encode()).hexdigest()
        for stage in STAGES
        if stage in entries
    }


def _outdated(entries: dict[str, Any]) -> set[str]:
    """Stages whose entry has other inputs than the stages before made: only those were executed since.

    What such a stage left belongs to an earlier experiment.
    """
    outdated: set[str] = set()
    made = {out["path"]: (stage, out.get("md5")) for stage in entries for out in entries[stage].get("outs", ())}
    for stage in STAGES:
        for dep in entries.get(stage, {}).get("deps", ()):
            maker, content = made.get(dep["path"], ("", dep.get("md5")))
            if maker in outdated or content != dep.get("md5"):
                outdated.add(stage)
    return outdated


def _entries(files: Files) -> dict[str, Any]:
    """What dvc.lock notes of each stage."""
    if (found := files(paths.LOCK)) is None:
        return {}
    return dict((parse_yaml(found.read_text(encoding="utf-8")) or {}).get("stages", {}))
