"""The toy repository, whose training here tells its validation error epoch by epoch, as the real one does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from tests.tracking.conftest import server
from tests.tracking.toy import TOY_PARAMS, Toy

__all__ = ["server"]
EPOCHS = Path(__file__).with_name("toy_epochs.py")
ONE_STAGE = {
    "cmd": "python toy_epochs.py",
    "deps": ["toy_epochs.py", "toy_stage.py"],
    "params": list(TOY_PARAMS),
    "outs": [
        "models/best.safetensors",
        "models/last.safetensors",
        "models/run.json",
        "reports/evaluate/per_image.csv",
        "reports/evaluate/predictions.safetensors",
        "reports/report.html",
    ],
    "plots": [{"reports/train/history.csv": {"cache": False}}],
    "metrics": [{"reports/evaluate/metrics.json": {"cache": False}}],
}


def sweep_toy(root: Path, store: Path) -> Toy:
    toy = Toy(root)
    shutil.copy(store, root / "mlflow.db")
    shutil.copy(EPOCHS, root / "toy_epochs.py")
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": ONE_STAGE}}), encoding="utf-8")
    toy.run("git", "add", ".")
    toy.run("git", "commit", "--quiet", "--message", "epochs")
    return toy


@pytest.fixture
def toy(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The process that runs the test is as if started in the repository's root."""
    toy = sweep_toy(tmp_path / "toy", empty_store)
    for name in set(os.environ) - set(toy.environment):
        monkeypatch.delenv(name)
    for name, value in toy.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(toy.root)
    return toy
