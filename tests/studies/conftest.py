"""The toy repository of sweeps, with the real parameters."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.studies.toy import PARAMS, WEIGHTS
from tests.sweeps.conftest import toy
from tests.tracking.toy import Toy

__all__ = ["toy"]


@pytest.fixture
def study_toy(toy: Toy) -> Toy:
    shutil.copy(PARAMS, toy.root)
    (toy.root / "studies").mkdir()
    (toy.root / "studies/weights.yaml").write_text(WEIGHTS, encoding="utf-8")
    toy.run("git", "add", ".")
    toy.run("git", "commit", "--all", "--quiet", "--message", "real parameters")
    return toy


@pytest.fixture
def study_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a study, in which nothing can run: what is refused needs no more."""
    root = tmp_path / "repository"
    (root / "studies").mkdir(parents=True)
    shutil.copy(PARAMS, root)
    (root / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    (root / "studies/weights.yaml").write_text(WEIGHTS, encoding="utf-8")
    for name in ("DVC_ROOT", "GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    monkeypatch.chdir(root)
    return root
