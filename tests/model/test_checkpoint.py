"""Checkpoints: one file is the whole model, and a bad file is named and never run."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.errors import PipelineError
from pipeline.model.checkpoint import (
    CheckpointInfo,
    load_network,
    read_checkpoint_info,
    save_checkpoint,
    start_from,
)
from pipeline.model.network import build_network

INFO = CheckpointInfo(
    architecture="unet",
    options={"width": 4, "max_depth_m": 8.5},
    input_size=(48, 64),
    border=1,
    epoch=7,
    val_rmse=0.6543210987654321,
    data_fingerprint="f" * 64,
    trained_on="official train split",
    run_id="0123456789abcdef",
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "best.safetensors"
    torch.manual_seed(0)
    save_checkpoint(path, build_network("unet", **INFO.options).state_dict(), INFO)
    return path


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_loaded_network_predicts_what_the_saved_one_did(
    tmp_path: Path, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    network = build_network("unet", **INFO.options).to(memory_format=memory_format)
    rgb = torch.rand(2, 3, 48, 64)
    network.train()(rgb)  # moves the running statistics, which belong to the file too
    save_checkpoint(tmp_path / "best.safetensors", network.state_dict(), INFO)
    loaded = load_network(tmp_path / "best.safetensors")
    assert not loaded.training
    with torch.no_grad():
        torch.testing.assert_close(loaded(rgb), network.eval()(rgb), rtol=1e-5, atol=1e-5)
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


@pytest.mark.parametrize("changes", [{}, {"val_rmse": None, "run_id": None}])
def test_everything_said_of_a_network_stands_in_its_file(tmp_path: Path, changes: dict[str, Any]) -> None:
    info = CheckpointInfo(**{**vars(INFO), **changes})
    save_checkpoint(tmp_path / "a.safetensors", build_network("unet", **INFO.options).state_dict(), info)
    assert read_checkpoint_info(tmp_path / "a.safetensors") == info


def test_the_input_size_is_json_for_others_to_read(saved: Path) -> None:
    with safe_open(saved, framework="np") as file:
        assert file.metadata()["input_size"] == "[48, 64]"


def test_saving_leaves_no_other_file(saved: Path) -> None:
    assert list(saved.parent.iterdir()) == [saved]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_text(path: Path) -> None:
    path.write_text("<html>404 not found</html>", encoding="utf-8")


def replace_by_foreign_tensors(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


def replace_by_foreign_metadata(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path, {"format": "pt", "author": "someone else"})


@pytest.mark.parametrize(
    "damage",
    [cut_short, empty, replace_by_text, replace_by_foreign_tensors, replace_by_foreign_metadata, Path.unlink],
)
def test_a_file_that_is_no_checkpoint_is_named_in_one_line(saved: Path, damage: Callable[[Path], object]) -> None:
    damage(saved)
    for read in (load_network, read_checkpoint_info):
        with pytest.raises(PipelineError, match=r"best\.safetensors") as caught:
            read(saved)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"width": 8, "max_depth_m": 8.5}},
        {"options": {"width": 4, "depth": 3}},
        {"architecture": "transformer"},
    ],
    ids=["other width", "unknown option", "unknown architecture"],
)
def test_weights_that_do_not_fit_their_description_are_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = tmp_path / "a.safetensors"
    wrong = CheckpointInfo(**{**vars(INFO), **changes})
    save_checkpoint(path, build_network("unet", **INFO.options).state_dict(), wrong)
    with pytest.raises(PipelineError, match="does not fit its own description") as caught:
        load_network(path)
    assert "\n" not in str(caught.value)


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def test_a_pickle_under_the_name_of_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    mark, planted = tmp_path / "executed", tmp_path / "best.safetensors"
    torch.save({"state": Trap(mark)}, tmp_path / "zipped.safetensors")
    planted.write_bytes(pickle.dumps(Trap(mark)))
    for path in (planted, tmp_path / "zipped.safetensors"):
        with pytest.raises(PipelineError):
            load_network(path)
    assert not mark.exists()
    pickle.loads(planted.read_bytes())
    assert mark.exists(), "the trap itself works"


def test_a_network_begins_with_the_weights_of_a_checkpoint(saved: Path) -> None:
    torch.manual_seed(1)
    network = build_network("unet", **INFO.options)
    start_from(network, saved, {"architecture": "unet", **INFO.options, "attention": 0})
    for name, tensor in load_network(saved).state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)


def test_the_weights_of_another_network_are_refused_with_what_differs(saved: Path) -> None:
    options = {"width": 8, "max_depth_m": 8.5}
    with pytest.raises(PipelineError, match=r"start_from: .*best.safetensors has network.width 4; set the same"):
        start_from(build_network("unet", **options), saved, {"architecture": "unet", **options})
    with pytest.raises(PipelineError, match=r"network.attention 0; set the same"):
        start_from(build_network("unet", **options, attention=1), saved, {**INFO.options, "attention": 1})
