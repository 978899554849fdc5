"""Which model is taken where none is named."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import pipeline
from pipeline import DepthEstimator
from pipeline.cli import main
from pipeline.errors import PipelineError
from pipeline.paths import BEST_CHECKPOINT, PRETRAINED

SAID = "nothing was trained here yet; using {}, trained on NYU Depth v2"


@pytest.fixture
def clone(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh clone: code, pretrained weights, nothing trained; beside it a folder of photographs."""
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "clone"
    source = Path(pipeline.__file__).parent
    shutil.copytree(source, root / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "dvc.yaml").touch()
    (root / PRETRAINED).parent.mkdir(parents=True)
    shutil.copy(checkpoint, root / PRETRAINED)
    (tmp_path / "holiday").mkdir()
    Image.effect_noise((60, 40), 80).save(tmp_path / "holiday/photo.png")
    monkeypatch.chdir(root)
    return root


def depth(clone: Path, *arguments: str, cwd: Path, status: int = 0) -> list[str]:
    """The lines on stderr of the clone's own `depth`, in a working folder."""
    code = f"import sys; sys.path.insert(0, {str(clone)!r}); from pipeline.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    # Without the bar of progress, which is drawn over itself.
    return [line for line in re.split(r"[\r\n]+", done.stderr) if line and not line.startswith("predict: ")]


def test_a_fresh_clone_predicts_and_says_with_what(
    clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["predict", "../holiday", "--out", "depth", "--device", "cpu"])
    assert capsys.readouterr().err.splitlines()[0] == SAID.format(PRETRAINED)
    told = json.loads(Path("depth/photo-depth.json").read_text(encoding="utf-8"))["model"]
    assert told["model"] == str(PRETRAINED)
    sum_of = subprocess.run(["sha256sum", PRETRAINED], capture_output=True, text=True).stdout.split()[0]
    assert told["sha256"] == sum_of


def test_in_python_and_for_export_the_same_is_taken(
    clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    estimator = DepthEstimator(device="cpu")
    assert capsys.readouterr().err.splitlines() == [SAID.format(PRETRAINED)]
    assert estimator.facts["model"] == str(PRETRAINED)
    main(["export", "--format", "torchscript", "--out", "depth.pt"])
    assert capsys.readouterr().err.splitlines()[0] == SAID.format(PRETRAINED)
    assert torch.jit.load("depth.pt")(torch.rand(1, 3, 48, 64)).shape == (1, 1, 48, 64)


def test_what_was_trained_goes_before_and_nothing_is_said(
    clone: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(checkpoint, BEST_CHECKPOINT)
    assert DepthEstimator(device="cpu").facts["model"] == str(BEST_CHECKPOINT)
    assert capsys.readouterr().err == ""


def test_from_a_folder_of_the_clone_and_from_any_other_the_weights_are_found(clone: Path, tmp_path: Path) -> None:
    (clone / "notes").mkdir()
    photo, out = str(tmp_path / "holiday/photo.png"), str(tmp_path / "depth")
    said = depth(clone, "predict", photo, "--out", out, cwd=clone / "notes")
    assert said[0] == SAID.format(f"../{PRETRAINED}")
    said = depth(clone, "predict", photo, "--out", out, cwd=tmp_path / "holiday")
    assert said[0] == SAID.format(clone / PRETRAINED)


def test_another_repository_is_asked_first_for_what_was_trained_there(clone: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "models").mkdir(parents=True)
    shutil.copy(clone / PRETRAINED, other / BEST_CHECKPOINT)
    assert depth(clone, "predict", str(tmp_path / "holiday"), "--out", "depth", cwd=other) == []
    facts = json.loads((other / "depth/photo-depth.json").read_text(encoding="utf-8"))
    assert facts["model"]["model"] == str(BEST_CHECKPOINT)


def test_where_something_was_trained_that_is_not_here_the_line_says_how_to_get_it(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("dvc.lock").touch()
    DepthEstimator(device="cpu")
    assert capsys.readouterr().err == (
        "models/best.safetensors is not here (`dvc pull` or `dvc repro` brings it); "
        f"using {PRETRAINED}, trained on NYU Depth v2\n"
    )


def test_a_link_whose_file_is_gone_from_the_cache_is_no_untrained_repository(clone: Path) -> None:
    BEST_CHECKPOINT.symlink_to("/nowhere/in/the/cache")
    with pytest.raises(PipelineError, match=r"models/best.safetensors does not exist; run the train stage first"):
        DepthEstimator(device="cpu")


def test_where_there_is_neither_one_line_says_where_models_come_from(clone: Path, tmp_path: Path) -> None:
    PRETRAINED.unlink()
    for command in (
        ["predict", "../holiday", "--out", "depth"],
        ["export", "--format", "pt2", "--out", "depth.pt2"],
    ):
        (line,) = depth(clone, *command, cwd=clone, status=1)
        assert line == (
            f"error: depth {command[0]}: there is no model: neither models/best.safetensors, which `dvc repro` "
            "trains, nor models/pretrained/nyu-0.5M.safetensors, which a clone of the repository holds; train one "
            "or name one"
        )
    assert not Path("depth").exists()


@pytest.mark.parametrize("command", ["predict", "demo", "export"])
def test_the_help_names_both(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert f"default: {BEST_CHECKPOINT} of the repository; where nothing was trained, {PRETRAINED})" in told
