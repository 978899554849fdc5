"""What `dvc exp show` lists and what MLflow lists are brought to the same set."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tracking.toy import ALL_FILES, Toy


def said(output: str) -> list[str]:
    """The lines that a command prints, without its progress bar."""
    return [line for line in output.splitlines() if line and "experiment/s" not in line and "it/s" not in line]


def listed(toy: Toy) -> list[str]:
    return sorted(toy.run("dvc", "exp", "list", "--all-commits", "--name-only").split())


def end_long_ago(toy: Toy) -> None:
    """As if the runs had ended an hour ago: younger ones are not pruned, their experiment may still be saved."""
    for run in toy.runs().values():
        toy.client.set_terminated(run.info.run_id, run.info.status, run.info.end_time - 3_600_000)


@pytest.fixture
def restored(toy: Toy) -> Toy:
    """An experiment of which DVC restores every stage from its cache, so that nothing is executed."""
    toy.experiment("--name", "executed", "-S", "loss.ssim_weight=0.7")
    toy.run("git", "restore", "params.yaml")
    toy.run("dvc", "exp", "run", "--name", "back", "--force")
    (run,) = [run for name, run in toy.runs().items() if name == "back"]
    toy.client.delete_run(run.info.run_id)
    return toy


def test_sync_makes_the_run_of_an_experiment_that_executed_nothing(restored: Toy) -> None:
    toy = restored
    assert set(toy.runs()) == {"executed"}
    assert "made the run of back" in toy.run("depth", "sync")
    runs = toy.runs()
    assert sorted(runs) == listed(toy) == ["back", "executed"]
    made = runs["back"]
    assert made.info.status == "FINISHED"
    assert made.data.params["loss.ssim_weight"] == "0.5"
    assert made.data.metrics["test/full/rmse"] == 1.5
    assert made.data.metrics["val/rmse"] == pytest.approx(1 + 0.5 / 3)
    assert toy.artifacts(made) == ALL_FILES
    assert "training.run_id" in made.data.tags
    assert said(toy.run("depth", "sync"))[-1] == "every DVC experiment has its complete run"
    assert len(toy.runs()) == 2


def test_sync_completes_a_run_whose_last_stages_were_restored(toy: Toy) -> None:
    toy.experiment("--name", "whole")
    run = toy.runs()["whole"]
    for tag in ("stage.report", "stage.evaluate"):  # as if only the training had been executed
        toy.client.delete_tag(run.info.run_id, tag)
    assert "completed the run of whole" in toy.run("depth", "sync")
    assert toy.runs()["whole"].data.tags["stage.report"] == "reused"


def test_prune_shows_first_and_deletes_for_good_only_what_is_gone(toy: Toy) -> None:
    for name, weight in (("kept", "0.6"), ("removed", "0.7")):
        toy.experiment("--name", name, "-S", f"loss.ssim_weight={weight}")
    toy.run("dvc", "exp", "remove", "removed")
    removed = toy.runs()["removed"]
    folder = Path(removed.info.artifact_uri.removeprefix("file://"))
    assert said(toy.run("depth", "prune")) == ["no run is left over"], "too young: DVC may still be saving it"
    end_long_ago(toy)
    shown = toy.run("depth", "prune")
    assert f"{removed.info.run_id}  removed  (experiment removed)" in shown
    assert "`depth prune --yes` deletes" in shown
    assert folder.is_dir()
    toy.run("depth", "prune", "--yes")
    assert set(toy.runs()) == {"kept"} == set(listed(toy))
    assert not folder.exists()
    with pytest.raises(Exception, match="not found"):
        toy.client.get_run(removed.info.run_id)


def test_prune_takes_attempts_that_failed_or_were_replaced_and_leaves_plain_repros(toy: Toy) -> None:
    toy.run("dvc", "repro")
    toy.experiment("--name", "again", "-S", "train.fail=error", status=255)
    failed = toy.runs()["again"].info.run_id
    toy.experiment("--name", "again", "-S", "train.fail=no")
    output = toy.run("depth", "prune", "--yes")
    assert f"{failed}  again  (replaced by a later attempt)" in output
    assert sorted(toy.runs()) == ["again", "repro"]


def test_prune_leaves_the_run_that_trained_what_another_uses(toy: Toy) -> None:
    toy.experiment("--name", "trainer", "-S", "loss.ssim_weight=0.7")
    toy.experiment("--name", "user", "-S", "evaluate.examples=2")
    toy.run("dvc", "exp", "remove", "trainer")
    end_long_ago(toy)
    assert said(toy.run("depth", "prune")) == ["no run is left over"]
    toy.run("dvc", "exp", "remove", "user")
    assert toy.run("depth", "prune").count("experiment removed") == 2


def test_an_experiment_pulled_from_a_colleague_keeps_the_run_that_it_has(toy: Toy, tmp_path: Path) -> None:
    uri = f"sqlite:///{toy.root / 'mlflow.db'}"
    toy.environment["MLFLOW_TRACKING_URI"] = uri
    toy.experiment("--name", "theirs")
    clone = tmp_path / "clone"
    toy.run("git", "clone", "--quiet", str(toy.root), str(clone))
    toy.run("dvc", "--cd", str(clone), "exp", "pull", "origin", "theirs", "--no-cache")
    toy.run("sh", "-c", f"cd {clone} && depth sync")
    assert set(toy.runs()) == {"theirs"}
    assert said(toy.run("sh", "-c", f"cd {clone} && depth prune")) == ["no run is left over"]


def test_runs_of_another_clone_on_the_same_store_are_left_alone(toy: Toy, tmp_path: Path) -> None:
    other = Toy(tmp_path / "other", MLFLOW_TRACKING_URI=f"sqlite:///{toy.root / 'mlflow.db'}")
    other.experiment("--name", "theirs")
    other.run("dvc", "exp", "remove", "theirs")
    end_long_ago(other)
    assert said(toy.run("depth", "prune")) == ["no run is left over"]
    assert "theirs" in other.run("depth", "prune")
