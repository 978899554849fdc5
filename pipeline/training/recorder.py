"""Keeps what a training has reached: its state, its files, and what the tracker is told, in that order."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from torch import Tensor

from pipeline.errors import Diverged, SignalsNoted, Terminated, signals_postponed
from pipeline.training.history import Epoch
from pipeline.training.journal import Journal
from pipeline.training.resume import StateFolder

INTERVAL_S = 5.0
LARGEST_SHARE = 0.01
"""of the time goes into saving: where a disk is slow it is done less often"""


@dataclass(frozen=True)
class Reached:
    """What is worth keeping of a training so far. Weights are those to use: averaged ones under EMA."""

    history: list[Epoch]
    best: dict[str, Tensor]
    best_epoch: int
    last: dict[str, Tensor]


class Resumable(Protocol):
    """A training, as far as it can be left and gone on with."""

    def state_dict(self) -> dict[str, Any]:
        """Shares no tensor with the training. Raises `Diverged` if it is not worth going on from."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    @property
    def reached(self) -> Reached | None:
        """None before the first epoch's end."""


class Recorder:
    """A context manager around a training, which asks it at every step whether it is time to `record`.

    A thread does the writing. Ctrl-C and SIGTERM are noted, for the training to end at a step's end, and its state
    is saved then. After any other end the last saved one stays, unless the training is done or has diverged.
    """

    def __init__(
        self,
        journal: Journal,
        write: Callable[[Reached], None],
        folder: StateFolder | None = None,
        saved: dict[str, Any] | None = None,
        **facts: Any,
    ) -> None:
        """write: writes the training's files. folder: where states are kept, None for nowhere. saved: what it held.

        facts: kept beside the state, for who reads it next.
        """
        self._journal = journal
        self._write = write
        self._folder = folder
        self._saved = saved
        self._facts = facts
        self._training: Resumable | None = None
        self._signals = SignalsNoted()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self._writing: Future[None] | None = None
        self._next = time.monotonic() + INTERVAL_S
        self._took_s = 0.0

    def attach(self, training: Resumable) -> None:
        """Bring the training to where the saved state is, and the journal with it."""
        self._training = training
        if self._saved is not None:
            training.load_state_dict(self._saved["training"])
            self._journal.restore(self._saved["journal"])
            self._saved = None
            self._next = time.monotonic()  # the files of the earlier process may be gone

    @property
    def signal(self) -> int:
        """Number of the signal that asks this process to end; 0 for none."""
        return self._signals.number

    def due(self) -> bool:
        """Whether to `record` now. Raises what the writing before has failed with."""
        if self._writing is not None:
            if not self._writing.done():
                return False
            writing, self._writing = self._writing, None
            writing.result()
            self._next = time.monotonic() + max(INTERVAL_S, self._took_s / LARGEST_SHARE)
        return time.monotonic() >= self._next

    def record(self) -> None:
        """Keep the present state; the writing is done beside the training."""
        assert self._training is not None
        self._writing = self._worker.submit(self._keep, self._content(), self._training.reached, len(self._journal))

    def __enter__(self) -> Self:
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with signals_postponed():
                self._worker.shutdown()  # waits for the writing
                if kind is None and self._writing is not None:
                    self._writing.result()
                self._end(error)
        finally:
            self._signals.__exit__()
            self._training = None  # who still has this recorder shall not hold a GPU's memory by it

    def _end(self, error: BaseException | None) -> None:
        if self._training is None:
            return
        if error is None or isinstance(error, Diverged):
            # The state of a training that is done is for an end that comes before the tracker has sent everything.
            content = self._content() if error is None else None
            self._keep(content, self._training.reached, len(self._journal))
            if self._folder is not None:
                self._folder.is_needless = error is None
        elif isinstance(error, (KeyboardInterrupt, Terminated)):
            try:
                self._keep(self._content(), self._training.reached, len(self._journal))
            except (OSError, Diverged) as failure:
                print(f"warning: the training's state could not be saved: {failure}", file=sys.stderr)
        else:
            # The error at hand is the one to tell, also if it was this writing that has failed before.
            with contextlib.suppress(OSError):
                self._keep(None, self._training.reached, 0)

    def _content(self) -> dict[str, Any] | None:
        if self._folder is None:
            return None
        assert self._training is not None
        return self._facts | {"training": self._training.state_dict()}

    def _keep(self, content: dict[str, Any] | None, reached: Reached | None, events: int) -> None:
        started = time.monotonic()
        if content is not None and self._folder is not None:
            self._folder.save(content | {"journal": self._journal.saved(events)})
        if reached is not None:
            self._write(reached)
        self._journal.tell(events)
        self._took_s = time.monotonic() - started
