"""A small repository of the pipeline's shape, and a real MLflow server."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import psutil
import requests
import yaml

TOY = Path(__file__).with_name("toy_stage.py")
TOY_PARAMS: dict[str, Any] = {
    "seed": 0,
    "loss": {"ssim_weight": 0.5},
    "train": {"steps": 30, "pause_s": 0.0, "fail": ""},
    "evaluate": {"examples": 1, "fail": ""},
    "report": {"title": "toy"},
    "tracking": {"experiment": "depth", "group": None},
}
TOY_PIPELINE: dict[str, Any] = {
    "stages": {
        "train": {
            "cmd": "python toy_stage.py train",
            "deps": ["toy_stage.py"],
            "params": ["seed", "loss", "train"],
            "outs": ["models/best.safetensors", "models/last.safetensors", "models/run.json"],
            "plots": [{"reports/train/history.csv": {"cache": False}}],
        },
        "evaluate": {
            "cmd": "python toy_stage.py evaluate",
            "deps": ["toy_stage.py", "models/run.json"],
            "params": ["evaluate"],
            "outs": ["reports/evaluate/predictions.safetensors"],
            "metrics": [{"reports/evaluate/metrics.json": {"cache": False}}],
            "plots": [{"reports/evaluate/per_image.csv": {"cache": False}}],
        },
        "report": {
            "cmd": "python toy_stage.py report",
            "deps": ["toy_stage.py", "reports/evaluate/metrics.json"],
            "params": ["report", "tracking.group"],
            "outs": ["reports/report.html"],
        },
    }
}


CHECKPOINTS = {"checkpoints/best.safetensors", "checkpoints/last.safetensors"}
ALL_FILES = CHECKPOINTS | {
    "params.yaml",
    "history.csv",
    "metrics.json",
    "per_image.csv",
    "predictions.safetensors",
    "report.html",
    "dvc.lock",
}


def client_of(uri: str) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def clean_environment() -> dict[str, str]:
    """For commands that are started in a repository of a test: this one's DVC, MLflow and git left out."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_", "GIT_"))}
    # Stages are started as `python`, so the environment's own must be the first on PATH.
    ours["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for role in ("AUTHOR", "COMMITTER"):
        ours |= {f"GIT_{role}_NAME": "test", f"GIT_{role}_EMAIL": "test@example.com"}
    return ours


class Toy:
    """A repository whose three stages write the pipeline's files within a second, and log like the real ones."""

    def __init__(self, root: Path, **environment: str) -> None:
        self.root = root
        self.environment = clean_environment() | environment
        root.mkdir(parents=True)
        self.run("git", "init", "--quiet")
        # As `dvc init` leaves it, in no time.
        (root / ".dvc").mkdir()
        (root / ".dvc/config").write_text("[core]\n    analytics = false\n", encoding="utf-8")
        (root / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n", encoding="utf-8")
        (root / ".gitignore").write_text("mlflow.db*\nmlartifacts/\n.state/\n__pycache__/\n", encoding="utf-8")
        (root / "params.yaml").write_text(yaml.safe_dump(TOY_PARAMS), encoding="utf-8")
        (root / "dvc.yaml").write_text(yaml.safe_dump(TOY_PIPELINE, sort_keys=False), encoding="utf-8")
        shutil.copy(TOY, root / "toy_stage.py")
        self.run("git", "add", ".")
        self.run("git", "commit", "--quiet", "--message", "toy")

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stderr=subprocess.STDOUT,
            text=True,
            **{"stdout": subprocess.PIPE} | options,
        )

    def run(self, *command: str, status: int = 0) -> str:
        process = self.start(*command)
        output, _ = process.communicate(timeout=300)
        if command[0] == "dvc" and {"repro", "run"} & set(command) and "--queue" not in command:
            self.settle()
        assert process.returncode == status, f"{command} exited with {process.returncode}:\n{output}"
        return output

    def settle(self) -> None:
        """Wait for the sender of the last stage, which adds what DVC notes of that when it has ended."""
        wait_until(lambda: senders(self.root) == [], 30, "no sender is at work")

    def experiment(self, *arguments: str, status: int = 0) -> str:
        return self.run("dvc", "exp", "run", *arguments, status=status)

    def start_queue(self, workers: int) -> None:
        # Not through a pipe: the workers would hold it until they end, minutes after the last experiment.
        with self.start("dvc", "queue", "start", "-j", str(workers), stdout=subprocess.DEVNULL) as process:
            assert process.wait(timeout=120) == 0

    @property
    def client(self) -> mlflow.MlflowClient:
        return client_of(self.environment.get("MLFLOW_TRACKING_URI", f"sqlite:///{self.root / 'mlflow.db'}"))

    def all_runs(self) -> list[mlflow.entities.Run]:
        """The newest first."""
        return list(self.client.search_runs([self.client.get_experiment_by_name("depth").experiment_id]))

    def runs(self) -> dict[str, mlflow.entities.Run]:
        """By name; plain repros as `repro`."""
        found = self.all_runs()
        named = {run.info.run_name: run for run in found}
        assert len(named) == len(found), "two runs of one name"
        return {name if not name.startswith("repro-") else "repro": run for name, run in named.items()}

    def steps(self, run: mlflow.entities.Run, metric: str = "train/loss/total") -> list[int]:
        """Of the points of a metric, in order; a point that was stored twice is there twice."""
        return sorted(point.step for point in self.client.get_metric_history(run.info.run_id, metric))

    def artifact(self, run: mlflow.entities.Run, name: str) -> str:
        """The content of one of its files in the local store."""
        return (Path(run.info.artifact_uri.removeprefix("file://")) / name).read_text(encoding="utf-8")

    def artifacts(self, run: mlflow.entities.Run, folder: str | None = None) -> set[str]:
        found: set[str] = set()
        for item in self.client.list_artifacts(run.info.run_id, folder):
            found |= self.artifacts(run, item.path) if item.is_dir else {item.path}
        return found


def stages_at_work(toy: Toy, stage: str) -> list[psutil.Process]:
    """The processes of this stage in the copies that a queue's workers run experiments in."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, IndexError):
            inside = Path(process.cwd()).is_relative_to(toy.root / ".dvc/tmp/exps")
            if inside and process.cmdline()[-2:] == ["toy_stage.py", stage] and "python" in process.name():
                found.append(process)
    return found


def senders(root: Path) -> list[psutil.Process]:
    """The processes that send what stages of this repository tell."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "pipeline.tracking.sender" in process.cmdline() and Path(process.cwd()).is_relative_to(root):
                found.append(process)
    return found


class Server:
    """`mlflow server` on loopback, which can be killed and started again with what it had."""

    def __init__(self, folder: Path, database: Path) -> None:
        self._folder = folder
        shutil.copy(database, folder / "server.db")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        environment = os.environ | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self._answers, 60, "the server answers")

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=2).ok
        except requests.RequestException:
            return False


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


def is_training(toy: Toy, name: str | None = None) -> bool:
    """Whether the store has points of a training, of any run or of the one of this name."""
    found = toy.client.get_experiment_by_name("depth")
    runs = toy.client.search_runs([found.experiment_id]) if found else []
    return any("train/loss/total" in run.data.metrics for run in runs if name in (None, run.info.run_name))
