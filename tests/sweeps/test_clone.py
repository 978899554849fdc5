"""One trial in its clone, as a machine of a cluster works on it, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.sweeps import clone
from pipeline.sweeps.clone import Clone, error_line, run_trial
from pipeline.sweeps.cluster import travelling_settings
from tests.tracking.toy import Toy


@pytest.mark.parametrize("obstacle", ["no DVC remote", "another of that name"])
def test_an_experiment_that_cannot_be_pushed_fails_and_its_clone_stays_with_what_to_do(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    shared = tmp_path / "shared.git"
    if obstacle == "no DVC remote":
        (tmp_path / "file").touch()
        toy.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "file" / "no-folder"))
        toy.run("git", "commit", "--all", "--quiet", "--message", "remote")
    toy.run("git", "clone", "--bare", "--quiet", ".", str(shared))
    if obstacle == "another of that name":
        head = toy.run("git", "rev-parse", "HEAD").strip()
        other = toy.run("git", "commit-tree", "-m", "other", "-p", head, f"{head}^{{tree}}").strip()
        toy.run("git", "push", "--quiet", str(shared), f"{other}:refs/exps/{head[:2]}/{head[2:]}/far-000")
    monkeypatch.setattr(clone.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{toy.root / 'mlflow.db'}")

    settings = travelling_settings()
    outcome = run_trial(str(shared), "HEAD", "key", "far-000", ["loss.ssim_weight=0.25"], settings)
    assert toy.runs()["far-000"].info.status == "FINISHED"  # in MLflow alone, unless something is done
    assert outcome["status"] != 0
    (folder,) = tmp_path.glob("depth-sweeps-*/key")
    assert (folder / "reports/report.html").is_file()
    reason = error_line(outcome["output"])
    assert reason == outcome["output"]
    assert " could not push it (" in reason
    assert reason.endswith(f"send it from {folder} there: dvc exp push origin far-000")


def test_only_the_last_command_explains_a_failure(toy: Toy) -> None:
    there = Clone(toy.root, {})
    assert there.dvc("pull") != 0
    assert "ERROR" in there.output
    assert there.call("sh", "-c", "echo error: train: the loss became nan; exit 3") == 3
    assert error_line(there.output) == "error: train: the loss became nan"


def test_the_keys_of_mlflow_and_of_the_object_store_travel_to_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.com")
    monkeypatch.setenv("OF_THIS_MACHINE", "no")
    settings = travelling_settings()
    assert "OF_THIS_MACHINE" not in settings
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    there = Clone(tmp_path, settings)
    assert there.call("sh", "-c", "echo $AWS_SECRET_ACCESS_KEY at $MLFLOW_TRACKING_URI") == 0
    assert there.output == "secret at http://mlflow.example.com\n"
