from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.environment import describe_environment


def test_versions_and_device_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    facts = describe_environment("cpu")
    assert facts["device"] == "cpu"
    assert facts["torch"].startswith("2.")


def test_without_a_repository_nothing_is_said_of_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not {"git_commit", "git_dirty"} & set(describe_environment("cpu"))


def test_a_changed_tracked_file_makes_the_tree_dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("code.py").write_text("1")
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    for command in (["init", "-q"], ["add", "code.py"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], check=True)
    assert describe_environment("cpu")["git_dirty"] == "false"
    Path("code.py").write_text("2")
    assert describe_environment("cpu")["git_dirty"] == "true"
