"""What decides the name under which unfinished work of a stage is found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.params import Params, load_params
from pipeline.stage_key import stage_key

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def changed(section: str, **keys: object) -> Params:
    content = load_params().model_dump()
    content[section] |= keys
    return Params.model_validate(content)


def test_parameters_of_the_stage_and_data_decide_and_where_it_is_computed_does_not() -> None:
    key = stage_key("preprocess", load_params(), data="d")
    for same in (
        changed("preprocess", cluster="127.0.0.1:6379"),
        changed("report", title="another"),
        changed("train", epochs=3),
    ):
        assert stage_key("preprocess", same, data="d") == key
    others = {
        stage_key("preprocess", changed("preprocess", border=3), data="d"),
        stage_key("preprocess", changed("augment", copies=3), data="d"),
        stage_key("preprocess", load_params(), data="e"),
        stage_key("train", load_params(), data="d"),
    }
    assert len(others | {key}) == 5


def test_code_decides_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    before = stage_key("preprocess", load_params(), data="d")
    for name in ("pipeline", "stages"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert stage_key("preprocess", load_params(), data="d") == before
    with (tmp_path / "pipeline/data/pixels.py").open("a", encoding="utf-8") as file:
        file.write("# another\n")
    assert stage_key("preprocess", load_params(), data="d") != before
