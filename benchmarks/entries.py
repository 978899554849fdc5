"""Measured figures with what they are held to, as a file and as a table."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from pipeline.environment import describe_environment
from pipeline.files import read_json, write_json


@dataclass(frozen=True)
class Entry:
    """One figure. `against` and `limit` make it mean something: a number alone does not."""

    name: str
    """subject, then what of it, as in `tracking.sqlite`"""
    value: float
    unit: str
    against: str
    """the peer or the limit in words"""
    limit: float | None = None
    """what `value` has to reach, in its unit; None where it is only told"""
    better: Literal["lower", "higher"] = "lower"
    device: str = "cpu"
    details: Mapping[str, Any] = field(default_factory=dict)
    """how the figure came about, part by part"""

    @property
    def reached(self) -> bool | None:
        if self.limit is None:
            return None
        return self.value <= self.limit if self.better == "lower" else self.value >= self.limit


def save(entries: Sequence[Entry], environment: Mapping[str, Any], path: Path) -> None:
    """Write the entries into the file; those of other names or devices that it holds already stay."""
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    kept = {(row["name"], row["device"]): row for row in (read_json(path)["entries"] if path.is_file() else [])}
    for entry in entries:
        row = asdict(entry) | {"reached": entry.reached, "date": date, "environment": dict(environment)}
        kept[entry.name, entry.device] = row
    write_json(path, {"entries": [kept[key] for key in sorted(kept)]})


def environment_of(device: str) -> dict[str, Any]:
    """Versions and hardware. The host's name is left out: the file is committed."""
    facts: dict[str, Any] = {**describe_environment(device)}
    facts.pop("host", None)
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    return facts | {"cores": len(os.sched_getaffinity(0)), "threads": torch.get_num_threads()}


def table(entries: Sequence[Entry]) -> str:
    """The entries for a terminal."""
    rows = [("entry", "value", "must reach", "", "against")]
    for entry in entries:
        bound = "at most" if entry.better == "lower" else "at least"
        rows.append(
            (
                entry.name,
                f"{entry.value:.3g} {entry.unit}",
                "–" if entry.limit is None else f"{bound} {entry.limit:g} {entry.unit}",
                {True: "reached", False: "MISSED", None: ""}[entry.reached],
                entry.against,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
