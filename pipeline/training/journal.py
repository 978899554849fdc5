"""What a training tells its tracker, told only once it is safe on disk, and so told once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.training.tracker import Tracker


class Journal:
    """A `Tracker` that holds back what it is told until `tell`.

    A training that is killed goes on from its last saved state and repeats what came after it. If the tracker
    knew of that already, it would be told twice. So the events are saved with the state, and told after; those
    that may not have arrived are told again with their own times, by which a store knows them.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._events: list[dict[str, Any]] = []
        self._told = 0

    def log_metrics(self, metrics: Mapping[str, float], step: int, *, time_ms: int | None = None) -> None:
        self._events.append(
            {"metrics": dict(metrics), "step": step, "time_ms": _now_ms() if time_ms is None else time_ms}
        )

    def log_figure(
        self, name: str, png: bytes | Callable[[], bytes], step: int, *, time_ms: int | None = None
    ) -> None:
        """png: the picture, or what draws it: called by `tell` or `saved`, so off the training's path."""
        self._events.append(
            {"figure": name, "png": png, "step": step, "time_ms": _now_ms() if time_ms is None else time_ms}
        )

    def __len__(self) -> int:
        return len(self._events)

    def saved(self, count: int) -> list[dict[str, Any]]:
        """The first `count` events, as a state file holds them."""
        for event in self._events[:count]:
            if callable(event.get("png")):
                event["png"] = event["png"]()
        return self._events[:count]

    def restore(self, events: list[dict[str, Any]]) -> None:
        """Begin with events of an earlier process; they are told again."""
        self._events = list(events)
        self._told = 0

    def tell(self, count: int | None = None) -> None:
        """Tell the tracker of the first `count` events, or of all."""
        for event in self.saved(len(self) if count is None else count)[self._told :]:
            if "figure" in event:
                self._tracker.log_figure(event["figure"], event["png"], event["step"], time_ms=event["time_ms"])
            else:
                self._tracker.log_metrics(event["metrics"], event["step"], time_ms=event["time_ms"])
            self._told += 1


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
