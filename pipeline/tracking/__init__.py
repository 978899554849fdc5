"""MLflow: one store at the repository's root, one run for each execution of the pipeline.

The only package that imports mlflow. It speaks to the store through a client and explicit run ids, never through
MLflow's global active run, so that nothing is logged anywhere by accident.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.tracking.records import record_executed, record_reused
from pipeline.tracking.run import Run, open_run
from pipeline.tracking.store import open_store, store_uri

__all__ = ["Run", "open_store", "stage_run", "store_uri"]


@contextlib.contextmanager
def stage_run(stage: str, params: Mapping[str, Any]) -> Iterator[Run]:
    """The run of the present execution, while `stage` works in it.

    params: the nested content of params.yaml. What DVC took from its cache instead of executing is added before,
    and what the stage leaves, also when it fails, after. Raises `PipelineError` if the store cannot be opened.
    """
    tracking = params["tracking"]
    with open_run(stage, tracking["experiment"], params, tracking["group"]) as run:
        record_reused(run, before=stage)
        try:
            yield run
        finally:
            record_executed(run, stage)
