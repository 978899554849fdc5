"""How long the train stage takes from the start of its process to the end of its first step.

The stage is started as DVC starts it, with its store there already. When the first step was made is what it told
MLflow itself.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.entries import Entry
from benchmarks.noise import changed, inside, make_working_copy, original, smallest
from pipeline.errors import PipelineError
from pipeline.params import Params
from pipeline.tracking.store import experiment_id, open_store
from pipeline.training.device import choose_device

LIMIT_S = 4.0
STARTS = 7


def measure(quick: bool) -> list[Entry]:
    params = original()
    params = smallest(params) if quick else params
    params = changed(params, train={"epochs": 1}, tracking={"log_every_steps": 1})
    with TemporaryDirectory(prefix="depth-bench-") as folder, inside(Path(folder) / "repository") as work:
        make_working_copy(work, params, 2 * params.train.batch_size, 2)
        _first_step_s(params, 0)  # makes the store and warms the files
        found = [_first_step_s(params, number) for number in range(1, 2 if quick else STARTS + 1)]
    device = choose_device("auto").type
    return [
        Entry(
            "start",
            statistics.median(found),
            "s",
            f"process start to the end of the first step; {min(found):.2f} to {max(found):.2f} s",
            limit=LIMIT_S if device == "cpu" else None,
            device=device,
            details={"starts": found},
        )
    ]


def _first_step_s(params: Params, start: int) -> float:
    name = f"start-{start}"
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "stages.train"],
        env=os.environ | {"DVC_EXP_NAME": name, "DVC_STAGE": "train"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise PipelineError(f"the training of the benchmark failed: {done.stderr.strip()[-500:]}")
    client = open_store()
    number = experiment_id(client, params.tracking.experiment)
    (run,) = client.search_runs([number], f"attributes.run_name = '{name}'")
    points = client.get_metric_history(run.info.run_id, "train/loss/total")
    return min(point.timestamp for point in points) / 1000 - started
