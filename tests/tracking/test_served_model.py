"""The model as `mlflow models serve` answers with it: one real server, from a real registry."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
import yaml
from PIL import Image

from pipeline import DepthEstimator
from pipeline.tracking import registry
from pipeline.tracking.promote import promote
from pipeline.tracking.store import new_client
from tests.tracking.scored_runs import ScoredRuns, save_small_checkpoint
from tests.tracking.toy import clean_environment, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
NOT_REQUIRED = ("dvc", "gradio", "h5py", "optuna", "orjson", "psutil", "pydot", "pynvml", "skimage", "tqdm")
BARE = f"""
import sys
sys.path = [path for path in sys.path if path != {str(REPOSITORY)!r}]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__name__", "").lower()]
sys.modules |= dict.fromkeys({NOT_REQUIRED!r})
"""
"""Run by Python as it starts: this repository is not there, nor what the model does not require."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model."""
    folder = tmp_path_factory.mktemp("saved")
    registry.save(folder / "model", save_small_checkpoint(folder / "best.safetensors", seed=0))
    return folder / "model"


def test_a_model_is_tensors_and_text_and_holds_no_pickle(saved: Path) -> None:
    files = {path.relative_to(saved) for path in saved.rglob("*") if path.is_file()}
    assert {path.suffix for path in files} == {"", ".json", ".py", ".safetensors", ".txt", ".yaml"}
    assert [path for path in files if path.suffix == ".safetensors"] == [Path("artifacts/best.safetensors")]
    assert [path for path in files if path.suffix == ""] == [Path("MLmodel")]
    flavour = yaml.safe_load((saved / "MLmodel").read_text())["flavors"]["python_function"]
    assert "python_model" not in flavour  # which would name a pickle
    assert flavour["loader_module"] == "mlflow.pyfunc.loaders.code_model"


def test_a_model_says_its_signature_its_requirements_and_gives_an_example(saved: Path) -> None:
    described = yaml.safe_load((saved / "MLmodel").read_text())
    (output,) = json.loads(described["signature"]["outputs"])
    assert set(output["properties"]) == {"depth_m", "height", "width", "unit"}
    assert json.loads(described["signature"]["inputs"]) == [{"type": "any", "required": True}]
    pinned = dict(line.split("==") for line in (saved / "requirements.txt").read_text().splitlines())
    assert set(pinned) == {"mlflow", "numpy", "pillow", "safetensors", "torch"}
    assert pinned["mlflow"] == version("mlflow")
    assert "+" not in pinned["torch"]
    (example,) = json.loads((saved / "serving_input_example.json").read_text())["inputs"]
    with Image.open(io.BytesIO(base64.b64decode(example))) as image:
        assert image.size == (40, 30)


class Served:
    """`mlflow models serve` of the champion, in a folder of its own."""

    def __init__(self, root: Path, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(BARE)
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/depth@champion"]
        command += ["--env-manager", "local", "--port", str(port)]
        self.folder = folder
        self.environment = clean_environment() | {
            "PYTHONPATH": str(folder),
            "MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self._answers, 120, "the model is served")

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            return requests.get(f"{self._url}/ping", timeout=2).ok
        except requests.RequestException:
            return False

    @property
    def process(self) -> psutil.Process:
        """The one that answers."""
        children = psutil.Process(self._process.pid).children(recursive=True)
        return next(child for child in children if any("uvicorn" in part for part in child.cmdline()))

    @property
    def peak_mb(self) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    def post(self, content: Any, kind: str | None = "application/json") -> requests.Response:
        body = content if isinstance(content, (bytes, str)) else json.dumps(content)
        headers = {"Content-Type": kind} if kind else {}
        return requests.post(f"{self._url}/invocations", data=body, headers=headers, timeout=60)

    def stop(self) -> None:
        os.killpg(self._process.pid, 15)
        self._process.wait()


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    """A repository's root whose store has a champion."""
    root = tmp_path_factory.mktemp("promoted")
    shutil.copy(empty_store, root / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
            patch.delenv(name, raising=False)
        patch.setenv("DVC_ROOT", str(root))
        patch.chdir(root)
        ScoredRuns(new_client(), root).make("first", [1.0, 2.0], seed=0)
        promote("first", "full", False)
        yield root


@pytest.fixture(scope="module")
def served(promoted: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(promoted, tmp_path_factory.mktemp("served") / "server")
    yield served
    served.stop()


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))


def encoded(image: Image.Image, kind: str = "PNG") -> str:
    file = io.BytesIO()
    image.save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def test_an_image_in_base64_or_as_an_array_is_answered_in_metres(
    served: Served, promoted: Path, picture: Image.Image
) -> None:
    answer = served.post({"inputs": [encoded(picture), np.array(picture).tolist()]})
    assert answer.status_code == 200
    expected_m = DepthEstimator("models:/depth@champion", device="cpu")(picture)
    assert expected_m.max() - expected_m.min() > 0.1
    for found in answer.json()["predictions"]:
        assert (found["height"], found["width"], found["unit"]) == (30, 40, "m")
        np.testing.assert_allclose(found["depth_m"], expected_m, atol=0.00051)


def test_requests_that_come_at_once_are_all_answered(served: Served, picture: Image.Image) -> None:
    pictures = [picture.rotate(90 * turns, expand=True) for turns in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda turned: served.post({"inputs": [encoded(turned)]}), pictures))
    found = [answer.json()["predictions"][0] for answer in answers]
    assert [(one["width"], one["height"]) for one in found] == [turned.size for turned in pictures]


def test_the_server_had_only_the_model_s_own_copy_of_the_code(served: Served) -> None:
    """What was tested above would else say nothing of machines that have no clone."""
    imported = subprocess.run(
        [sys.executable, "-c", "import pipeline"], cwd=served.folder, env=served.environment, capture_output=True
    )
    assert b"No module named 'pipeline'" in imported.stderr


def test_it_listens_on_loopback_only(served: Served) -> None:
    listening = [found.laddr.ip for found in served.process.net_connections() if found.status == "LISTEN"]
    assert listening == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"inputs": ["photo.jpg"]}, "the image is no base64"),
        ({"inputs": ["aGVsbG8="]}, "the image cannot be read as an image: its format is none"),
        ({"inputs": [[[[1, 2, 300]]]]}, "the image holds something else than whole numbers from 0 to 255"),
        ({"inputs": [None]}, "the image is of type NoneType"),
        ({"inputs": []}, "there is no image"),
        ({"inputs": "aGVsbG8=" * 1000}, "Expected list, but got str"),
        ({"inputs": {}}, "Expected list, but got dict"),
        ({"dataframe_split": {"columns": ["image"], "data": [["x"]]}}, "must be a dictionary with 'inputs' key"),
        ({"messages": []}, 'the request is no JSON of the form {"inputs": [image, ...]}'),
        ({}, "must be a dictionary with 'inputs' key"),
        ([], "Received a list"),
        ("null", "the request is no JSON of the form"),
        ('{"inputs": [', "JSONDecodeError"),
        (b"\xff\xfe\x00", "the request is no JSON of the form"),
        ("[" * 100_000, "recursion"),
        ('{"inputs": [' + "9" * 5000 + "]}", "the request is no JSON of the form"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_wrong_input_is_answered_with_400_and_one_sentence(served: Served, content: Any, said: str) -> None:
    answer = served.post(content)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error_code", "message"}
    assert said in answer.json()["message"]
    assert "\n" not in answer.json()["message"]
    assert len(answer.json()["message"]) <= 300
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("kind", [None, "text/csv", "application/vnd.apache.parquet"])
def test_other_formats_than_json_are_refused_unread(served: Served, kind: str | None) -> None:
    answer = served.post(b"a,b\n1,2\n1,2,3", kind)
    assert (answer.status_code, answer.json()["message"]) == (
        415,
        "send JSON, with the header Content-Type: application/json",
    )


def test_what_is_too_large_is_refused_in_no_more_memory_than_a_small_request(
    served: Served, picture: Image.Image
) -> None:
    assert served.post({"inputs": [encoded(picture)]}).ok
    before_mb = served.peak_mb
    for side in (10_000, 20_000):
        bomb = encoded(Image.new("1", (side, side)))
        assert len(bomb) < 2**20
        answer = served.post({"inputs": [bomb]})
        assert answer.status_code == 400
        assert "pixels" in answer.json()["message"]
    assert served.peak_mb - before_mb < 16  # a byte a pixel would be 95 and 381
    answer = served.post(b" " * (150 * 2**20))
    assert (answer.status_code, answer.json()["message"]) == (
        413,
        "the request has more than 33554432 bytes; send fewer images, or smaller ones",
    )
    assert served.peak_mb - before_mb < 80
    assert served.post({"inputs": [encoded(picture)]}).ok
