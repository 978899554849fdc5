"""`depth export`, as its user meets it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.cli import main
from pipeline.data.frames import Frames
from pipeline.data.shards import write_shards
from pipeline.tracking.store import open_store


class Rooms:
    """Eight frames of smooth colour whose depth goes with it."""

    slab_frames = 4
    size = (96, 128)

    def __init__(self) -> None:
        self.names = [f"frame {number}" for number in range(len(self))]
        self.scenes = self.scene_types = self.names

    def __len__(self) -> int:
        return 8

    def read(self, start: int, stop: int) -> Frames:
        random = np.random.default_rng(0)
        coarse = random.random((len(self), 3, 4, 3)).repeat(32, axis=1).repeat(32, axis=2)[start:stop]
        depth_m = (1 + 5 * coarse[..., 0]).astype(np.float32)
        return Frames((255 * coarse).astype(np.uint8), depth_m, depth_m)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    splits: dict[str, list[int]] = {"train": [0, 1, 2, 3, 4], "val": [5, 6, 7], "test": []}
    write_shards(
        Rooms(),
        splits,
        folder,
        size=(48, 64),
        border=0,
        augmentation=None,
        copies=0,
        seed=0,
        facts={"source": "rooms"},
    )
    return folder


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a failing command says."""
    with pytest.raises(SystemExit) as ended:
        main(["export", *arguments])
    assert ended.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line


def test_int8_is_near_the_network_runs_at_any_size_and_says_what_it_costs(
    onnx_file: Path, shards: Path, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: see requirements-export.lock")
    from onnxruntime import InferenceSession

    from pipeline.export.int8 import make_int8

    out = tmp_path / "depth-int8.onnx"
    out.write_bytes(onnx_file.read_bytes())
    said = make_int8(out, shards, (48, 64))
    assert list(tmp_path.iterdir()) == [out]
    model = onnx.load(out)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert (metadata["precision"], metadata["units"]) == ("int8", "metres")
    assert metadata["calibrated_on"] == "5 frames of train"
    assert metadata["measured_on"] == "3 frames of val"
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert onnx.TensorProto.INT8 in weights.values()

    exact, int8 = (InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (onnx_file, out))
    from pipeline.data.shards import ShardSet

    held_out = ShardSet(shards, "val")
    rgb = held_out.rgb_u8[:].numpy().astype(np.float32) / 255
    true_m = held_out.depth_mm[:].numpy() / 1000
    exact_m, int8_m = ([session.run(None, {"rgb": one[None]})[0][0] for one in rgb] for session in (exact, int8))
    difference_m = np.abs(np.stack(exact_m) - np.stack(int8_m))
    assert 0 < difference_m.mean() < 0.1
    assert json.loads(metadata["mean_difference_m"]) == pytest.approx(difference_m.mean(), rel=1e-3)
    assert json.loads(metadata["largest_difference_m"]) == pytest.approx(difference_m.max(), rel=1e-3)
    for name, predicted_m in (("float32", exact_m), ("int8", int8_m)):
        rmse_m = np.mean([np.sqrt(np.mean((p - g) ** 2)) for p, g in zip(predicted_m, true_m, strict=True)])
        assert json.loads(metadata[f"rmse_{name}_m"]) == pytest.approx(rmse_m, rel=1e-4)
        assert f"{rmse_m:.4f}"[:5] in said

    odd = np.random.default_rng(0).random((2, 3, 33, 47), np.float32)
    assert int8.run(None, {"rgb": odd})[0].shape == (2, 1, 33, 47)


def test_frames_of_another_size_are_refused_and_nothing_is_left(
    onnx_file: Path, checkpoint: Path, tmp_path: Path
) -> None:
    from pipeline.errors import PipelineError
    from pipeline.export.int8 import make_int8

    write_shards(
        Rooms(),
        {"train": [0], "val": [], "test": []},
        tmp_path / "shards",
        size=(32, 64),
        border=0,
        augmentation=None,
        copies=0,
        seed=0,
        facts={},
    )
    before = onnx_file.read_bytes()
    with pytest.raises(PipelineError, match="are 32 x 64, the network was trained on 48 x 64; give shards"):
        make_int8(onnx_file, tmp_path / "shards", (48, 64))
    assert onnx_file.read_bytes() == before


def test_a_file_that_is_not_right_is_not_kept(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.export import check

    monkeypatch.setattr(check, "TOLERANCE_M", -1.0)  # even a perfect file is too far then
    out = tmp_path / "new" / "depth.pt"
    line = failure(capsys, "--format", "torchscript", "--model", str(checkpoint), "--out", str(out))
    assert "so it is not kept" in line
    assert list(out.parent.iterdir()) == []


def test_int8_is_for_onnx(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.pt2"
    line = failure(capsys, "--format", "pt2", "--int8", "--model", str(checkpoint), "--out", str(out))
    assert line == "error: depth export: --int8 works with --format onnx only"


def test_without_the_extra_the_line_says_what_to_install(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "pipeline.export.onnx_files", raising=False)
    line = failure(capsys, "--format", "onnx", "--model", str(checkpoint), "--out", str(tmp_path / "a.onnx"))
    assert "onnxruntime is not installed" in line
    assert "requirements-export.lock" in line
    assert not (tmp_path / "a.onnx").exists()


def test_without_a_checkpoint_the_stage_to_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "none.safetensors")
    line = failure(capsys, "--format", "pt2", "--model", missing, "--out", str(tmp_path / "a"))
    assert "none.safetensors does not exist; run the train stage first" in line


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "pt2"])
def test_a_folder_is_no_file_to_write_and_is_refused_before_anything_is_loaded(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = failure(capsys, "--format", kind, "--model", "none.safetensors", "--out", str(tmp_path))
    assert line.startswith(f"error: depth export: --out {tmp_path} is a folder; name the file to write")
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_a_run_is_exported_as_its_checkpoint_is(
    checkpoint: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, "mlflow.db")
    store = open_store()
    number = store.create_experiment("depth", artifact_location=(tmp_path / "mlartifacts").as_uri())
    store.log_artifact(store.create_run(number, run_name="shaky-gnat").info.run_id, str(checkpoint), "checkpoints")
    rgb = torch.rand(1, 3, 48, 64)
    found = []
    for model in ("shaky-gnat", str(checkpoint)):
        main(["export", "--format", "torchscript", "--model", model, "--out", "depth.pt"])
        found.append(torch.jit.load("depth.pt")(rgb))
    torch.testing.assert_close(found[0], found[1])


def test_the_licence_of_nyu_is_told_and_that_of_old_checkpoints_is_not_invented() -> None:
    from dataclasses import replace

    from pipeline.export.metadata import describe
    from pipeline.model.checkpoint import CheckpointInfo

    info = CheckpointInfo("unet", {"width": 4, "max_depth_m": 8.0}, (48, 64), 2, 7, None, "f", "all", None)
    assert "NYU Depth v2" in describe(replace(info, source="nyu_v2"))["data_licence"]
    assert describe(info)["data_licence"].startswith("not known")
    assert describe(info)["made_with"].endswith(torch.__version__)
