"""What training tells the outside world, so that it runs where MLflow is not installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Tracker(Protocol):
    """Receives what a training produces while it runs."""

    def log_metrics(self, metrics: Mapping[str, float], step: int, *, time_ms: int | None = None) -> None:
        """Scalars by name at a training step. time_ms: since 1970, when they came; None for now."""

    def log_figure(self, name: str, png: bytes, step: int, *, time_ms: int | None = None) -> None:
        """A picture at a training step."""


class NullTracker:
    """Keeps nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int, *, time_ms: int | None = None) -> None:
        pass

    def log_figure(self, name: str, png: bytes, step: int, *, time_ms: int | None = None) -> None:
        pass
