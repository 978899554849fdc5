"""MLflow: one store at the repository's root, one run for each execution of the pipeline.

The only package that imports mlflow. A stage's own process does not: it has one beside it that does. Everything
speaks to the store through a client and explicit run ids, never through MLflow's global active run, so that nothing
is logged anywhere by accident.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.tracking.pipe import PipedRun, dismiss_sender, start_sender, take_sender
from pipeline.tracking.run import Run

# MLflow reads them when it is imported, which only modules of this package do.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a checkpoint comes in a moment
# Its default retries hang four minutes on a dead server.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

__all__ = ["PipedRun", "Run", "dismiss_sender", "stage_run", "start_sender"]


@contextlib.contextmanager
def stage_run(stage: str, params: Mapping[str, Any], resume: str | None = None) -> Iterator[PipedRun]:
    """The run of the present execution, while `stage` works in it.

    params: the nested content of params.yaml. resume: id of the run whose training was interrupted and is gone on
    with: an execution that has no run yet goes on in that one if its parameters are the same, else the new run is
    tagged `resumed_from`. What DVC took from its cache instead of executing is added before, and what the stage
    wrote, also before it failed, after. Raises `PipelineError` if the store cannot be opened.

    A program that calls `start_sender` before its other imports does not wait for MLflow's here.
    """
    from pipeline.tracking.records import record_executed, record_failed, record_reused

    began_s = time.time()
    with take_sender().open(stage, params, resume) as run:
        record_reused(run, before=stage)
        try:
            yield run
        except BaseException:
            record_failed(run, stage, began_s)
            raise
        record_executed(run, stage)
