"""The store: where it is, its first use by many at once, and what stands in its way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE
from threading import Thread

import mlflow
import pytest

from pipeline.errors import PipelineError
from pipeline.tracking.store import experiment_id, open_store, store_uri
from tests.tracking.toy import client_of


def test_the_uri_of_the_environment_wins(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store_uri() == f"sqlite:///{root / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert store_uri() == "http://127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////elsewhere/own.db")
    assert store_uri() == "sqlite:////elsewhere/own.db"


def test_a_database_that_is_down_is_told_soon_and_without_its_password(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg2://mlflow:secret@127.0.0.1:9/mlflow")
    started = time.monotonic()
    with pytest.raises(PipelineError, match="the server does not answer") as caught:
        open_store()
    assert time.monotonic() - started < 10
    assert "secret" not in str(caught.value)


class Hanging(BaseHTTPRequestHandler):
    """A server that is well, and waits for its database for ever."""

    def do_GET(self) -> None:
        if self.path != "/health":
            time.sleep(3)
        self.send_response(200)
        self.end_headers()

    do_POST = do_GET


def test_a_server_whose_database_hangs_is_told_soon(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tracking.store.ANSWER_S", 0.5)
    with ThreadingHTTPServer(("127.0.0.1", 0), Hanging) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        started = time.monotonic()
        with pytest.raises(PipelineError, match="the server does not answer"):
            open_store()
        assert time.monotonic() - started < 3
        server.shutdown()


def test_an_experiment_deleted_in_the_ui_is_used_again(root: Path, store: mlflow.MlflowClient) -> None:
    client = open_store()
    identity = experiment_id(client, "deleted")
    store.delete_experiment(identity)
    assert experiment_id(client, "deleted") == identity
    assert store.get_experiment(identity).lifecycle_stage == "active"


def test_a_store_that_is_no_database_is_named_in_one_line(root: Path) -> None:
    (root / "mlflow.db").write_text("this is no database, " * 100, encoding="utf-8")
    with pytest.raises(PipelineError, match=r"mlflow\.db cannot be opened") as caught:
        open_store()
    assert "\n" not in str(caught.value)


def test_several_processes_may_open_a_fresh_store_at_once(root: Path) -> None:
    (root / "mlflow.db").unlink()
    code = (
        "from pipeline.tracking.opening import Opening, open_run\n"
        "with open_run(Opening('train', 'depth', {'seed': 0})) as run: print(run.run_id)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=PIPE, stderr=PIPE, text=True) for _ in range(3)
    ]
    ended = [(*process.communicate(timeout=120), process.returncode) for process in started]
    assert [status for *_, status in ended] == [0, 0, 0], ended
    store = client_of(f"sqlite:///{root / 'mlflow.db'}")
    for output, _, _ in ended:
        assert store.get_run(output.split()[-1]).info.status == "FINISHED"
    assert len([e for e in store.search_experiments() if e.name == "depth"]) == 1


def test_mlflow_s_telemetry_is_off() -> None:
    check = "from mlflow.telemetry import get_telemetry_client as client; assert client() is None"
    # Of itself it is off in tests, by their environment.
    bare = {"PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", f"import pipeline.tracking.opening; {check}"], env=bare, check=True)
