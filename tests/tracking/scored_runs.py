"""Runs as a training and its evaluation leave them, without either."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import mlflow

from pipeline.data.splits import TRAINED_ON
from tests.small_network import save_small_network


def save_small_checkpoint(path: Path, seed: int) -> Path:
    return save_small_network(path, seed, head_std=5.0, border=0, epoch=3, run_id=None)


class ScoredRuns:
    """Makes finished runs in a store."""

    def __init__(self, store: mlflow.MlflowClient, root: Path, *, is_server: bool = False) -> None:
        """root: of the repository. A server has its own place for artifacts."""
        self.store = store
        self._folder = root / "scratch"
        self._written: dict[int, bytes] = {}
        location = None if is_server else (root / "mlartifacts").as_uri()
        self._number = store.create_experiment("depth", artifact_location=location)

    def make(
        self,
        name: str,
        errors_m: Sequence[float],
        *,
        seed: int,
        frames_sha256: str | None = "f" * 64,
        trained_on: str = TRAINED_ON["official"],
        epoch_scored: int = 3,
        status: str = "FINISHED",
        checkpoint: bytes | None = None,
        tags: dict[str, str] | None = None,
    ) -> str:
        """errors_m: RMSE of each test frame. seed: of the weights. Returns the run's id."""
        self._folder.mkdir(exist_ok=True)
        mean = sum(errors_m) / len(errors_m)
        scores = {"rmse": mean, "abs_rel": 0.1, "delta1": 0.8}
        metrics = {
            "frames": len(errors_m),
            "source": "rooms",
            "trained_on": trained_on,
            "checkpoint_epoch": epoch_scored,
            "parameters": 9000,
            "full": scores,
            "eigen": scores,
            "baseline_mean_map": {"full": scores, "eigen": scores},
        }
        if frames_sha256 is not None:
            metrics["frames_sha256"] = frames_sha256
        rows = [f"{frame:05},{error},{-error}" for frame, error in enumerate(errors_m)]
        run_id: str = self.store.create_run(self._number, run_name=name, tags=tags or {}).info.run_id
        self.store.log_text(run_id, json.dumps(metrics), "metrics.json")
        self.store.log_text(run_id, "\n".join(["frame,full_rmse,eigen_rmse", *rows]), "per_image.csv")
        self.store.log_metric(run_id, "test/full/rmse", mean)
        path = save_small_checkpoint(self._folder / "best.safetensors", seed)
        # The order of a file's metadata differs each time it is written; one training writes it once.
        path.write_bytes(checkpoint or self._written.setdefault(seed, path.read_bytes()))
        self.store.log_artifact(run_id, str(path), "checkpoints")
        self.store.set_terminated(run_id, status)
        return run_id
