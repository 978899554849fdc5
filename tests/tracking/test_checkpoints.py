"""Models that are kept in MLflow, found by the names that a person knows them by."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from pipeline.errors import PipelineError
from pipeline.tracking.checkpoints import fetch_checkpoint


def make_run(store: mlflow.MlflowClient, name: str, content: str | None, start_time: int) -> str:
    """A run with this best checkpoint, and one more file."""
    found = store.get_experiment_by_name("depth")
    location = Path("mlartifacts").resolve().as_uri()
    number = found.experiment_id if found else store.create_experiment("depth", artifact_location=location)
    run_id: str = store.create_run(number, start_time=start_time, run_name=name).info.run_id
    if content is not None:
        for file, text in (("best.safetensors", content), ("last.safetensors", "last")):
            store.log_text(run_id, text, f"checkpoints/{file}")
    return run_id


def register(store: mlflow.MlflowClient, run_id: str, **files: str) -> None:
    """A version of the model `depth` whose folder holds these files, under the alias `champion`."""
    for name, text in files.items():
        store.log_text(run_id, text, f"model/{name.replace('__', '/').replace('_st', '.safetensors')}")
    if not store.search_registered_models("name = 'depth'"):
        store.create_registered_model("depth")
    version = store.create_model_version("depth", f"{store.get_run(run_id).info.artifact_uri}/model", run_id)
    store.set_registered_model_alias("depth", "champion", version.version)


def test_a_run_is_found_by_its_id_and_by_its_name_of_which_the_newest_counts(
    store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    old = make_run(store, "shaky-gnat", "old", 1)
    make_run(store, "shaky-gnat", "new", 2)
    make_run(store, "shaky-gnats", "other", 3)
    found = fetch_checkpoint("shaky-gnat", tmp_path / "by-name")
    assert (found.name, found.read_text()) == ("best.safetensors", "new")
    assert fetch_checkpoint(old, tmp_path / "by-id").read_text() == "old"
    assert (tmp_path / "by-id") in fetch_checkpoint(old, tmp_path / "by-id").parents


def test_a_registered_model_is_found_by_alias_and_version(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    first, second = (make_run(store, name, None, 1) for name in ("first", "second"))
    register(store, first, MLmodel="flavors: {}", best_st="one")
    register(store, second, MLmodel="flavors: {}", artifacts__best_st="two")
    assert fetch_checkpoint("models:/depth@champion", tmp_path / "a").read_text() == "two"
    assert fetch_checkpoint("models:/depth/1", tmp_path / "b").read_text() == "one"


def test_a_model_that_is_not_there_is_said_in_one_line(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    make_run(store, "killed", None, 1)
    register(store, make_run(store, "two", None, 2), best_st="one", last_st="two")
    for model, said in (
        ("models:/depth@nobody", "models:/depth@nobody cannot be had from MLflow at sqlite:///"),
        ("models:/depth/7", "models:/depth/7 cannot be had"),
        ("models:/other@champion", "models:/other@champion cannot be had"),
        ("models:/depth@champion", "holds 2 safetensors files"),
        ("nobody", "nobody is no file, and MLflow at sqlite:///"),
        ("it's", "it's is no file"),
        ("killed", "run killed has no checkpoints/best.safetensors"),
    ):
        with pytest.raises(PipelineError) as caught:
            fetch_checkpoint(model, tmp_path / "new")
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_without_a_store_none_is_made(root: Path, tmp_path: Path) -> None:
    (root / "mlflow.db").unlink()
    with pytest.raises(PipelineError, match="there is no MLflow store"):
        fetch_checkpoint("shaky-gnat", tmp_path)
    assert not (root / "mlflow.db").exists()
