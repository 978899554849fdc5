"""The tracker hears of an event when it is told to, once, and again only after a restart."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.training.journal import Journal


class Memory:
    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int, *, time_ms: int | None = None) -> None:
        self.heard.append((dict(metrics), step, time_ms))

    def log_figure(self, name: str, png: bytes, step: int, *, time_ms: int | None = None) -> None:
        self.heard.append((name, png, step, time_ms))


def test_events_are_told_in_order_and_once() -> None:
    memory = Memory()
    journal = Journal(memory)
    for step in range(3):
        journal.log_metrics({"loss": step}, step, time_ms=step)
    assert memory.heard == []
    journal.tell(2)
    journal.tell(2)
    assert memory.heard == [({"loss": 0}, 0, 0), ({"loss": 1}, 1, 1)]
    journal.tell()
    assert len(memory.heard) == 3


def test_an_event_has_the_time_at_which_it_happened() -> None:
    memory = Memory()
    journal = Journal(memory)
    journal.log_metrics({"loss": 1.0}, 1)
    saved = journal.saved(1)
    journal.tell()
    later = Memory()
    restored = Journal(later)
    restored.restore(saved)
    restored.tell()
    assert later.heard == memory.heard
    assert isinstance(memory.heard[0][2], int)


def test_a_picture_is_drawn_when_it_is_needed_and_once() -> None:
    memory = Memory()
    journal = Journal(memory)
    drawn: list[int] = []

    def draw() -> bytes:
        drawn.append(1)
        return b"png"

    journal.log_figure("predictions", draw, 4, time_ms=7)
    assert drawn == []
    assert journal.saved(1)[0]["png"] == b"png"
    journal.tell()
    assert memory.heard == [("predictions", b"png", 4, 7)]
    assert drawn == [1]
