"""Runs by id and name, and the files that they hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlflow
import pytest

from pipeline import paths
from pipeline.errors import PipelineError
from pipeline.tracking.opening import go_on
from pipeline.tracking.records import record_executed
from pipeline.tracking.run import Run
from pipeline.tracking.store import experiment_id, open_store
from pipeline.tracking.stored_runs import StoredRuns


@pytest.fixture
def client(root: Path) -> mlflow.MlflowClient:
    return open_store()


def made(client: mlflow.MlflowClient, name: str, start_ms: int) -> Run:
    found = client.create_run(experiment_id(client, "depth"), run_name=name, start_time=start_ms)
    return go_on(client, found.info.run_id, {})


def test_a_run_gives_the_files_of_its_evaluation_by_their_path_in_the_repository(
    root: Path, client: mlflow.MlflowClient, tmp_path: Path
) -> None:
    run = made(client, "lark", 1)
    contents = {paths.METRICS: '{"baseline_mean_map": {}}', paths.PER_IMAGE: "frame\n", paths.PREDICTIONS: "maps"}
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    record_executed(run, "evaluate")
    run.close("FINISHED")
    found = StoredRuns().find(run.run_id)
    assert found is not None and found.name == "lark"
    files = found.files(tmp_path / "copies")
    for path, content in contents.items():
        copy = files(path)
        assert copy is not None and copy.read_text(encoding="utf-8") == content
        assert copy.is_relative_to(tmp_path / "copies")
    assert files(paths.HISTORY) is None, "it was not trained in this run"
    assert files(paths.SHARDS_INDEX) is None, "no run holds data"
    shutil.rmtree(root / "mlartifacts")
    with pytest.raises(PipelineError, match=r"metrics.json of run lark cannot be had"):
        files(paths.METRICS)


def test_of_several_runs_of_a_name_it_is_the_newest_and_an_id_comes_before_a_name(
    client: mlflow.MlflowClient,
) -> None:
    old, new = made(client, "lark", 1), made(client, "lark", 2)
    third = made(client, old.run_id, 3)
    for run in (old, new, third):
        run.close("FINISHED")
    runs = StoredRuns()
    assert [found.run_id for name in ("lark", old.run_id) if (found := runs.find(name))] == [new.run_id, old.run_id]
    assert runs.find("lar") is None
    assert sorted(runs.names) == sorted(["lark", "lark", old.run_id])
    client.delete_run(new.run_id)
    assert (found := runs.find("lark")) and found.run_id == old.run_id
    assert runs.find(new.run_id) is None


def test_without_a_store_there_are_no_runs_and_none_is_made(root: Path) -> None:
    (root / "mlflow.db").unlink()
    assert StoredRuns().names == []
    assert StoredRuns().find("lark") is None
    assert not (root / "mlflow.db").exists()
