"""What a result was made with: code, versions, hardware."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline import paths

NOT_BY_HAND = (
    paths.PARAMS,
    paths.LOCK,
    paths.HISTORY,
    paths.METRICS,
    paths.METRICS_SUMMARY,
    paths.PER_IMAGE,
    paths.BY_DISTANCE,
    paths.ERROR_HISTOGRAM,
    paths.BENCHMARKS,
    paths.STUDIES,
    paths.EXPERIMENTS_PAGE,
    paths.STUDY_PLOTS,
    paths.PRETRAINED,
    paths.PRETRAINED_FACTS,
    paths.PRETRAINED_CARD,
)
"""Tracked files that the program changes: an experiment's parameters, which are told elsewhere, and results."""
PACKAGES = ("torch", "numpy", "h5py", "safetensors", "mlflow", "dvc")


def describe_environment(device: str) -> dict[str, str]:
    """Versions, commit and hardware by name, for a file of results; what cannot be told is left out."""
    facts = {
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": _dirty(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "device": device,
        "gpu": _gpu(device),
        "processor": _processor(),
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()}",
    }
    return {name: value for name, value in facts.items() if value}


def _dirty() -> str:
    """Whether a person changed tracked files since the commit; empty where there is none."""
    if not git("rev-parse", "HEAD"):
        return ""
    others = [f":(exclude){path.as_posix()}" for path in NOT_BY_HAND]
    return "true" if git("status", "--porcelain", "--untracked-files=no", "--", ":/", *others) else "false"


def git(*arguments: str) -> str:
    """What a git command prints; empty where there is no git or no repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _gpu(device: str) -> str:
    """The name of a CUDA device; empty for any other. Whoever computes on one has torch in its memory already."""
    if not device.startswith("cuda"):
        return ""
    import torch

    return str(torch.cuda.get_device_name(device))


def _processor() -> str:
    """The processor's name; `platform.processor()` is empty on most Linux systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
