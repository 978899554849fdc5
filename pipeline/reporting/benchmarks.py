"""What `depth bench` measured, as a table: a row an entry, a column for the CPU and one for the GPU."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.errors import PipelineError

DEVICES = {"cpu": "CPU", "cuda": "GPU"}
"""`device` of an entry -> head of its column."""


@dataclass(frozen=True)
class Figure:
    value: str
    """with its unit"""
    reached: bool | None
    """None: there was no limit"""


@dataclass(frozen=True)
class Told:
    """A limit or a peer, and the column that it is of; None: of both."""

    text: str | None
    column: str | None = None


@dataclass(frozen=True)
class BenchmarkRow:
    name: str
    figures: Sequence[Figure | None]
    """by column; None: not measured"""
    limits: Sequence[Told]
    against: Sequence[Told]


@dataclass(frozen=True)
class Benchmarks:
    columns: Sequence[str]
    rows: Sequence[BenchmarkRow]
    origins: Sequence[tuple[str, str]]
    """(column, hardware, version of torch and day), and of which subjects where a column has several"""
    gpu_at_hand: bool


def read_benchmarks(path: Path = paths.BENCHMARKS) -> list[dict[str, Any]]:
    """The entries of the file that `depth bench` writes; none where there is no file.

    Raises `PipelineError` if it is no JSON, as after a merge that git could not make by itself.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))["entries"]
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise PipelineError(f"{path} is damaged ({error}); restore it from git") from error


def tabulate(entries: Sequence[Mapping[str, Any]]) -> Benchmarks:
    """Entries of one name make a row, in the order in which the names first come."""
    measured = {entry["device"] for entry in entries}
    return Benchmarks(
        columns=list(DEVICES.values()),
        rows=[
            _row(name, {entry["device"]: entry for entry in entries if entry["name"] == name}, measured)
            for name in dict.fromkeys(entry["name"] for entry in entries)
        ],
        origins=[
            (column, origin)
            for device, column in DEVICES.items()
            for origin in _origins([entry for entry in entries if entry["device"] == device])
        ],
        gpu_at_hand="cuda" in measured,
    )


def _row(name: str, entries: Mapping[str, Mapping[str, Any]], measured: Collection[str]) -> BenchmarkRow:
    """entries: by device. measured: the devices that the table has figures of."""
    return BenchmarkRow(
        name,
        [_figure(entries[device]) if device in entries else None for device in DEVICES],
        # A limit of one device need not be the other's, which is unknown until it has a figure.
        _told({device: _limit(entry) for device, entry in entries.items()}, measured),
        _told({device: entry["against"] for device, entry in entries.items()}, entries),
    )


def _figure(entry: Mapping[str, Any]) -> Figure:
    value, limit = entry["value"], entry["limit"]
    digits = 3
    # 96.98 % that miss 97 % are not shown as 97.0 %.
    while value != limit and float(_significant(value, digits)) == limit:
        digits += 1
    return Figure(_with_unit(_significant(value, digits), entry["unit"]), entry["reached"])


def _limit(entry: Mapping[str, Any]) -> str | None:
    if entry["limit"] is None:
        return None
    limit = _with_unit(format(entry["limit"], "g"), entry["unit"])
    return f"at {'most' if entry['better'] == 'lower' else 'least'} {limit}"


def _significant(value: float, digits: int) -> str:
    """So many significant digits, never in powers of ten."""
    return f"{Decimal(f'{value:#.{digits}g}'):f}"


def _with_unit(text: str, unit: str) -> str:
    shown = text.replace("-", "−")
    return f"{shown}×" if unit == "x" else f"{shown}\N{NO-BREAK SPACE}{unit}"


def _told(texts: Mapping[str, str | None], devices: Collection[str]) -> list[Told]:
    """texts: by device. One text if it is that of all `devices`, or if there is none; else that of each."""
    different = set(texts.values())
    if different == {None} or (len(different) == 1 and set(texts) == set(devices)):
        return [Told(different.pop())]
    return [Told(texts[device], column) for device, column in DEVICES.items() if device in texts]


def _origins(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    subjects: dict[str, list[str]] = {}
    for entry in entries:
        # Entries of one subject, as `step.120x160`, are measured together.
        subjects.setdefault(_origin(entry), []).append(entry["name"].partition(".")[0])
    return [
        origin if len(subjects) == 1 else f"{origin} ({', '.join(dict.fromkeys(names))})"
        for origin, names in subjects.items()
    ]


def _origin(entry: Mapping[str, Any]) -> str:
    forms = {"gpu": "{}", "processor": "{}", "cores": "{} cores", "torch": "torch {}"}
    environment, day = entry["environment"], entry["date"][:10]
    facts = [form.format(environment[key]) for key, form in forms.items() if key in environment]
    return ", ".join([*facts, day])
