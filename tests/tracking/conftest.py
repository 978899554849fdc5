"""A store that exists already, a repository to log from, and a server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from tests.tracking.toy import Server, Toy, client_of


@pytest.fixture
def root(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository's root with a store, in which no DVC runs."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "repository"
    root.mkdir()
    shutil.copy(empty_store, root / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.chdir(root)
    (root / "params.yaml").write_text("seed: 0\n", encoding="utf-8")
    return root


@pytest.fixture
def store(root: Path) -> mlflow.MlflowClient:
    """MLflow's own view of what was logged."""
    return client_of(f"sqlite:///{root / 'mlflow.db'}")


@pytest.fixture
def toy(tmp_path: Path, empty_store: Path) -> Toy:
    toy = Toy(tmp_path / "toy")
    shutil.copy(empty_store, toy.root / "mlflow.db")
    return toy


@pytest.fixture
def server(tmp_path: Path, empty_store: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder, empty_store)
    server.start()
    yield server
    server.kill()
