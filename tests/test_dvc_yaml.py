"""dvc.yaml against the code: a parameter or a module that no stage lists would be ignored without a word."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
PIPELINE = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))
STAGES = PIPELINE["stages"]
PARAMS = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))

PLUMBING = {
    "pipeline/__init__.py",  # whose one name no stage uses
    "pipeline/environment.py",
    "pipeline/errors.py",
    "pipeline/files.py",
    "pipeline/params.py",
    "pipeline/yaml_text.py",
    "pipeline/paths.py",
    "pipeline/progress.py",
    "pipeline/ray_cluster.py",
    "pipeline/stage_key.py",
    "pipeline/state.py",
    "pipeline/tracking",
    "pipeline/training/tracker.py",
}
"""Changes no result, so an edit re-runs nothing, here and in what only these import."""

COMMITTED = {"reports/benchmarks.json", "reports/studies.json", "models/pretrained/rooms-0.5M.safetensors"}
"""What a stage reads and none writes."""


def leaves(tree: dict, prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]


def files_of(module: str) -> list[str]:
    """The files of a module, the `__init__.py` of every package above it included."""
    parts = module.split(".")
    found = [Path(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)] + [
        Path(*parts).with_suffix(".py")
    ]
    return [path.as_posix() for path in found if (REPOSITORY / path).is_file()]


def imported_files(file: str) -> set[str]:
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    ours = {module for module in modules if module.split(".")[0] in ("pipeline", "stages")}
    return {found for module in ours for found in files_of(module)}


def reachable_files(file: str) -> set[str]:
    seen, waiting = set(), {file}
    while waiting:
        current = waiting.pop()
        seen.add(current)
        if not is_plumbing(current):
            waiting |= imported_files(current) - seen
    return {file for file in seen if not is_plumbing(file)}


def is_plumbing(file: str) -> bool:
    return any(file == plumbing or file.startswith(f"{plumbing}/") for plumbing in PLUMBING)


def listed_files(stage: str) -> set[str]:
    listed: set[str] = set()
    for dependency in STAGES[stage]["deps"]:
        path = REPOSITORY / dependency
        if dependency.startswith(("pipeline/", "stages/")):
            listed |= {
                file.relative_to(REPOSITORY).as_posix()
                for file in (path.rglob("*.py") if path.is_dir() else [path])
            }
    return {file for file in without_package_files(listed) if file.endswith(".py")}


def without_package_files(files: set[str]) -> set[str]:
    return {file for file in files if not file.endswith("/__init__.py")}


def test_every_parameter_is_listed_by_some_stage() -> None:
    listed = {name for stage in STAGES.values() for name in stage["params"]}
    forgotten = [
        leaf for leaf in leaves(PARAMS) if not any(leaf == name or leaf.startswith(f"{name}.") for name in listed)
    ]
    assert not forgotten


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_the_parameters_that_its_code_reads(stage: str) -> None:
    tree = ast.parse((REPOSITORY / f"stages/{stage}.py").read_text(encoding="utf-8"))
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and (
            (isinstance(node.value, ast.Name) and node.value.id == "params")
            or (isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "load_params")
        )
    } & set(PARAMS)
    assert read <= {name.split(".")[0] for name in STAGES[stage]["params"]}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_code_that_it_runs(stage: str) -> None:
    assert listed_files(stage) == without_package_files(reachable_files(f"stages/{stage}.py"))


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_reads_is_written_by_an_earlier_one_or_committed(stage: str) -> None:
    earlier = list(STAGES)[: list(STAGES).index(stage)]
    written = {
        output if isinstance(output, str) else next(iter(output))
        for name in earlier
        for kind in ("outs", "metrics", "plots")
        for output in STAGES[name].get(kind, [])
    }
    read = [path for path in STAGES[stage]["deps"] if path.startswith(("data/", "models/", "reports/"))]
    given = {path for path in COMMITTED if (REPOSITORY / path).is_file()}
    assert all(any(path == out or path.startswith(f"{out}/") for out in written | given) for path in read)


def test_the_model_that_dvc_s_registry_lists_is_what_training_leaves() -> None:
    (artifact,) = PIPELINE["artifacts"].values()
    assert artifact["type"] == "model"
    assert artifact["path"] in STAGES["train"]["outs"]
