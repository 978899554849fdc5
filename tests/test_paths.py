from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.paths import repository_root


def test_dvcs_root_is_the_repository_also_from_its_temporary_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/dvc.yaml").touch()
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert repository_root() == tmp_path


def test_without_dvc_the_root_is_the_folder_above_that_holds_dvc_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "reports/figures").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "reports/figures")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert repository_root() == tmp_path
