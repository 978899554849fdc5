"""The whole pipeline as a user runs it: in a fresh clone, through DVC, with MLflow's store at its root."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors import safe_open

from tests.tracking.toy import clean_environment

REPOSITORY = Path(__file__).resolve().parents[2]
REAL_FRAMES = REPOSITORY.parent / "shared" / "nyu"

SMALL = {
    "fetch": {"rooms": {"frames": 12, "frames_per_scene": 2, "test_fraction": 0.34}},
    "preprocess": {"height": 48, "width": 64, "val_fraction": 0.25},
    "network": {"width": 8},
    "train": {"epochs": 2, "batch_size": 4},
    "evaluate": {"examples": 1},
}


class Clone:
    """A clone of this repository with small parameters committed."""

    def __init__(self, root: Path, changes: dict[str, Any]) -> None:
        self.root = root
        self._environment = clean_environment()
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(root)], check=True)
        path = root / "params.yaml"
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
        merge(params, changes)
        path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
        self.run("git", "commit", "--quiet", "--all", "--message", "small parameters")

    def run(self, *command: str, status: int = 0) -> str:
        done = subprocess.run(command, cwd=self.root, env=self._environment, capture_output=True, text=True)
        assert done.returncode == status, f"{command} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def json(self, path: str) -> Any:
        return json.loads((self.root / path).read_text(encoding="utf-8"))

    def runs(self) -> list[Run]:
        client = MlflowClient(f"sqlite:///{self.root / 'mlflow.db'}")
        return list(client.search_runs([client.get_experiment_by_name("depth").experiment_id]))

    def artifacts(self, run: Run) -> set[str]:
        folder = Path(run.info.artifact_uri.removeprefix("file://"))
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def merge(tree: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict):
            merge(tree[key], value)
        else:
            tree[key] = value


pytestmark = pytest.mark.skipif(
    not (REPOSITORY / ".git").exists(), reason="this copy of the repository has no .git to clone from"
)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("end-to-end") / "clone", SMALL)
    clone.run("dvc", "repro")
    return clone


@pytest.fixture(scope="module")
def second_experiment(clone: Clone) -> str:
    """What `dvc exp run` printed for the second experiment."""
    return clone.run("dvc", "exp", "run", "--name", "more-ssim", "-S", "loss.ssim_weight=0.7")


def test_repro_scores_the_test_frames_under_every_protocol(clone: Clone) -> None:
    metrics = clone.json("reports/evaluate/metrics.json")
    assert metrics["split"] == "test"
    assert metrics["trained_on"] == "official train split"
    with (clone.root / "reports/evaluate/per_image.csv").open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert metrics["frames"] == len(rows) > 0
    assert len(metrics["frames_sha256"]) == 64
    for protocol in ("full", "eigen", "densedepth"):
        assert 0 < metrics[protocol]["rmse"] < 10
        assert 0 < metrics["baseline_mean_map"][protocol]["rmse"] < 10
        mean = sum(float(row[f"{protocol}_rmse"]) for row in rows) / len(rows)
        assert metrics[protocol]["rmse"] == pytest.approx(mean)


def test_the_training_is_one_finished_run_with_parameters_metrics_and_files(clone: Clone) -> None:
    origin = clone.json("models/run.json")
    run = next(run for run in clone.runs() if run.info.run_id == origin["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["loss.ssim_weight"] == "0.1"
    assert run.data.params["fetch.rooms.frames"] == "12"
    losses = [
        f"{part}/{name}"
        for part in ("train/loss", "train/epoch_loss", "val/loss")
        for name in ("total", "mse", "ssim", "silog")
    ]
    for name in (*losses, "val/rmse", "val/delta1", "train/learning_rate", "train/frames_per_s"):
        assert name in run.data.metrics
    assert any(name.startswith("system/") for name in run.data.metrics)
    assert {"git_commit", "host", "torch", "dvc", "mlflow", "data.fingerprint"} <= set(run.data.tags)
    assert run.data.tags["device"] == run.data.tags["evaluate.device"]
    contexts = {tag.value for given in run.inputs.dataset_inputs for tag in given.tags}
    assert contexts == {"training", "validation", "testing"}
    metrics = clone.json("reports/evaluate/metrics.json")
    assert run.data.metrics["test/full/rmse"] == pytest.approx(metrics["full"]["rmse"])
    files = {
        "params.yaml",
        "history.csv",
        "report.html",
        "checkpoints/best.safetensors",
        "checkpoints/last.safetensors",
    }
    assert files <= clone.artifacts(run)
    pictures = [
        name for name in clone.artifacts(run) if name.startswith("images/predictions") and name.endswith("png")
    ]
    assert len(pictures) > 1


def test_the_checkpoint_names_its_run_and_its_data(clone: Clone) -> None:
    with safe_open(clone.root / "models/best.safetensors", framework="pt") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items() if key != "format"}
    assert metadata["run_id"] == clone.json("models/run.json")["run_id"]
    assert metadata["data_fingerprint"] == clone.json("data/shards/index.json")["fingerprint"]
    assert metadata["input_size"] == [48, 64]


def test_repro_again_runs_nothing(clone: Clone) -> None:
    runs = len(clone.runs())
    output = clone.run("dvc", "repro")
    assert "Running stage" not in output
    assert "Data and pipelines are up to date" in output
    assert len(clone.runs()) == runs


def test_an_experiment_with_another_loss_trains_anew_on_the_same_data(clone: Clone, second_experiment: str) -> None:
    for stage in ("fetch", "preprocess"):
        assert f"Stage '{stage}' didn't change, skipping" in second_experiment
    for stage in ("train", "evaluate", "report"):
        assert f"Running stage '{stage}'" in second_experiment
    by_name = {run.info.run_name: run for run in clone.runs()}
    assert by_name["more-ssim"].data.params["loss.ssim_weight"] == "0.7"
    assert by_name["more-ssim"].info.status == "FINISHED"
    assert "test/eigen/delta1" in by_name["more-ssim"].data.metrics
    assert len(by_name) == 2


def test_dvc_shows_the_experiment_beside_its_baseline(clone: Clone, second_experiment: str) -> None:
    shown = clone.run("dvc", "exp", "show", "--csv")
    rows = {row["Experiment"] or row["rev"]: row for row in csv.DictReader(io.StringIO(shown))}
    assert rows["more-ssim"]["loss.ssim_weight"] == "0.7"
    assert float(rows["more-ssim"]["full.rmse"]) > 0


def test_trained_runs_are_promoted_and_compared(clone: Clone, second_experiment: str) -> None:
    first = next(run for run in clone.runs() if run.info.run_name != "more-ssim")
    assert "version 1 of the model depth, the first champion" in clone.run("depth", "promote", first.info.run_id)
    said = clone.run("depth", "promote", "--force")  # whose weights lie in the workspace
    assert "run more-ssim" in said
    assert "m on the same frames" in said
    assert "version 2 of the model depth, champion now" in said


def test_a_misspelled_parameter_stops_the_stage_with_one_line(clone: Clone) -> None:
    path = clone.root / "params.yaml"
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace("ssim_weight:", "ssim_wieght:"), encoding="utf-8")
    try:
        output = clone.run("python", "-m", "stages.train", status=1)
    finally:
        path.write_text(before, encoding="utf-8")
    assert output.startswith("error: train: params.yaml: loss.ssim_wieght is not a parameter")
    assert output.count("\n") == 1


@pytest.mark.skipif(not REAL_FRAMES.is_dir(), reason="needs the real NYU Depth v2 frames of ../shared/nyu")
def test_real_frames_go_through_the_whole_pipeline(tmp_path: Path) -> None:
    builder = [sys.executable, str(REAL_FRAMES / "build_mat.py"), str(tmp_path / "nyu")]
    subprocess.run([*builder, "--train", "16", "--test", "8"], check=True, capture_output=True)
    changes = SMALL | {
        "fetch": {"source": "file", "file": {"labeled": str(tmp_path / "nyu/nyu_depth_v2_labeled.mat")}}
    }
    clone = Clone(tmp_path / "clone", changes)
    clone.run("dvc", "repro")
    metrics = clone.json("reports/evaluate/metrics.json")
    assert (metrics["source"], metrics["frames"], metrics["height"], metrics["width"]) == ("file", 8, 480, 640)
    # The mean of 16 real depth maps is 0.9 to 1.6 m off; a reader that mixed up axes or units would not be.
    assert 0.7 < metrics["baseline_mean_map"]["full"]["rmse"] < 1.8
    assert (clone.root / "reports/report.html").stat().st_size < 5_000_000
    clone.run("python", "-m", "pipeline.export.pretrained")
    weights = clone.root / "models/best.safetensors"
    assert (clone.root / "models/pretrained/nyu-0.5M.safetensors").read_bytes() == weights.read_bytes()
    facts = clone.json("models/pretrained/nyu-0.5M.json")
    assert facts["figures"][0]["rmse"] == pytest.approx(metrics["full"]["rmse"])
    assert (facts["train_frames"] + facts["validation_frames"], facts["test"]["frames"]) == (16, 8)
    assert (facts["command"], facts["test"]["raw_depth_is_filled"]) == ("dvc repro", True)
    assert str(tmp_path) not in json.dumps(facts)


def test_weights_of_rendered_rooms_do_not_become_those_of_nyu(clone: Clone) -> None:
    said = clone.run("python", "-m", "pipeline.export.pretrained", status=1)
    assert said.startswith("error: make pretrained: models/best.safetensors was trained with fetch.source rooms;")
    assert said.count("\n") == 1
