"""The command `depth`, as its user meets it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.cli import main
from pipeline.model.checkpoint import CheckpointInfo, save_checkpoint
from pipeline.model.network import build_network


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a trained network, as tiny and untrained as they come, and two photographs."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    info = CheckpointInfo("unet", {"width": 4, "max_depth_m": 10.0}, (32, 40), 0, 1, None, "", "", None)
    save_checkpoint(Path("models/best.safetensors"), build_network("unet", **info.options).state_dict(), info)
    random = np.random.default_rng(0)
    for name, size in (("kitchen.jpg", (45, 61)), ("attic.png", (90, 50))):
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(name)
    return tmp_path


def failure(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_predict_writes_a_map_in_millimetres_and_a_picture_of_each_images_own_size(work: Path) -> None:
    main(["predict", "kitchen.jpg", "attic.png", "--out", "depth"])
    for stem, (height, width) in (("kitchen", (45, 61)), ("attic", (90, 50))):
        with Image.open(f"depth/{stem}-depth.png") as depth:
            assert (depth.mode, depth.size) == ("I;16", (width, height))
            depth_mm = np.array(depth)
        assert 0 < depth_mm.min() <= depth_mm.max() < 10_000
        with Image.open(f"depth/{stem}-depth-colour.png") as colour:
            assert (colour.mode, colour.size) == ("RGB", (width, height))
    assert len(list(Path("depth").iterdir())) == 4


def test_predict_takes_another_checkpoint(work: Path) -> None:
    Path("models/best.safetensors").rename("mine.safetensors")
    main(["predict", "attic.png", "--out", "depth", "--model", "mine.safetensors"])
    assert Path("depth/attic-depth.png").is_file()


def test_an_unreadable_image_is_named_in_one_line_before_anything_is_written(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.png").write_bytes(b"no image")
    assert failure("predict", "kitchen.jpg", "broken.png", "--out", "depth") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: depth predict: broken.png cannot be read as an image")
    assert not Path("depth").exists()


def test_images_whose_results_would_overwrite_each_other_are_refused(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("other").mkdir()
    Path("other/attic.png").write_bytes(Path("attic.png").read_bytes())
    assert failure("predict", "attic.png", "other/attic.png", "--out", "depth") == 1
    assert "two images have the same name" in capsys.readouterr().err
    assert not Path("depth").exists()


def test_without_a_trained_network_the_stage_to_run_is_named(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("models/best.safetensors").unlink()
    assert failure("predict", "attic.png", "--out", "depth") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "models/best.safetensors does not exist; run the train stage" in line


@pytest.mark.parametrize("command", [[], ["predict"], ["ui"], ["sync"], ["prune"], ["sweep"]])
def test_each_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert failure(*command, "--help") == 0
    assert "usage: " + " ".join(["depth", *command]) in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["paint"], ["predict", "a.png"], ["predict", "--out", "d"]])
def test_a_command_that_is_not_complete_shows_its_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failure(*arguments) == 2
    assert "usage: depth" in capsys.readouterr().err
