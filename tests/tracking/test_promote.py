"""Which version is champion. The runs are written by hand, the store and the models are real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from pipeline import DepthEstimator
from pipeline.cli import main
from pipeline.data.splits import TRAINED_ON
from pipeline.errors import PipelineError
from pipeline.experiments import files_of
from pipeline.tracking import registry
from pipeline.tracking.promote import promote
from pipeline.tracking.prune import find_leftovers
from pipeline.tracking.tags import repository_mark
from tests.tracking.scored_runs import ScoredRuns
from tests.tracking.toy import Server, client_of

HARD = [0.8, 1.2, 1.0, 0.9, 1.1, 1.3, 0.7, 1.0]
BETTER = [error - 0.1 - 0.01 * (place % 2) for place, error in enumerate(HARD)]
"""On every frame, though the frames differ by more."""
NO_CLEARER = [error + (0.1 if place % 2 else -0.11) for place, error in enumerate(HARD)]
"""On average, but not by more than chance."""


@pytest.fixture
def runs(root: Path, store: mlflow.MlflowClient) -> ScoredRuns:
    return ScoredRuns(store, root)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """To save a model takes a second; what it holds is another test's question."""

    def save(folder: Path, checkpoint: Path, description: Any) -> None:
        (folder / "artifacts").mkdir(parents=True)
        (folder / "artifacts" / "best.safetensors").write_bytes(checkpoint.read_bytes())
        description.save(str(folder / "MLmodel"))

    monkeypatch.setattr(registry, "save", save)


def versions(store: mlflow.MlflowClient) -> dict[int, str | None]:
    """The run of each."""
    return {
        int(version.version): version.run_id
        for version in store.search_model_versions(f"name = '{registry.MODEL}'")
    }


def champion(store: mlflow.MlflowClient) -> int | None:
    try:
        return int(store.get_model_version_by_alias("depth", "champion").version)
    except MlflowException:
        return None


@pytest.mark.usefixtures("quick")
def test_the_first_is_champion_and_only_what_beats_it_by_more_than_the_interval_takes_its_place(
    runs: ScoredRuns, store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    first = runs.make("first", HARD, seed=1)
    main(["promote", "first"])
    assert "version 1 of the model depth, the first champion" in capsys.readouterr().out
    assert (versions(store), champion(store)) == ({1: first}, 1)

    unclear = runs.make("unclear", NO_CLEARER, seed=2)
    with pytest.raises(SystemExit) as ended:
        main(["promote", unclear])
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "RMSE 0.9950 m, protocol full, per image, on 8 test frames" in said.out
    assert "RMSE 1.0000 m on the same frames" in said.out
    assert "difference -0.0050 m, 95% interval -0.0" in said.out
    assert "not clearly better" in said.out
    assert "version 2 of the model depth, while version 1 stays champion" in said.out
    assert said.err.startswith("error: depth promote: version 2 is not champion")
    assert (versions(store), champion(store)) == ({1: first, 2: unclear}, 1)

    better = runs.make("better", BETTER, seed=3)
    main(["promote", "better"])
    assert "difference -0.1050 m, 95% interval -0.1" in capsys.readouterr().out
    assert (versions(store), champion(store)) == ({1: first, 2: unclear, 3: better}, 3)

    main(["promote", "--force", "unclear"])
    said = capsys.readouterr()
    assert "not clearly better" in said.out
    assert "version 2 of the model depth, champion now" in said.out
    assert (len(versions(store)), champion(store)) == (3, 2)


@pytest.mark.parametrize("run", [None, "shaky-gnat"])
def test_without_a_store_none_is_made(root: Path, run: str | None) -> None:
    (root / "mlflow.db").unlink()
    with pytest.raises(PipelineError, match=r"there is no MLflow store at .*, so no run to promote"):
        promote(run, "full", False)
    assert sorted(path.name for path in root.iterdir()) == ["params.yaml"]


@pytest.mark.usefixtures("quick")
def test_the_interval_is_that_of_the_differences_not_of_the_scores(runs: ScoredRuns) -> None:
    """Frames are drawn for both at once: the scores spread by 0.2 m, their differences by 5 mm."""
    runs.make("first", HARD, seed=1)
    promote("first", "full", False)
    runs.make("better", BETTER, seed=2)
    found = promote("better", "full", False).comparison
    assert found is not None
    assert found.difference_m.mean == pytest.approx(-0.105)
    assert -0.11 <= found.difference_m.low < found.difference_m.high <= -0.1
    assert found.difference_m.images == 8


@pytest.mark.usefixtures("quick")
def test_another_protocol_can_decide(runs: ScoredRuns, store: mlflow.MlflowClient) -> None:
    runs.make("first", HARD, seed=1)
    promote("first", "full", False)
    runs.make("better", BETTER, seed=2)  # and worse in the column eigen_rmse
    assert not promote("better", "eigen", False).is_champion
    assert champion(store) == 1
    with pytest.raises(PipelineError, match="there is no protocol 'other'; choose full, eigen, densedepth"):
        promote("better", "other", False)


@pytest.mark.usefixtures("quick")
def test_a_run_or_its_weights_are_registered_once(runs: ScoredRuns, store: mlflow.MlflowClient) -> None:
    first = runs.make("first", HARD, seed=1)
    for _ in range(2):
        assert promote(first, "full", False).is_champion
    scored_again = runs.make("again", BETTER, seed=1, tags={"training.run_id": first})
    verdict = promote(scored_again, "full", False)
    assert (verdict.is_champion, verdict.is_new, verdict.comparison) == (True, False, None)
    assert versions(store) == {1: first}
    assert store.get_model_version("depth", "1").tags["run_id"] == scored_again
    # The figures of its newest evaluation count from now on.
    runs.make("between", [error - 0.05 for error in HARD], seed=2)
    assert not promote("between", "full", False).is_champion


@pytest.mark.usefixtures("quick")
def test_a_version_says_where_it_comes_from_and_how_good_it_is(
    runs: ScoredRuns, store: mlflow.MlflowClient
) -> None:
    run_id = runs.make("first", HARD, seed=1)
    promote("first", "full", False)
    version = store.get_model_version_by_alias("depth", "champion")
    assert version.run_id == run_id
    expected = {"run_id": run_id, "run_name": "first", "data.fingerprint": "abc", "checkpoint.epoch": "3"}
    expected |= {"test/full/rmse": "1.0", "test/eigen/delta1": "0.8", "test.frames": "8"}
    expected |= {"test.frames_sha256": "f" * 64, "trained_on": TRAINED_ON["official"]}
    assert expected.items() <= version.tags.items()
    logged = store.get_logged_model(version.source.removeprefix("models:/"))
    assert (logged.source_run_id, logged.status) == (run_id, "READY")


@pytest.mark.usefixtures("quick")
def test_what_does_not_compare_is_refused_and_not_registered_except_by_force(
    runs: ScoredRuns, store: mlflow.MlflowClient
) -> None:
    all_frames = TRAINED_ON["all"]
    runs.make("memorised", BETTER, seed=9, trained_on=all_frames)
    with pytest.raises(PipelineError, match="was trained on all frames, the test frames included"):
        promote("memorised", "full", False)
    assert store.search_registered_models() == []
    runs.make("first", HARD, seed=1)
    promote("first", "full", False)
    runs.make("other frames", BETTER, seed=2, frames_sha256="0" * 64)
    runs.make("fewer", BETTER[:6], seed=3, frames_sha256="1" * 64)
    runs.make("old", BETTER, seed=4, frames_sha256=None)
    runs.make("last epoch", BETTER, seed=5, epoch_scored=20)
    runs.make("killed", BETTER, seed=6, status="KILLED")
    runs.make("planted", BETTER, seed=7, checkpoint=b"\x80\x04cos\nsystem\n")
    for name, said in (
        ("memorised", "so its test figures say nothing"),
        ("other frames", r"other test frames \(rooms, 8\) than the champion, version 1 \(rooms, 8\)"),
        ("fewer", r"other test frames \(rooms, 6\)"),
        ("old", "run old does not say which test frames it was scored on"),
        ("last epoch", "scored the weights of epoch 20, and its best ones are of epoch 3"),
        ("killed", "run killed is KILLED; only a finished one"),
        ("planted", "is not a readable safetensors file"),
        ("nobody", r"mlflow\.db has no run whose id or name is nobody$"),
    ):
        with pytest.raises(PipelineError, match=said) as caught:
            promote(name, "full", False)
        assert "\n" not in str(caught.value)
    assert (len(versions(store)), champion(store)) == (1, 1)
    for name in ("last epoch", "killed", "planted"):  # of which there is nothing to serve, or no figures
        with pytest.raises(PipelineError):
            promote(name, "full", True)
    verdict = promote("other frames", "full", True)
    assert verdict.is_champion
    assert any(line.startswith("not compared: run other frames was scored on other") for line in verdict.lines())
    assert champion(store) == 2


@pytest.mark.usefixtures("quick")
def test_a_champion_whose_run_is_gone_must_be_replaced_by_force(
    runs: ScoredRuns, store: mlflow.MlflowClient
) -> None:
    run_id = runs.make("first", HARD, seed=1)
    promote("first", "full", False)
    store.log_text(run_id, "frame,other\n00000,1\n", "per_image.csv")
    runs.make("better", BETTER, seed=2)
    with pytest.raises(PipelineError, match=r"per_image.csv has no column 'full_rmse'"):
        promote("better", "full", False)
    (Path("mlartifacts") / run_id / "artifacts" / "per_image.csv").unlink()
    with pytest.raises(PipelineError, match="the champion, version 1, gives no figures to compare with"):
        promote("better", "full", False)
    assert promote("better", "full", True).is_champion


@pytest.mark.usefixtures("quick")
def test_by_default_the_newest_evaluation_of_the_weights_in_the_workspace_is_promoted(
    runs: ScoredRuns, store: mlflow.MlflowClient, root: Path
) -> None:
    with pytest.raises(PipelineError, match=r"run\.json does not exist"):
        promote(None, "full", False)
    trained = runs.make("trained", HARD, seed=1, status="FAILED")
    (root / "models").mkdir()
    (root / "models/run.json").write_text(json.dumps({"run_id": trained}))
    with pytest.raises(PipelineError, match="has not been evaluated"):
        promote(None, "full", False)
    evaluated = runs.make("evaluated", HARD, seed=1, tags={"training.run_id": trained})
    runs.make("another training", BETTER, seed=2)
    assert promote(None, "full", False).candidate.run_id == evaluated
    (root / "models/run.json").write_text(json.dumps({"run_id": "0" * 32}))
    with pytest.raises(PipelineError, match="cannot be had from MLflow"):
        promote(None, "full", False)


@pytest.mark.usefixtures("quick")
def test_a_registered_run_is_not_pruned(runs: ScoredRuns, store: mlflow.MlflowClient) -> None:
    removed = {"dvc.experiment": "gone", "dvc.baseline_rev": "b" * 40, "repository": repository_mark()}
    registered = runs.make("registered", HARD, seed=1, tags=removed)
    other = runs.make("other", HARD, seed=2, tags=removed | {"dvc.experiment": "gone, too"})
    for run_id in (registered, other):
        store.set_terminated(run_id, "FINISHED", store.get_run(run_id).info.end_time - 3_600_000)
    promote("registered", "full", False)
    assert {leftover.name for leftover in find_leftovers([], files_of)} == {"other"}


@pytest.mark.usefixtures("quick")
def test_a_model_that_cannot_be_stored_changes_nothing_and_is_told(
    runs: ScoredRuns, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.make("first", HARD, seed=1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mlflow.MlflowClient, "log_model_artifacts", full)
    with pytest.raises(PipelineError, match=r"the model cannot be stored in .*No space left"):
        promote("first", "full", False)
    assert (versions(store), champion(store)) == ({}, None)


def test_a_server_keeps_versions_and_models_as_the_local_store_does(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    store = client_of(server.uri)
    runs = ScoredRuns(store, root, is_server=True)
    first, better = runs.make("first", HARD, seed=1), runs.make("better", BETTER, seed=2)
    assert promote("first", "full", False).is_champion
    assert promote("better", "full", False).is_champion
    assert (versions(store), champion(store)) == ({1: first, 2: better}, 2)
    of_run, of_champion = DepthEstimator(better), DepthEstimator("models:/depth@champion")
    assert of_champion.facts["sha256"] == of_run.facts["sha256"]


def test_what_is_promoted_is_what_depth_predict_and_the_estimator_take(runs: ScoredRuns, root: Path) -> None:
    run_id = runs.make("first", HARD, seed=1)
    promote("first", "full", False)
    of_run, of_champion = DepthEstimator(run_id), DepthEstimator("models:/depth@champion")
    assert of_champion.facts["sha256"] == of_run.facts["sha256"]
