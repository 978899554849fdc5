"""TorchScript and PT2 files: any size and number of images, with their metadata."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.cli import main

SHAPES = [(1, 3, 32, 32), (5, 3, 33, 47), (1, 3, 70, 131)]


def expected_m(network: nn.Module, rgb: Tensor) -> Tensor:
    with torch.no_grad():
        return network(rgb).clamp(0.001, 8.0)


def test_torchscript_runs_at_any_size_and_says_what_it_is(
    network: nn.Module, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "depth.pt"
    main(["export", "--format", "torchscript", "--model", str(checkpoint), "--out", str(out)])
    assert list(tmp_path.iterdir()) == [out]
    extra = {"metadata.json": ""}
    with pytest.warns(DeprecationWarning, match="torch.export"):
        loaded = torch.jit.load(str(out), _extra_files=extra)
    assert json.loads(extra["metadata.json"])["units"] == "metres"
    for shape in SHAPES:
        rgb = torch.rand(shape)
        torch.testing.assert_close(loaded(rgb), expected_m(network, rgb), rtol=0, atol=1e-4)


def test_a_pt2_program_runs_at_any_size_says_what_it_is_and_nothing_of_this_machine(
    network: nn.Module, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "depth.pt2"
    main(["export", "--format", "pt2", "--model", str(checkpoint), "--out", str(out)])
    extra = {"metadata.json": ""}
    loaded = torch.export.load(out, extra_files=extra)
    assert json.loads(extra["metadata.json"])["run_id"] == "0123456789abcdef"
    for shape in SHAPES:
        rgb = torch.rand(shape)
        torch.testing.assert_close(loaded.module()(rgb), expected_m(network, rgb), rtol=0, atol=1e-4)
    for height, width in ((31, 64), (64, 31)):
        with pytest.raises(Exception, match="32"):
            loaded.module()(torch.rand(1, 3, height, width))
    here = str(Path(__file__).resolve().parents[2])
    with zipfile.ZipFile(out) as archive:
        assert not [name for name in archive.namelist() if here.encode() in archive.read(name)]
