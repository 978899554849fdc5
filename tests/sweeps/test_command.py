"""`depth sweep` as it is typed, in a repository with the real parameters and the toy's training."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.errors import PipelineError
from pipeline.sweeps.command import sweep
from pipeline.sweeps.grid import run_grid
from tests.tracking.toy import Toy

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
DEPTH = (sys.executable, "-m", "pipeline.cli")


@pytest.fixture
def real_params(toy: Toy) -> Toy:
    shutil.copy(PARAMS, toy.root)
    toy.run("git", "commit", "--all", "--quiet", "--message", "real parameters")
    return toy


def test_a_grid_tells_the_best_what_comes_next_and_which_experiments_failed(real_params: Toy) -> None:
    toy = real_params
    command = (*DEPTH, "sweep", "-S", "loss.ssim_weight=0.75,0.25,2", "-S", "train.epochs=3", "--jobs", "2")
    printed = toy.run(*command, status=1)
    named = {float(run.data.params["loss.ssim_weight"]): name for name, run in toy.runs().items()}
    assert sorted(named) == [0.25, 0.75, 2.0]
    assert {run.data.tags["group"] for run in toy.runs().values()} == {"ssim-weight"}
    assert f"{named[2.0]} (failed)" in printed
    assert f"best: {named[0.25]}; `dvc exp apply {named[0.25]}`" in printed
    assert "`dvc repro --single-item --force report`" in printed
    assert printed.splitlines()[-1] == (
        f"error: depth sweep: 1 of 3 experiments did not succeed ({named[2.0]}); "
        f"`dvc queue logs {named[2.0]}` says why"
    )


def test_a_search_of_one_trial_holds_the_other_parameters(real_params: Toy) -> None:
    toy = real_params
    printed = toy.run(*DEPTH, "sweep", "--trials", "1", "--name", "find", "-S", "train.epochs=2")
    (run,) = toy.runs().values()
    assert (run.info.run_name, run.info.status, run.data.tags["group"]) == ("find-000", "FINISHED", "find")
    assert run.data.params["train.epochs"] == "2"
    assert 8 <= int(run.data.params["network.width"]) <= 24
    assert "best: find-000; `dvc exp apply find-000`" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give values to compare with -S KEY=VALUE,VALUE, or search with --trials N"),
        (["--jobs", "0", "-S", "seed=1"], "--jobs and --trials must be 1 or more"),
        (["--trials", "0"], "--jobs and --trials must be 1 or more"),
        (["-S", "seed"], "-S seed: write KEY=VALUE"),
        (["-S", "tracking.group=x"], "-S tracking.group=x: a sweep sets tracking.group itself, by --name"),
        (["-S", "+tracking.group=x"], "-S +tracking.group=x: a sweep sets tracking.group itself, by --name"),
        (["-S", "params.yaml:tracking.group=x"], "a sweep sets tracking.group itself, by --name"),
        (["-S", "tracking.experiment=x"], "in the experiment that params.yaml names; change it there"),
        (["-S", "seed=1,2", "--ray", "auto"], "--ray works with --trials only"),
        (["-S", "seed=1,2", "--name", "a b"], "must begin with a letter"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["sweep", *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: depth sweep: ")
    assert said in line


def test_other_parameters_of_tracking_can_be_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr("pipeline.sweeps.command.sweep_grid", lambda *arguments: started.append(arguments))
    sweep(["tracking.log_every_steps=1,10"], None, 1, None, None)
    assert started == [(["tracking.log_every_steps=1,10"], 1, None)]


def test_a_queue_that_names_no_experiments_is_an_error_not_an_empty_table() -> None:
    class Silent:
        def submit(self, name: str | None, overrides: list[str]) -> list[str]:
            return []

    with pytest.raises(PipelineError, match="`dvc queue status` lists them"):
        run_grid(["seed=1,2"], Silent())  # type: ignore[arg-type]
