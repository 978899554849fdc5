"""What a function makes of cases by Triton kernels: `python -m tests.model.kernels MODULE:FUNCTION CASES RESULTS`.

They run on the GPU, and where there is none in Triton's interpreter, which has to be asked for before Triton is
first imported: hence a process of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed: see requirements-benchmark.lock"
)
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")


def made_by_kernels(
    function: Callable[..., tuple[Any, ...]],
    cases: Iterable[tuple[Any, ...]],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[Any, ...]]:
    """What the function of a test module returns for the arguments in each case, all of them on the CPU."""
    folder = tmp_path_factory.mktemp("kernels")
    torch.save([tuple(case) for case in cases], folder / "cases")
    name = f"{function.__module__}:{function.__name__}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.model.kernels", name, folder / "cases", folder / "results"],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results: list[tuple[Any, ...]] = torch.load(folder / "results")
    return results


def main(name: str, cases: str, results: str) -> None:
    module, function = name.split(":")
    run = getattr(importlib.import_module(module), function)
    torch.save([tuple(run(*case)) for case in torch.load(cases)], results)


if __name__ == "__main__":
    if DEVICE == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    main(*sys.argv[1:])
