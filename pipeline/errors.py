"""Errors that are meant for a person: what is wrong, where, what to do, in one line."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterator


class PipelineError(Exception):
    """Something the user can mend. Its text is one line that names the key, file or frame."""


@contextlib.contextmanager
def reported_to_user(command: str) -> Iterator[None]:
    """Turn an expected failure into one line on stderr and a non-zero exit status.

    Expected are `PipelineError`, an operating-system refusal (disk full, no permission) and Ctrl-C.
    Anything else is a defect of the program and keeps its traceback.
    """
    try:
        yield
    except PipelineError as error:
        _leave(f"{command}: {error}", 1)
    except KeyboardInterrupt:
        _leave(f"{command}: interrupted", 130)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        hint = "; free some space and start again" if error.errno == errno.ENOSPC else ""
        _leave(f"{command}: {error.strerror or error}{where}{hint}", 1)


def _leave(line: str, status: int) -> None:
    print(f"error: {' '.join(line.split())}", file=sys.stderr)
    raise SystemExit(status)
