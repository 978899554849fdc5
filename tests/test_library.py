"""What runs where DVC, MLflow and what reads parameters are not installed, and what a command may load at once."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "module",
    [
        "pipeline.training.loop",
        "pipeline.evaluation.evaluator",
        "pipeline.data.batches",
        "pipeline.data.nyu",
        "pipeline.model.checkpoint",
    ],
)
def test_training_and_evaluation_load_neither_dvc_nor_mlflow_nor_pydantic_nor_yaml(module: str) -> None:
    absent = ("dvc", "mlflow", "pydantic", "yaml")
    run(f"import sys; sys.modules |= dict.fromkeys({absent}); import {module}")


def test_the_command_line_loads_what_a_command_needs_only_when_it_is_given() -> None:
    """pydantic alone would triple the start of every command, 0.06 s."""
    loaded = run("import sys, pipeline.cli; print(*sys.modules)").split()
    assert not {"dvc", "mlflow", "numpy", "pydantic", "torch", "yaml"} & set(loaded)
