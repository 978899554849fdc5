"""The runs of several DVC experiments beside each other, and of one that is still at work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Run as StoredRun

from pipeline.tracking.records import STAGES
from pipeline.tracking.run import stage_tag
from pipeline.tracking.store import experiment_id, open_store, replaced_runs, search_runs, told
from pipeline.tracking.table import JUDGED_BY, OBJECTIVE, SCORES
from pipeline.tracking.tags import repository_mark


@dataclass(frozen=True)
class Result:
    """What the run of an experiment has told so far."""

    run_id: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    """the last value of each"""
    tags: dict[str, str]
    curve: list[float]
    """the objective, epoch by epoch"""

    @property
    def best(self) -> float | None:
        """The lowest value of the objective; None if none was logged, as without validation frames."""
        return min((value for value in self.curve if value == value), default=None)

    @property
    def is_trained(self) -> bool:
        """Whether only evaluation and report are left."""
        return stage_tag("train") in self.tags

    @property
    def is_complete(self) -> bool:
        """Whether every stage was executed in the run or its results added to it."""
        return all(stage_tag(stage) in self.tags for stage in STAGES)


class Results:
    """Reads and tags the runs of DVC experiments. Calls raise `PipelineError` if the store does not answer."""

    def __init__(self, mlflow_experiment: str) -> None:
        self._client = open_store()
        with told():
            self._number = experiment_id(self._client, mlflow_experiment)

    def find(self, experiment: str, clone: str | None = None) -> Result | None:
        """The newest run of the DVC experiment of this name, made in this clone or in the folder `clone` elsewhere.

        Others that share the store may have experiments of the same name.
        """
        with told():
            found = [
                run
                for run in search_runs(self._client, self._number, f"tags.`dvc.experiment` = '{experiment}'")
                # Not by MLflow's filter, to which a quote or _ in the folder's name would say something.
                if _is_of(run.data.tags.get("repository", ""), clone)
            ]
            if not found:
                return None
            return self._result(max(found, key=lambda run: run.info.start_time))

    def _result(self, run: StoredRun) -> Result:
        history = self._client.get_metric_history(run.info.run_id, OBJECTIVE)
        by_step = {point.step: point.value for point in sorted(history, key=lambda point: point.timestamp)}
        return Result(
            run.info.run_id,
            run.info.status,
            dict(run.data.params),
            dict(run.data.metrics),
            dict(run.data.tags),
            [by_step[step] for step in sorted(by_step)],
        )

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        with told():
            for key, value in tags.items():
                self._client.set_tag(run_id, key, value)

    def adopt(self, run_id: str) -> None:
        """Count a run that was made in another clone as one of this: its experiment has been brought here."""
        self.tag(run_id, {"repository": repository_mark()})


def _is_of(repository: str, clone: str | None) -> bool:
    return repository == repository_mark() if clone is None else repository.endswith(f"/{clone}")


def finished_rows(experiment: str) -> list[dict[str, Any]]:
    """The finished runs of the MLflow experiment as rows for `table_of`, the newest first.

    Left out are runs that a later attempt replaced, and those of executions that did not come to the evaluation: a
    run is FINISHED if every stage is that was executed. Raises `PipelineError` if the store does not answer.
    """
    client = open_store()
    rows = []
    with told():
        found = client.get_experiment_by_name(experiment)
        runs = search_runs(client, found.experiment_id, "attributes.status = 'FINISHED'") if found else []
        replaced = replaced_runs(runs)
        for run in runs:
            tags, scores = run.data.tags, {name: run.data.metrics.get(name) for name in SCORES}
            if run.info.run_id in replaced or scores[JUDGED_BY] is None:
                continue
            if scores[OBJECTIVE] is not None:
                history = client.get_metric_history(run.info.run_id, OBJECTIVE)
                scores[OBJECTIVE] = min(
                    (point.value for point in history if point.value == point.value), default=None
                )
            rows.append(
                {
                    "run_id": run.info.run_id,
                    "name": run.info.run_name,
                    "group": tags.get("group"),
                    "training": tags.get("training.run_id", run.info.run_id),
                    **{f"params.{name}": value for name, value in run.data.params.items()},
                    **scores,
                }
            )
    return rows
