"""ONNX files in ONNX Runtime; and that opening one runs and reads nothing else."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pipeline.data.pixels import fill_border, resize_rgb
from pipeline.errors import PipelineError
from pipeline.evaluation.predictor import network_predictor

onnx = pytest.importorskip("onnx", reason="onnx is not installed: see requirements-export.lock")
onnxruntime = pytest.importorskip(
    "onnxruntime", reason="onnxruntime is not installed: see requirements-export.lock"
)

from pipeline.export.onnx_files import open_onnx  # noqa: E402


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (5, 3, 33, 47), (1, 3, 120, 160), (2, 3, 240, 320)])
def test_onnxruntime_runs_the_file_at_any_size_as_the_network_does(
    network: nn.Module, onnx_file: Path, shape: tuple[int, ...]
) -> None:
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    rgb = torch.rand(shape)
    (depth_m,) = session.run(["depth_m"], {"rgb": rgb.numpy()})
    with torch.no_grad():
        expected_m = network(rgb)
    assert expected_m.std() > 0.05, "a flat map would show nothing"
    np.testing.assert_allclose(depth_m, expected_m.numpy(), rtol=0, atol=1e-4)


def test_the_file_says_what_it_takes_and_gives_and_where_it_came_from(onnx_file: Path) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(onnx_file).metadata_props}
    assert metadata["units"] == "metres"
    assert json.loads(metadata["range_m"]) == [0.001, 8.0]
    assert json.loads(metadata["input_size"]) == [48, 64]
    assert json.loads(metadata["border"]) == 2
    assert json.loads(metadata["epoch"]) == 7
    assert metadata["run_id"] == "0123456789abcdef"
    assert metadata["data_fingerprint"] == "f" * 64
    assert metadata["trained_on"] == "official train split"
    assert metadata["data_licence"].startswith("Rendered by this project")
    assert metadata["made_with"].startswith("depth-pipeline ")
    assert open_onnx(onnx_file).metadata == metadata


def test_the_graph_has_open_sizes_and_tells_nothing_of_this_machine(onnx_file: Path) -> None:
    model = onnx.load(onnx_file)
    for value, channels in ((model.graph.input[0], 3), (model.graph.output[0], 1)):
        sides = value.type.tensor_type.shape.dim
        assert sides[1].dim_value == channels
        assert all(sides[axis].dim_param for axis in (0, 2, 3))
    assert str(Path(__file__).resolve().parents[2]).encode() not in onnx_file.read_bytes()
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)


def test_used_as_its_metadata_says_it_gives_what_predictions_are_made_of(
    network: nn.Module, onnx_file: Path
) -> None:
    run = open_onnx(onnx_file)
    height, width = json.loads(run.metadata["input_size"])
    border = json.loads(run.metadata["border"])

    def use(rgb: Tensor) -> Tensor:
        small = fill_border(resize_rgb(rgb, (height, width)), border)
        small_m = fill_border(torch.from_numpy(run(small.numpy())), border)
        return interpolate(small_m, rgb.shape[-2:], mode="bilinear", align_corners=False)

    photo = torch.rand(1, 3, 97, 131)
    expected_m = network_predictor(network, (48, 64), 2, torch.device("cpu"))(photo)
    expected_m = interpolate(expected_m, (97, 131), mode="bilinear", align_corners=False)
    torch.testing.assert_close(use(photo), expected_m, rtol=0, atol=1e-4)


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def test_a_pickle_under_the_name_of_a_model_is_refused_and_not_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    torch.save({"state": Trap(mark)}, tmp_path / "zipped.onnx")
    (tmp_path / "plain.onnx").write_bytes(pickle.dumps(Trap(mark)))
    for name in ("zipped.onnx", "plain.onnx"):
        with pytest.raises(PipelineError, match=rf"{name} is no ONNX model"):
            open_onnx(tmp_path / name)
    assert not mark.exists()
    pickle.loads((tmp_path / "plain.onnx").read_bytes())
    assert mark.exists(), "the trap itself works"


@pytest.mark.parametrize("damage", [b"", b"<html>404 not found</html>"])
def test_what_is_no_model_is_named_in_one_line(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(damage)
    with pytest.raises(PipelineError, match=r"a\.onnx is no ONNX model") as caught:
        open_onnx(tmp_path / "a.onnx")
    assert "\n" not in str(caught.value)


def test_half_a_file_and_one_that_is_missing_are_named(onnx_file: Path, tmp_path: Path) -> None:
    (tmp_path / "half.onnx").write_bytes(onnx_file.read_bytes()[:9000])
    with pytest.raises(PipelineError, match=r"half\.onnx"):
        open_onnx(tmp_path / "half.onnx")
    with pytest.raises(PipelineError, match=r"none\.onnx does not exist"):
        open_onnx(tmp_path / "none.onnx")


@pytest.mark.parametrize("location", ["weights.bin", "../secret.bin", "/etc/passwd"])
@pytest.mark.parametrize("hidden", ["initializer", "attribute"])
def test_a_model_that_refers_to_another_file_is_refused(
    onnx_file: Path, tmp_path: Path, location: str, hidden: str
) -> None:
    model = onnx.load(onnx_file)
    tensor = model.graph.initializer[0]
    if hidden == "attribute":
        tensor = model.graph.node.add(op_type="Constant", output=["extra"]).attribute.add(name="value", type=4).t
        tensor.data_type, tensor.name = 1, "extra"
        tensor.dims.append(1)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(PipelineError, match=r"a\.onnx keeps .* in another file, which is not opened"):
        open_onnx(tmp_path / "a.onnx")


def test_operations_from_elsewhere_are_refused_in_one_line(onnx_file: Path, tmp_path: Path) -> None:
    model = onnx.load(onnx_file)
    model.graph.node[0].domain = "org.example"
    model.opset_import.add(domain="org.example", version=1)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(PipelineError, match=r"a\.onnx cannot be run by ONNX Runtime") as caught:
        open_onnx(tmp_path / "a.onnx")
    assert "\n" not in str(caught.value)
