"""What `dvc exp show` lists and what MLflow lists are brought to the same set."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import mlflow
import pytest

from pipeline.errors import PipelineError
from pipeline.experiments import files_of
from pipeline.tracking.execution import process_mark
from pipeline.tracking.prune import delete_for_good, find_leftovers
from pipeline.tracking.tags import PLACE, repository_mark
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
        toy.experiment("--name", "old", "-S", "evaluate.examples=2")
        self.renamed = toy.runs()["old"]
        toy.client.delete_tag(self.renamed.info.run_id, "stage.report.hash")  # as if its sender had been killed
        toy.run("dvc", "exp", "rename", "old", "new")
        toy.experiment("--name", "partial", "-S", "loss.ssim_weight=0.3", "train")
        end_long_ago(toy)
        self.pruned = said(toy.run("depth", "prune"))
        self.before = set(toy.runs())
        self.output = toy.run("depth", "sync")
        said_of = (line.partition(" the run of ") for line in said(self.output))
        self.did = {what: set(names.split(", ")) for what, _, names in said_of}


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Synced:
    return Synced(tmp_path_factory.mktemp("synced") / "toy", empty_store)


def test_sync_makes_the_run_of_an_experiment_that_executed_nothing(synced: Synced) -> None:
    assert synced.before == {"executed", "old", "partial"}
    assert synced.did["made"] == {"restored"}
    made = synced.toy.runs()["restored"]
    assert made.info.status == "FINISHED"
    assert made.data.params["loss.ssim_weight"] == "0.7"
    assert made.data.metrics["test/full/rmse"] == 1.7
    assert made.data.metrics["val/rmse"] == pytest.approx(1 + 0.7 / 3)
    assert synced.toy.artifacts(made) == ALL_FILES
    assert "training.run_id" in made.data.tags


def test_sync_completes_a_run_whose_last_stages_were_restored(synced: Synced) -> None:
    assert "executed" in synced.did["completed"]
    run = synced.toy.runs()["executed"]
    assert (run.info.status, run.data.tags["stage.report"]) == ("FINISHED", "reused")


def test_the_run_of_an_experiment_that_was_renamed_is_not_pruned_but_renamed_by_sync(synced: Synced) -> None:
    assert synced.pruned == ["no run is left over"]
    assert synced.did["renamed"] == {"new"}
    run = synced.toy.runs()["new"]
    assert run.info.run_id == synced.renamed.info.run_id
    assert run.data.tags["dvc.experiment"] == "new"


def test_sync_adds_what_dvc_noted_of_the_last_stage(synced: Synced) -> None:
    assert "new" in synced.did["completed"]
    before, after = synced.renamed, synced.toy.runs()["new"]
    assert after.data.tags["stage.report.hash"] == before.data.tags["stage.report.hash"]


def test_an_experiment_of_a_training_alone_gets_no_scores_of_an_earlier_one(synced: Synced) -> None:
    run = synced.toy.runs()["partial"]
    assert run.data.params["loss.ssim_weight"] == "0.3"
    assert not {"stage.evaluate", "stage.report"} & set(run.data.tags)
    assert "test/full/rmse" not in run.data.metrics


def test_after_sync_there_is_a_run_for_each_experiment_and_nothing_left_to_do(synced: Synced) -> None:
    toy = synced.toy
    assert sorted(toy.runs()) == listed(toy) == ["executed", "new", "partial", "restored"]
    assert said(toy.run("depth", "sync"))[-1] == "every DVC experiment has its complete run"
    assert len(toy.runs()) == 4


SYNC_ONE = """
from pipeline.experiments import files_of, list_experiments
from pipeline.tracking.sync import sync
print(sync([found for found in list_experiments() if found.name == "restored"], files_of))
"""


def test_an_experiment_that_is_the_same_as_another_does_not_take_its_run(synced: Synced) -> None:
    toy = synced.toy
    toy.client.delete_run(toy.runs()["restored"].info.run_id)
    assert "renamed=[], made=['restored']" in toy.run("python", "-c", SYNC_ONE)
    assert sorted(toy.runs()) == ["executed", "new", "partial", "restored"]


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
    assert set(toy.runs()) == {"executed", "new", "partial", "restored"}


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
    pruned.toy.run("git", "add", "--force", "dvc.lock")
    pruned.toy.run("git", "commit", "--quiet", "--message", "the weights that trainer trained")
    assert pruned.toy.run("depth", "prune").count("experiment removed") == 1, "they are those of the commit"


class Runs:
    """Makes runs of this clone in a store, as an experiment that was removed long ago left them."""

    def __init__(self, store: mlflow.MlflowClient) -> None:
        self._store = store
        self._number = store.create_experiment("made")

    def make(self, name: str, ended_s_ago: float = 3600, number: str | None = None, **tags: str) -> str:
        found = {"dvc.experiment": name, "dvc.baseline_rev": "b" * 40, "repository": repository_mark()}
        run = self._store.create_run(
            number or self._number, run_name=name, tags=found | {"stage.report": ""} | tags
        )
        end_ms = int((time.time() - ended_s_ago) * 1000)
        self._store.set_terminated(run.info.run_id, "FINISHED", end_ms)
        return str(run.info.run_id)


def left_over() -> set[str]:
    return {leftover.name for leftover in find_leftovers([], files_of)}


def test_what_trained_the_weights_of_a_run_of_another_clone_is_not_pruned(
    root: Path, store: mlflow.MlflowClient
) -> None:
    runs = Runs(store)
    trained = runs.make("trained")
    runs.make("other")
    runs.make("colleague", repository="0123@elsewhere:/home/colleague/clone", **{"training.run_id": trained})
    assert left_over() == {"other"}


def test_a_run_whose_dvc_has_ended_is_pruned_soon_and_others_after_ten_minutes(
    root: Path, store: mlflow.MlflowClient
) -> None:
    runs = Runs(store)
    with subprocess.Popen(["sleep", "60"]) as ended:
        mark = process_mark(ended.pid)
        ended.kill()
    runs.make("ended", 120, execution=f"{mark}:ended")
    runs.make("just ended", 5, execution=f"{mark}:just ended", **{PLACE: "copy"})
    runs.make("at work", 120, execution=f"{process_mark(os.getpid())}:at work")
    assert left_over() == {"ended"}
    runs.make("long ago", 700, execution="elsewhere:1:00000000-1:long ago")
    runs.make("in the workspace", 5, execution=f"{mark}:in the workspace", **{PLACE: "workspace"})
    assert left_over() == {"ended", "long ago", "in the workspace"}


def test_a_run_that_did_not_get_through_the_report_is_not_called_an_experiment(
    root: Path, store: mlflow.MlflowClient
) -> None:
    runs = Runs(store)
    store.delete_tag(runs.make("cut"), "stage.report")
    (leftover,) = find_leftovers([], files_of)
    assert leftover.reason == "ended early, and has no experiment"


def test_a_run_whose_artifacts_cannot_be_deleted_stays_and_that_is_told_in_one_line(
    root: Path, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    far = store.create_experiment("far", artifact_location="http://127.0.0.1:9/artifacts")
    run_id = Runs(store).make("stays", number=far)
    with pytest.raises(PipelineError, match=f"the artifacts of run {run_id} in .* cannot be deleted") as caught:
        delete_for_good(find_leftovers([], files_of))
    assert "\n" not in str(caught.value)
    assert left_over() == {"stays"}
