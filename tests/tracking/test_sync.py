"""What `dvc exp show` lists and what MLflow lists are brought to the same set."""

from __future__ import annotations

import shutil
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
    for run in toy.all_runs():
        toy.client.set_terminated(run.info.run_id, run.info.status, run.info.end_time - 3_600_000)


# What sync makes ------------------------------------------------------------------------------------------


class Synced:
    """A repository with two experiments whose runs were not complete, and what `depth sync` said of them."""

    def __init__(self, root: Path, store: Path) -> None:
        self.toy = toy = Toy(root)
        shutil.copy(store, root / "mlflow.db")
        toy.experiment("--name", "executed", "-S", "loss.ssim_weight=0.7")
        run = toy.runs()["executed"]
        for tag in ("stage.report", "stage.evaluate"):  # as if only the training had been executed
            toy.client.delete_tag(run.info.run_id, tag)
        # DVC restores every stage of this one from its cache, so that nothing is executed.
        toy.run("dvc", "exp", "run", "--name", "restored", "--force")
        toy.client.delete_run(toy.runs()["restored"].info.run_id)
        self.before = set(toy.runs())
        self.output = toy.run("depth", "sync")


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Synced:
    return Synced(tmp_path_factory.mktemp("synced") / "toy", empty_store)


def test_sync_makes_the_run_of_an_experiment_that_executed_nothing(synced: Synced) -> None:
    assert synced.before == {"executed"}
    assert "made the run of restored" in synced.output
    made = synced.toy.runs()["restored"]
    assert made.info.status == "FINISHED"
    assert made.data.params["loss.ssim_weight"] == "0.7"
    assert made.data.metrics["test/full/rmse"] == 1.7
    assert made.data.metrics["val/rmse"] == pytest.approx(1 + 0.7 / 3)
    assert synced.toy.artifacts(made) == ALL_FILES
    assert "training.run_id" in made.data.tags


def test_sync_completes_a_run_whose_last_stages_were_restored(synced: Synced) -> None:
    assert "completed the run of executed" in synced.output
    run = synced.toy.runs()["executed"]
    assert (run.info.status, run.data.tags["stage.report"]) == ("FINISHED", "reused")


def test_after_sync_there_is_a_run_for_each_experiment_and_nothing_left_to_do(synced: Synced) -> None:
    toy = synced.toy
    assert sorted(toy.runs()) == listed(toy) == ["executed", "restored"]
    assert said(toy.run("depth", "sync"))[-1] == "every DVC experiment has its complete run"
    assert len(toy.runs()) == 2


def test_a_clone_leaves_the_runs_of_others_alone_also_of_experiments_that_it_pulls(
    synced: Synced, tmp_path: Path
) -> None:
    toy, clone = synced.toy, tmp_path / "clone"
    end_long_ago(toy)
    toy.run("git", "clone", "--quiet", str(toy.root), str(clone))
    within = f"cd {clone} && MLFLOW_TRACKING_URI=sqlite:///{toy.root / 'mlflow.db'} depth"
    assert said(toy.run("sh", "-c", f"{within} prune")) == ["no run is left over"], "it has no such experiments"
    toy.run("dvc", "--cd", str(clone), "exp", "pull", "origin", "executed", "--no-cache")
    toy.run("sh", "-c", f"{within} sync")
    assert set(toy.runs()) == {"executed", "restored"}


# What prune deletes ---------------------------------------------------------------------------------------


class Grown:
    """A repository in which runs are left over, and what `depth prune` said of them in turn."""

    def __init__(self, root: Path, store: Path) -> None:
        self.toy = toy = Toy(root)
        shutil.copy(store, root / "mlflow.db")
        toy.run("dvc", "repro", "train")
        toy.experiment("--name", "again", "-S", "train.fail=kill", status=255)
        self.failed = toy.runs()["again"]
        toy.experiment("--name", "again", "-S", "train.fail=no")
        toy.experiment("--name", "trainer", "-S", "loss.ssim_weight=0.7")
        toy.experiment("--name", "removed", "-S", "report.title=removed")
        toy.experiment("--name", "user", "-S", "evaluate.examples=2")
        self.removed = next(run for run in toy.all_runs() if run.info.run_name == "removed")
        self.folder = Path(self.removed.info.artifact_uri.removeprefix("file://"))
        toy.run("dvc", "exp", "remove", "removed", "trainer")
        self.young = said(toy.run("depth", "prune"))
        end_long_ago(toy)
        self.shown = said(toy.run("depth", "prune"))
        assert self.folder.is_dir()
        self.deleted = said(toy.run("depth", "prune", "--yes"))


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Grown:
    return Grown(tmp_path_factory.mktemp("pruned") / "toy", empty_store)


def test_prune_shows_attempts_that_were_replaced_and_runs_whose_experiment_is_gone(pruned: Grown) -> None:
    replaced = f"{pruned.failed.info.run_id}  again  (replaced by a later attempt)"
    removed = f"{pruned.removed.info.run_id}  removed  (experiment removed)"
    assert pruned.failed.info.status == "KILLED"
    assert pruned.young[:-1] == [replaced], "DVC may still be saving what has just ended"
    assert sorted(pruned.shown[:-1]) == sorted([replaced, removed])
    assert "`depth prune --yes` deletes" in pruned.shown[-1]


def test_prune_deletes_for_good_and_leaves_plain_repros_and_what_trained_the_weights_of_others(
    pruned: Grown,
) -> None:
    assert pruned.deleted[-1] == "deleted 2 runs with their artifacts"
    assert not pruned.folder.exists()
    with pytest.raises(Exception, match="not found"):
        pruned.toy.client.get_run(pruned.removed.info.run_id)
    assert sorted(pruned.toy.runs()) == ["again", "repro", "trainer", "user"]
    assert listed(pruned.toy) == ["again", "user"]
    pruned.toy.run("dvc", "exp", "remove", "user")
    assert pruned.toy.run("depth", "prune").count("experiment removed") == 2
