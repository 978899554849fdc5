"""A grid and a search in DVC's real queue, over a real SQLite store."""

from __future__ import annotations

import os
import re
import signal
import sys

import optuna
import pytest

from pipeline.errors import PipelineError
from pipeline.sweeps import grid, study
from pipeline.sweeps.grid import run_grid, swept_keys, table
from pipeline.sweeps.queue import Queue, State
from pipeline.sweeps.space import Range
from pipeline.sweeps.study import Study
from pipeline.tracking.compare import Results
from tests.tracking.toy import Toy, wait_until

SPACE = {"loss.ssim_weight": Range(0.0, 1.0)}
POLL_S = 0.5

INTERRUPTED_SEARCH = """
from pipeline.errors import reported_to_user
from pipeline.sweeps.queue import Queue
from pipeline.sweeps.space import Range
from pipeline.sweeps.study import Study
from pipeline.tracking.compare import Results
with reported_to_user("sweep"):
    study = Study("stopped", {"loss.ssim_weight": Range(0.0, 1.0)}, Queue(1, Results("depth")))
    study.run(1, 1)
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (grid, study):
        monkeypatch.setattr(module, "POLL_S", POLL_S)


def search(name: str, jobs: int = 2, **options: object) -> Study:
    return Study(name, SPACE, Queue(jobs, Results("depth")), **options)  # type: ignore[arg-type]


def test_a_grid_gives_each_value_its_run_in_one_group_and_a_row_in_the_table(toy: Toy) -> None:
    overrides = ["loss.ssim_weight=0.75,0.25", "tracking.group=weights"]
    queue = Queue(2, Results("depth"))
    states = run_grid(overrides, queue)
    assert list(states.values()) == [State.SUCCEEDED] * 2
    runs = toy.runs()
    assert set(runs) == set(states)
    assert {run.data.tags["group"] for run in runs.values()} == {"weights"}
    printed = table(swept_keys(overrides), {name: queue.find(name) for name in states}, states)
    cells = [re.split(r"\s{2,}", line)[:4] for line in printed.splitlines()]
    assert cells == [
        ["loss.ssim_weight", "val RMSE (m)", "test RMSE (m)", "test δ1"],
        ["0.25", "1.0833", "1.2500", "0.5000"],
        ["0.75", "1.2500", "1.7500", "0.5000"],
    ]


def test_a_search_gives_each_trial_its_run_and_goes_on_to_the_total(toy: Toy) -> None:
    search("find").run(1, jobs=2)
    assert sorted(toy.runs()) == ["find-000"]
    search("find").run(2, jobs=2)
    runs = toy.runs()
    assert sorted(runs) == ["find-000", "find-001"]
    assert {run.data.tags["group"] for run in runs.values()} == {"find"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    told = optuna.load_study(study_name="find", storage=f"sqlite:///{toy.root / '.state/optuna.db'}")
    weights = {name: float(run.data.params["loss.ssim_weight"]) for name, run in runs.items()}
    assert len(set(weights.values())) == 2
    assert [trial.value for trial in told.trials] == pytest.approx([1 + weights[name] / 3 for name in sorted(runs)])
    best = search("find").best()
    assert best == min(weights, key=lambda name: weights[name])
    with pytest.raises(PipelineError, match="begun with other ranges"):
        search("find", fixed=["seed=1"])


def test_a_hopeless_trial_is_killed_and_its_run_says_so(toy: Toy) -> None:
    (toy.root / "pause").touch()
    hopeless = optuna.pruners.ThresholdPruner(upper=0.5)
    pruned = search("prune", jobs=1, pruner=hopeless)
    pruned.run(1, jobs=1)
    wait_until(lambda: toy.runs()["prune-000"].info.status != "RUNNING", 20, "the run is closed")
    run = toy.runs()["prune-000"]
    assert (run.info.status, run.data.tags["pruned"]) == ("KILLED", "true")
    assert "(pruned)" in pruned.table()
    assert pruned.best() is None


def test_a_failed_experiment_is_a_failed_trial(toy: Toy) -> None:
    failing = search("fail", jobs=1, fixed=["train.fail=error"])
    failing.run(1, jobs=1)
    assert [trial.state.name for trial in failing.ended] == ["FAIL"]
    assert toy.runs()["fail-000"].info.status == "FAILED"


def test_an_interrupted_search_leaves_nothing_at_work_and_repeats_the_trial(toy: Toy) -> None:
    (toy.root / "pause").touch()
    process = toy.start(sys.executable, "-c", INTERRUPTED_SEARCH, start_new_session=True)
    wait_until(lambda: Results("depth").find("stopped-000") is not None, 60, "the first trial trains")
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    wait_until(lambda: toy.runs()["stopped-000"].info.status == "KILLED", 20, "the run is closed")
    (toy.root / "pause").unlink()
    search("stopped", jobs=1).run(1, jobs=1)
    runs = toy.runs()
    first, second = (runs[f"stopped-{number:03d}"] for number in (0, 1))
    assert (first.info.status, second.info.status) == ("KILLED", "FINISHED")
    assert first.data.params["loss.ssim_weight"] == second.data.params["loss.ssim_weight"]


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "2024"])
def test_a_name_that_no_experiment_can_bear_is_refused(name: str) -> None:
    with pytest.raises(PipelineError, match="must begin with a letter"):
        Study(name, SPACE, Queue(1, None))  # type: ignore[arg-type]
