"""What training tells the outside world, so that it runs where MLflow is not installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Tracker(Protocol):
    """Receives what a training produces while it runs."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Scalars by name at a training step."""

    def log_figure(self, name: str, png: bytes, step: int) -> None:
        """A picture at a training step."""


class NullTracker:
    """Keeps nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        pass

    def log_figure(self, name: str, png: bytes, step: int) -> None:
        pass
