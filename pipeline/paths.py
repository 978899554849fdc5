"""The files that the stages hand to each other, relative to the working copy. Named here and in dvc.yaml only."""

from __future__ import annotations

import os
from pathlib import Path

PARAMS = Path("params.yaml")
PIPELINE = Path("dvc.yaml")
LOCK = Path("dvc.lock")

RAW = Path("data/raw")
RAW_MAT = RAW / "nyu_depth_v2_labeled.mat"
RAW_SPLITS = RAW / "splits.mat"
RAW_FOLDER_LIST = RAW / "frames.csv"
"""Written instead of the two files above when `fetch.source` is `folder`."""
RAW_PAIRS = RAW / "pairs.csv"
"""Written instead when it is `nyu_raw`."""
RAW_SOURCE = RAW / "source.json"
"""Which of them it is, and how to read it."""

SHARDS = Path("data/shards")
SHARDS_INDEX = SHARDS / "index.json"

BEST_CHECKPOINT = Path("models/best.safetensors")
LAST_CHECKPOINT = Path("models/last.safetensors")
RUN = Path("models/run.json")

PRETRAINED = Path("models/pretrained/nyu-0.5M.safetensors")
"""No stage writes it: it is committed, and used where nothing was trained. `make pretrained` makes it anew."""
PRETRAINED_FACTS = PRETRAINED.with_suffix(".json")
PRETRAINED_CARD = PRETRAINED.with_name("README.md")

HISTORY = Path("reports/train/history.csv")

METRICS = Path("reports/evaluate/metrics.json")
METRICS_SUMMARY = Path("reports/evaluate/summary.json")
"""The few figures of it that `dvc metrics` and `dvc exp show` put into their tables."""
PER_IMAGE = Path("reports/evaluate/per_image.csv")
BY_DISTANCE = Path("reports/evaluate/by_distance.csv")
ERROR_HISTOGRAM = Path("reports/evaluate/error_histogram.csv")
PREDICTIONS = Path("reports/evaluate/predictions.safetensors")

BENCHMARKS = Path("reports/benchmarks.json")
"""No stage writes it: it is committed, and a report is drawn on machines that could not measure it."""

STUDY_FILES = Path("studies")
STUDIES = Path("reports/studies.json")
"""No stage writes these: a person declares a study, and `depth study` notes what it came to."""
EXPERIMENTS_PAGE = Path("docs/experiments.md")
"""Written by `depth study` as well, with the plots below."""
STUDY_PLOTS = Path("docs/images")

REPORT = Path("reports/report.html")
COMPARISON = Path("reports/compare.html")
"""No stage writes it: `depth compare` does."""
FIGURES = Path("reports/figures")

STATE = Path(".state")
"""What a stage keeps outside its outputs, under the repository's root, to go on from after an interruption."""


def repository_root() -> Path:
    """The root of the user's repository, also from the temporary copies of it that DVC runs experiments in."""
    if "DVC_ROOT" in os.environ:
        return Path(os.environ["DVC_ROOT"]).resolve()
    here = Path.cwd().resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").is_file()), here)


def code_root() -> Path:
    """The root of the repository whose code runs, wherever the user is. An installed wheel has none around it."""
    return Path(__file__).resolve().parents[1]
