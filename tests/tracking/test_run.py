"""MLflow runs in a real SQLite store, read back through a client of MLflow's own."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import NamedTuple

import mlflow
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.tracking import FLUSH_METRICS, Run, experiment_id, flatten, open_store, store_uri

PARAMS = {"seed": 3, "loss": {"ssim_weight": 0.5}, "fetch": {"nyu_v2": {"urls": ["a", "b"]}, "list": None}}


class FirstUse(NamedTuple):
    root: Path
    ended: list[tuple[str, str, int]]
    """(stdout, stderr, status) of each process"""


@pytest.fixture(scope="module")
def first_use(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirstUse]:
    """A repository whose store two processes opened at once. To create one takes seconds: the tests share it."""
    root = tmp_path_factory.mktemp("repository")
    code = "from pipeline.tracking import Run\nwith Run.start('depth', {'seed': 0}, {}) as run: print(run.run_id)"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("DVC_EXP_NAME", raising=False)
        started = [
            subprocess.Popen([sys.executable, "-c", code], stdout=PIPE, stderr=PIPE, text=True) for _ in range(2)
        ]
        ended = [(*process.communicate(timeout=120), process.returncode) for process in started]
        yield FirstUse(root, ended)


@pytest.fixture
def root(first_use: FirstUse) -> Path:
    return first_use.root


@pytest.fixture
def store(root: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")


def start(tags: dict[str, str] | None = None) -> Run:
    return Run.start("depth", PARAMS, tags or {})


def test_nested_parameters_get_the_names_that_dvc_uses() -> None:
    assert flatten(PARAMS) == {
        "seed": 3,
        "loss.ssim_weight": 0.5,
        "fetch.nyu_v2.urls": ["a", "b"],
        "fetch.list": None,
    }


def test_a_started_run_holds_every_parameter_and_tag(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "brisk-otter")
    many = {"section": {f"key{index}": index for index in range(250)}}
    run = store.get_run(Run.start("depth", {**PARAMS, **many}, {"data.fingerprint": "abc"}).run_id)
    assert run.info.status == "RUNNING"
    assert run.info.run_name == "brisk-otter"
    assert run.data.params == {
        "seed": "3",
        "loss.ssim_weight": "0.5",
        "fetch.nyu_v2.urls": "['a', 'b']",
        "fetch.list": "None",
        **{f"section.key{index}": str(index) for index in range(250)},
    }
    assert run.data.tags["data.fingerprint"] == "abc"
    assert run.data.tags["dvc.experiment"] == "brisk-otter"


def test_metrics_arrive_with_their_steps_however_many_there_are(store: mlflow.MlflowClient) -> None:
    points = FLUSH_METRICS + 7
    with start() as run:
        for step in range(points):
            run.log_metrics({"train/loss/total": step / 8}, step=step)
    history = store.get_metric_history(run.run_id, "train/loss/total")
    assert sorted((point.step, point.value) for point in history) == [(s, s / 8) for s in range(points)]
    assert store.get_run(run.run_id).info.status == "FINISHED"


def test_files_and_figures_are_kept_with_the_run(store: mlflow.MlflowClient, root: Path, tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").write_bytes(b"weights")
    png = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(png, format="PNG")
    with start() as run:
        run.log_file(tmp_path / "best.safetensors", "checkpoints")
        run.log_figure("examples", png.getvalue(), step=2)
    found = store.get_run(run.run_id)
    # Absolute and beside the store, not in the folder that the run was started from.
    assert found.info.artifact_uri.startswith((root / "mlartifacts").as_uri())
    assert list((root / "mlartifacts").rglob("checkpoints/best.safetensors"))
    assert [item.path for item in store.list_artifacts(run.run_id, "checkpoints")] == [
        "checkpoints/best.safetensors"
    ]
    assert store.list_artifacts(run.run_id, "images")


@pytest.mark.parametrize(
    ("error", "status", "tag"),
    [
        (PipelineError("the loss became nan"), "FAILED", "PipelineError: the loss became nan"),
        (ValueError("x" * 9000), "FAILED", "ValueError: " + "x" * 4988),
        (KeyboardInterrupt(), "KILLED", None),
    ],
    ids=["error of the user's", "long text", "Ctrl-C"],
)
def test_a_run_tells_how_it_ended_and_keeps_what_was_logged_before(
    store: mlflow.MlflowClient, error: BaseException, status: str, tag: str | None
) -> None:
    run = start()
    with pytest.raises(type(error)), run:
        run.log_metrics({"val/rmse": 1.5}, step=1)
        raise error
    found = store.get_run(run.run_id)
    assert found.info.status == status
    assert found.data.tags.get("error") == tag
    assert found.data.metrics["val/rmse"] == 1.5


def test_a_later_stage_goes_on_in_the_same_run(store: mlflow.MlflowClient) -> None:
    with start() as first:
        first.log_metrics({"val/rmse": 1.0})
    with Run.attach(first.run_id) as second:
        assert store.get_run(first.run_id).info.status == "RUNNING"
        second.log_metrics({"test/full/rmse": 0.5})
    found = store.get_run(first.run_id)
    assert found.data.metrics == {"val/rmse": 1.0, "test/full/rmse": 0.5}
    assert found.info.status == "FINISHED"


def test_a_run_that_the_store_does_not_have_is_refused_in_one_line(root: Path) -> None:
    with pytest.raises(PipelineError, match=r"run 0123abcd of models/run\.json is not in") as caught:
        Run.attach("0123abcd")
    assert "\n" not in str(caught.value)
    assert str(root / "mlflow.db") in str(caught.value)


def test_an_experiment_deleted_in_the_ui_is_used_again(store: mlflow.MlflowClient) -> None:
    client = open_store()
    identity = experiment_id(client, "deleted")
    store.delete_experiment(identity)
    assert experiment_id(client, "deleted") == identity
    assert store.get_experiment(identity).lifecycle_stage == "active"


def test_the_uri_of_the_environment_wins(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store_uri() == f"sqlite:///{root / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert store_uri() == "http://127.0.0.1:9"


def test_a_store_that_is_no_database_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "mlflow.db").write_text("this is no database, " * 100, encoding="utf-8")
    with pytest.raises(PipelineError, match=r"mlflow\.db cannot be opened") as caught:
        open_store()
    assert "\n" not in str(caught.value)


def test_two_processes_may_open_a_fresh_store_at_once(first_use: FirstUse, store: mlflow.MlflowClient) -> None:
    assert [status for *_, status in first_use.ended] == [0, 0], first_use.ended
    for output, _, _ in first_use.ended:
        assert store.get_run(output.split()[-1]).info.status == "FINISHED"
