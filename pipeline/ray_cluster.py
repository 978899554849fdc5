"""A connection to a running Ray cluster, for trials of a sweep and for shards."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Any

from pipeline.errors import PipelineError

CONNECT_S = 10.0


@contextlib.contextmanager
def connected(address: str, asked_by: str, **options: Any) -> Iterator[Any]:
    """The module `ray`, which speaks to the cluster at `address` in the block.

    address: of the cluster's head, `HOST:6379`, or `auto` on a machine of it. asked_by: the option or parameter
    that named it. options: for `ray.init`. Raises `PipelineError` if Ray is not installed or no cluster answers.
    """
    try:
        import ray
    except ImportError:
        raise PipelineError(
            f"{asked_by} needs Ray; install it with: pip install 'depth-pipeline[cluster]'"
        ) from None
    if ":" in address:
        _refuse_silence(address, asked_by)
    # Ray's own handler leaves with another status and without a word.
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=True, **options)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        reason = str(error).partition(".")[0]
        raise PipelineError(f"{asked_by}: no Ray cluster answers at {address}: {reason}") from error
    try:
        with contextlib.suppress(ValueError):  # only the main thread has handlers
            signal.signal(signal.SIGTERM, before)
        yield ray
    finally:
        ray.shutdown()


def _refuse_silence(address: str, asked_by: str) -> None:
    """Ray itself goes on asking for minutes where nobody answers."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PipelineError(f"{asked_by}: no Ray cluster answers at {address}: {reason}") from error
