"""`reports/studies.json`: what every variant and seed of the studies came to, one entry each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.errors import PipelineError
from pipeline.files import write_json


@dataclass(frozen=True)
class Validation:
    """At the epoch whose weights were scored."""

    rmse: float
    """metres, at the network's own resolution"""
    delta1: float | None
    epoch: int
    checkpoint: str
    """`best` (the epoch of the lowest RMSE) or `last`"""


@dataclass(frozen=True)
class Measured:
    """What one variant came to with one seed. What an evaluation did not tell is None."""

    study: str
    variant: str
    seed: int
    overrides: dict[str, Any]
    """of the study and the variant, on top of params.yaml of `git_commit`"""
    machine: dict[str, Any]
    """what `-S` gave, without paths of that machine"""
    validation: Validation | None
    test: dict[str, dict[str, float | None]]
    """by protocol, per image: `rmse` (m), `abs_rel`, `delta1`"""
    epochs: int
    training_s: float
    parameters: int | None
    train_frames: int | None
    """without augmented copies"""
    val_frames: int | None
    test_frames: int | None
    source: str | None
    """`fetch.source`"""
    environment: dict[str, str]
    """of the training: `device`, `gpu` or `processor`, `torch`"""
    git_commit: str
    git_dirty: bool
    """whether code differed from that commit"""
    experiment: str
    """of DVC"""
    run_id: str | None
    """of MLflow"""
    date: str

    @property
    def key(self) -> tuple[str, str, int]:
        return self.study, self.variant, self.seed

    @property
    def val_rmse(self) -> float | None:
        return None if self.validation is None else self.validation.rmse

    @property
    def val_delta1(self) -> float | None:
        return None if self.validation is None else self.validation.delta1

    def tested(self, name: str) -> float | None:
        """A score of protocol `full`: `rmse`, `abs_rel` or `delta1`."""
        return self.test.get("full", {}).get(name)


def read_record(path: Path = paths.STUDIES) -> list[Measured]:
    """All that was measured; nothing where there is no file.

    Raises `PipelineError` if it cannot be read, as after a merge that git could not make by itself.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["results"]
        return [_measured(entry) for entry in entries]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise PipelineError(f"{path} is damaged ({error}); restore it from git") from error


def _measured(entry: dict[str, Any]) -> Measured:
    validation = entry["validation"]
    return Measured(**entry | {"validation": None if validation is None else Validation(**validation)})


def add_to_record(measured: Measured, path: Path = paths.STUDIES) -> None:
    """Put it in the place of the entry of the same variant and seed, or beside the others. The file stays whole."""
    entries = {entry.key: entry for entry in read_record(path)} | {measured.key: measured}
    write_record([entries[key] for key in sorted(entries)], path)


def write_record(entries: Sequence[Measured], path: Path = paths.STUDIES) -> None:
    write_json(path, {"results": [asdict(entry) for entry in entries]})
