"""Trials on a Ray cluster of two nodes, each in its clone, against one MLflow server and one DVC remote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.sweeps import study
from pipeline.sweeps.cluster import Cluster, shared_repository, shared_store
from pipeline.sweeps.space import Range
from pipeline.sweeps.study import Study
from pipeline.tracking.compare import Results
from tests.tracking.toy import Server, Toy, wait_until

SPACE = {"loss.ssim_weight": Range(0.0, 1.0)}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster with two nodes of one processor each."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-cluster.lock")
    from ray.cluster_utils import Cluster as LocalCluster

    # Clones and their cache go with the test; Ray's sockets need a short path.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    nodes = LocalCluster()
    for _ in range(2):
        nodes.add_node(num_cpus=1, include_dashboard=False)
    nodes.wait_for_nodes()
    yield nodes.address
    nodes.shutdown()


def test_trials_work_in_clones_and_come_back_as_experiments_with_their_runs(
    toy: Toy, cluster: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "POLL_S", 1.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    toy.environment["MLFLOW_TRACKING_URI"] = server.uri
    toy.run("git", "init", "--bare", "--quiet", str(tmp_path / "shared.git"))
    toy.run("git", "remote", "add", "origin", str(tmp_path / "shared.git"))
    toy.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "remote"))
    toy.run("git", "commit", "--all", "--quiet", "--message", "remotes")
    with pytest.raises(PipelineError, match="git push first"):
        shared_repository()
    toy.run("git", "push", "--quiet", "origin", "HEAD")

    with Cluster(cluster, Results("depth")) as machines:
        search = Study("far", SPACE, machines)
        search.run(2, jobs=2)
    runs = toy.runs()
    assert sorted(runs) == ["far-000", "far-001"]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {run.data.tags["group"] for run in runs.values()} == {"far"}
    assert [trial.value for trial in search.ended] == pytest.approx(
        [1 + float(runs[name].data.params["loss.ssim_weight"]) / 3 for name in sorted(runs)]
    )
    assert sorted(toy.run("dvc", "exp", "list", "--name-only").split()) == sorted(runs)
    best = str(search.best())
    toy.run("dvc", "exp", "apply", best)
    # Training and weights have come through the remote.
    weight = float(runs[best].data.params["loss.ssim_weight"])
    assert (toy.root / "models/best.safetensors").read_text(encoding="utf-8") == f"weights of {weight}"


def test_a_hopeless_trial_is_killed_on_its_machine(
    toy: Toy, cluster: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import optuna

    monkeypatch.setattr(study, "POLL_S", 0.5)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    toy.environment["MLFLOW_TRACKING_URI"] = server.uri
    hopeless = optuna.pruners.ThresholdPruner(upper=0.5)
    with Cluster(cluster, Results("depth")) as machines:
        search = Study("far", SPACE, machines, pruner=hopeless, fixed=["train.pause_s=5"])
        search.run(1, jobs=1)
        wait_until(lambda: toy.runs()["far-000"].info.status == "KILLED", 60, "the run is closed")
    assert toy.runs()["far-000"].data.tags["pruned"] == "true"


@pytest.mark.parametrize("uri", ["", "sqlite:///mlflow.db", "file:///tmp/mlruns", "mlruns"])
def test_a_store_that_other_machines_cannot_reach_is_refused(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(PipelineError, match="set MLFLOW_TRACKING_URI"):
        shared_store()


def test_changes_that_are_not_committed_are_refused(toy: Toy) -> None:
    (toy.root / "params.yaml").write_text("seed: 1\n", encoding="utf-8")
    with pytest.raises(PipelineError, match="commit them first"):
        shared_repository()
