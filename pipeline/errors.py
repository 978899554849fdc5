"""Errors that are meant for a person: what is wrong, where, what to do, in one line."""

from __future__ import annotations

import contextlib
import errno
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, Self


class PipelineError(Exception):
    """Something the user can mend. Its text is one line that names the key, file or frame."""


class Diverged(PipelineError):
    """Loss or weights of a training are no finite numbers any more, so there is nothing to go on from."""


class Terminated(BaseException):
    """A signal asks this process to end. Like Ctrl-C it unwinds what is open, so that nothing is left half-done."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def reported_to_user(command: str) -> Iterator[None]:
    """Turn an expected failure into one line on stderr and a non-zero exit status.

    Expected are `PipelineError`, an operating-system refusal (disk full, no permission), Ctrl-C, a polite kill
    and a closed terminal. Anything else is a defect of the program and keeps its traceback.
    """
    before = {number: signal.signal(number, _terminate) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except PipelineError as error:
        _leave(f"{command}: {error}", 1)
    except KeyboardInterrupt:
        _leave(f"{command}: interrupted", 130)
    except Terminated as error:
        _leave(f"{command}: ended by {error}", 128 + error.number)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        hint = "; free some space and start again" if error.errno == errno.ENOSPC else ""
        _leave(f"{command}: {error.strerror or error}{where}{hint}", 1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_postponed() -> Iterator[None]:
    """Ctrl-C and polite kills wait until the block is done, half of which would leave what nobody knows of."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted
        return
    came: list[int] = []
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in ends}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for late in came:
        signal.raise_signal(late)


class SignalsNoted:
    """Ctrl-C and polite kills are noted inside the block, for work that looks at `number` where it can leave."""

    def __init__(self) -> None:
        self.number = 0
        """of the first signal that came; 0 for none"""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        self.number = self.number or number


def ending_of(number: int) -> BaseException:
    """What a signal raises in work that is not prepared for it."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


def _terminate(number: int, _frame: object) -> None:
    # Once is enough: process groups and impatient parents send it again while things are closed.
    signal.signal(number, signal.SIG_IGN)
    raise Terminated(number)


def _leave(line: str, status: int) -> None:
    print(f"error: {' '.join(line.split())}", file=sys.stderr)
    raise SystemExit(status)
