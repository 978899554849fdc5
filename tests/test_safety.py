"""No model that is loaded can run anything: a pickle that would is planted wherever a loader looks."""

from __future__ import annotations

import base64
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline import DepthEstimator
from pipeline.cli import main
from pipeline.errors import PipelineError
from pipeline.model.checkpoint import load_network, read_checkpoint_info
from pipeline.tracking import registry
from pipeline.tracking.store import open_store
from tests.small_network import save_small_network

RAN = "ran"


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.mark,)


def bare_pickle(path: Path, trap: Trap) -> None:
    path.write_bytes(pickle.dumps(trap))


def torch_zip(path: Path, trap: Trap) -> None:
    torch.save({"weights": trap}, path)


def old_torch_file(path: Path, trap: Trap) -> None:
    torch.save({"weights": trap}, path, _use_new_zipfile_serialization=False)


def zipped_pickle(path: Path, trap: Trap) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(trap))


def tensors_with_a_pickle_in_their_metadata(path: Path, trap: Trap) -> None:
    pickled = pickle.dumps(trap, protocol=0).decode("latin-1")
    fields = ("architecture", "options", "input_size", "border", "epoch", "val_rmse", "data_fingerprint")
    save_file({"weight": torch.zeros(1)}, path, dict.fromkeys((*fields, "trained_on", "run_id"), pickled))


PLANTS: list[Callable[[Path, Trap], None]] = [
    bare_pickle,
    torch_zip,
    old_torch_file,
    zipped_pickle,
    tensors_with_a_pickle_in_their_metadata,
]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40)).save("photo.png")
    return tmp_path


@pytest.fixture
def trap(work: Path) -> Trap:
    return Trap(work / RAN)


LOADS = """
import sys
import mlflow
print(mlflow.pyfunc.load_model(sys.argv[1]).predict([sys.argv[3]])[0]["unit"], flush=True)
mlflow.pyfunc.load_model(sys.argv[2])
"""
"""In a process of its own, as what MLflow loads takes the place of this package."""


def test_a_model_saved_for_serving_loads_its_tensors_and_nothing_that_is_planted_beside_them(
    trap: Trap, work: Path, checkpoint_of: Path
) -> None:
    """MLflow loads a model by its own rules, which for others unpickle."""
    folder = work / "model"
    registry.save(folder, checkpoint_of)
    for place in (folder, folder / "artifacts", folder / "data", folder / "code", folder / "code" / "pipeline"):
        place.mkdir(exist_ok=True)
        for name in ("python_model.pkl", "model.pkl", "context.pkl", "best.pkl", "data.pickle"):
            bare_pickle(place / name, trap)
        for name in ("model.pt", "model.pth", "best.ckpt", "pytorch_model.bin"):
            torch_zip(place / name, trap)
    # The weights themselves may be planted, too.
    shutil.copytree(folder, work / "weights")
    torch_zip(work / "weights" / "artifacts" / checkpoint_of.name, trap)
    example = base64.b64encode(Path("photo.png").read_bytes()).decode()
    done = subprocess.run(
        [sys.executable, "-c", LOADS, "model", "weights", example], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1:] == ["m"], done.stderr
    assert "is not a readable safetensors file" in done.stderr.splitlines()[-1]
    assert not Path(RAN).exists()


def test_the_trap_works(trap: Trap) -> None:
    torch_zip(Path("trap.pt"), trap)
    torch.load("trap.pt", weights_only=False)
    assert Path(RAN).is_dir()


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("name", ["best.safetensors", "model.pt", "model.pkl"])
def test_a_planted_checkpoint_is_refused_and_nothing_of_it_runs(
    trap: Trap, plant: Callable[[Path, Trap], None], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(Path(name), trap)
    for load in (load_network, read_checkpoint_info, DepthEstimator):
        with pytest.raises(PipelineError, match=name) as caught:
            load(Path(name))
        assert "\n" not in str(caught.value)
    with pytest.raises(SystemExit):
        main(["predict", "photo.png", "--out", "depth", "--model", name])
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not Path(RAN).exists()


@pytest.mark.parametrize("plant", [torch_zip, bare_pickle])
def test_a_planted_image_is_refused_and_nothing_of_it_runs(
    trap: Trap, plant: Callable[[Path, Trap], None], checkpoint_of: Path
) -> None:
    plant(Path("photo.npy"), trap)
    with pytest.raises(PipelineError, match=r"photo\.npy cannot be read as an image"):
        DepthEstimator(checkpoint_of)("photo.npy")
    assert not Path(RAN).exists()


@pytest.fixture
def checkpoint_of(work: Path) -> Path:
    return save_small_network(Path("good.safetensors"))


MLMODEL = """\
artifact_path: model
flavors:
  python_function:
    cloudpickle_version: 3.1.1
    code: code
    loader_module: mlflow.pyfunc.model
    python_model: python_model.pkl
  pytorch:
    model_data: data
    pickle_module_name: planted
"""


def test_a_planted_model_of_mlflow_is_never_unpickled_nor_its_code_imported(
    trap: Trap, work: Path, empty_store: Path, checkpoint_of: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(empty_store, "mlflow.db")
    client = open_store()
    number = client.create_experiment("depth", artifact_location=(work / "mlartifacts").as_uri())
    client.create_registered_model("depth")

    def register(name: str, checkpoint: Callable[[Path], None]) -> None:
        folder = work / name / "model"
        (folder / "code").mkdir(parents=True)
        (folder / "data").mkdir()
        (folder / "MLmodel").write_text(MLMODEL)
        for code in ("planted.py", "sitecustomize.py", "mlflow.py"):
            (folder / "code" / code).write_text(f"import os; os.mkdir({str(work / RAN)!r})")
        bare_pickle(folder / "python_model.pkl", trap)
        torch_zip(folder / "data" / "model.pth", trap)
        checkpoint(folder / "data" / "best.safetensors")
        run_id = client.create_run(number, run_name=name).info.run_id
        client.log_artifacts(run_id, str(folder), "model")
        client.log_artifact(run_id, str(folder / "data" / "best.safetensors"), "checkpoints")
        version = client.create_model_version("depth", f"{client.get_run(run_id).info.artifact_uri}/model", run_id)
        client.set_registered_model_alias("depth", name, version.version)

    register("planted", lambda path: torch_zip(path, trap))
    register("honest", lambda path: shutil.copy(checkpoint_of, path) and None)
    for model in ("models:/depth@planted", "planted"):
        with pytest.raises(SystemExit):
            main(["predict", "photo.png", "--out", "depth", "--model", model])
        assert "is not a readable safetensors file" in capsys.readouterr().err
    for model in ("models:/depth@honest", "models:/depth/2", "honest"):
        main(["predict", "photo.png", "--out", "depth", "--model", model])
        assert Path("depth/photo-depth.png").is_file()
        shutil.rmtree("depth")
    assert not Path(RAN).exists()
