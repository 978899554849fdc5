"""What a report is drawn from: the parsed content of the files that the other stages wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import safe_open

from pipeline.studies.summary import Summary


@dataclass(frozen=True)
class Predictions:
    """`k` test frames with their predictions, at one size."""

    rgb_u8: np.ndarray
    """(k, 3, h, w) uint8"""
    depth_mm: np.ndarray
    """(k, 1, h, w) int16 ground truth; 0 = missing"""
    prediction_mm: np.ndarray
    """(k, 1, h, w) int16"""
    frames: Sequence[Mapping[str, Any]]
    """`k` entries of `frame`, `scene`, `rank` ("best", "median", "worst" or "fixed") and `rmse` in metres"""

    @property
    def depth_m(self) -> np.ndarray:
        return self.depth_mm.astype(np.float32) / 1000

    @property
    def prediction_m(self) -> np.ndarray:
        return self.prediction_mm.astype(np.float32) / 1000

    @classmethod
    def read(cls, path: Path) -> Predictions:
        """`predictions.safetensors` of an evaluation."""
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in ("rgb_u8", "depth_mm", "prediction_mm")}
            return cls(**tensors, frames=json.loads(file.metadata()["frames"]))


@dataclass(frozen=True)
class SplitFacts:
    frames: int
    """without augmented copies"""
    copies: int
    scenes: int
    scene_types: int


@dataclass(frozen=True)
class Augmented:
    """A training frame and what augmentation makes of it, at the size of the shards."""

    frame: str
    before_u8: np.ndarray
    """(3, h, w) uint8"""
    after_u8: np.ndarray
    before_mm: np.ndarray
    """(1, h, w) int16"""
    after_mm: np.ndarray


@dataclass(frozen=True)
class DataFacts:
    """What the shards hold, as `pipeline.reporting.data_facts` reads it off them."""

    source: str
    size: tuple[int, int]
    """(height, width) of the frames"""
    trained_on: str
    fingerprint: str
    splits: Mapping[str, SplitFacts]
    edges_m: np.ndarray
    counts: Mapping[str, np.ndarray]
    """by split: pixels in each bin between two edges"""
    missing: Mapping[str, float]
    """by split: share of pixels without a measurement"""
    augmented: Augmented | None


@dataclass(frozen=True)
class Output:
    """A file or folder that a stage made, with DVC's hash of it."""

    stage: str
    path: str
    md5: str


@dataclass(frozen=True)
class Experiments:
    """The report's run beside others of the store, as `pipeline.reporting.experiments` puts them together."""

    runs: pd.DataFrame
    """one row a run, this one first; the columns stand in that module"""
    group: str | None
    """the name that all of them share; None: all of the store that finished"""
    as_of: str
    """the day on which the store was read"""
    in_store: int
    """how many finished runs it held"""


@dataclass(frozen=True)
class ReportInputs:
    """Everything that a report shows. A column, an entry or a number that is absent is left out of it."""

    title: str
    """what the report calls the work"""
    metrics: Mapping[str, Any]
    """`reports/evaluate/metrics.json`, `by_distance` included"""
    per_image: pd.DataFrame
    """one row a test frame: `frame`, `scene`, `scene_type`, `full_rmse`, …"""
    history: pd.DataFrame
    """one row an epoch: `epoch`, `seconds`, `train_loss_total`, …; `val_…` if there is a validation set"""
    predictions: Predictions
    params: Mapping[str, Any]
    """the nested content of params.yaml"""
    environment: Mapping[str, Any]
    """versions and hardware by name; `git_commit` gives the command that checks the code out"""
    data_fingerprint: str
    run_id: str | None
    """of the MLflow run; None where nothing was logged"""
    experiments: Experiments | None = None
    """read from the MLflow store, which DVC knows nothing of; None where there is nothing to compare with"""
    benchmarks: Sequence[Mapping[str, Any]] = ()
    """the entries of `reports/benchmarks.json`; none where nothing was measured"""
    studies: Sequence[Summary] = ()
    """what `reports/studies.json` tells of the studies that were run"""
    data: DataFacts | None = None
    this_run: Mapping[str, Any] | None = None
    """this run's row of the table of runs"""
    previous_run: Mapping[str, Any] | None = None
    """the row of the run that finished last before it; None where there is none"""
    previous_metrics: Mapping[str, Any] | None = None
    """`metrics.json` of that run; None where the store does not give it"""
    previous_per_image: pd.DataFrame | None = None
    committed_params: Mapping[str, Any] = field(default_factory=dict)
    """params.yaml of the commit, from which the command to repeat the run tells the differences"""
    outputs: Sequence[Output] = ()
    """of the stages before, as dvc.lock has them"""
