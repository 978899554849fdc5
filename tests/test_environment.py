from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline.environment import describe_environment


def test_versions_and_device_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    facts = describe_environment("cpu")
    assert facts["device"] == "cpu"
    assert facts["torch"].startswith("2.")


def test_without_a_repository_nothing_is_said_of_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not {"git_commit", "git_dirty"} & set(describe_environment("cpu"))


def test_a_tracked_file_that_a_person_changed_makes_the_tree_dirty_and_results_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline = yaml.safe_load((Path(__file__).parents[1] / "dvc.yaml").read_text(encoding="utf-8"))
    outs = [
        out
        for stage in pipeline["stages"].values()
        for kind in ("outs", "metrics", "plots")
        for out in stage.get(kind, [])
        if isinstance(out, dict)
    ]
    kept = [name for out in outs for name in out if not out[name]["cache"]]
    pretrained = [f"models/pretrained/{name}" for name in ("nyu-0.5M.safetensors", "nyu-0.5M.json", "README.md")]
    written = [
        "params.yaml",
        "dvc.lock",
        "reports/benchmarks.json",
        "reports/studies.json",
        "docs/experiments.md",
        *pretrained,
        *kept,
    ]
    for name in ("code.py", "docs/params.yaml", *written):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("1")
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], check=True)
    assert describe_environment("cpu")["git_dirty"] == "false"
    for name in written:
        Path(name).write_text("2")
    assert len(written) == 14
    assert describe_environment("cpu")["git_dirty"] == "false"
    Path("code.py").write_text("2")
    assert describe_environment("cpu")["git_dirty"] == "true"
