"""Which execution of the pipeline a stage belongs to, and which processes are still alive."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil

_ENDED = ("Z", "X")
"""States of a process that does nothing any more, although its parent has not taken note yet."""


@dataclass(frozen=True)
class Execution:
    """What one `dvc repro`, `dvc exp run` or worker of a queue executes: the stages of one experiment."""

    key: str
    """the same in all stages of the execution, and in no other"""
    experiment: str | None
    """the DVC experiment's name; None under a plain `dvc repro`"""
    baseline_rev: str | None
    """the commit that the DVC experiment starts from"""
    command: str
    """mark of the process that executes the stages"""


def current_execution(stage: int) -> Execution:
    """The execution that the environment and the ancestors of the stage's process tell of. stage: its number.

    DVC runs all stages of an execution from one process of its own, in a queue one for each experiment. A stage
    that was started without DVC is an execution by itself.
    """
    experiment = os.environ.get("DVC_EXP_NAME") or None
    command = process_mark(_command(stage))
    key = f"{command}:{experiment}" if experiment else command
    return Execution(key, experiment, os.environ.get("DVC_EXP_BASELINE_REV") or None, command)


def _command(stage: int) -> int:
    """The process that started the stage: the nearest ancestor which is not itself inside of a stage."""
    if "DVC_STAGE" not in os.environ:
        return stage
    try:
        ancestors = psutil.Process(stage).parents()
    except psutil.NoSuchProcess:  # killed meanwhile
        ancestors = []
    for ancestor in ancestors:
        try:
            inside = "DVC_STAGE" in ancestor.environ()
        except psutil.Error:  # another user's process
            inside = False
        if not inside:
            return int(ancestor.pid)
    return stage


def process_mark(process: int) -> str:
    """Host, number and start of a process, which no other process shares."""
    return f"{platform.node()}:{process}:{_start_of(process)}"


def has_ended(mark: str) -> bool:
    """Whether the process was one of this host and is gone. Of other hosts nothing can be told."""
    return _is_here(mark) and not is_alive(mark)


def is_alive(mark: str) -> bool:
    """Whether the process is one of this host and at work."""
    if not _is_here(mark):
        return False
    _, number, start = mark.rsplit(":", 2)
    return start != "" and _start_of(int(number)) == start


def _is_here(mark: str) -> bool:
    return mark.count(":") >= 2 and mark.rsplit(":", 2)[0] == platform.node()


def _start_of(process: int) -> str:
    """When a process began, empty if it has ended.

    On Linux by the clock that counts from the machine's start: a time server may shift the other.
    """
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except ProcessLookupError:
        return ""
    except FileNotFoundError:
        return "" if Path("/proc/self/stat").exists() else _start_by_the_clock(process)
    state, *rest = stat.rpartition(")")[2].split()
    return "" if state in _ENDED else f"{_boot()}-{rest[18]}"  # proc(5): the state is field 3, the start 22


@functools.cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")[:8]
    except OSError:  # some containers do not tell
        return ""


def _start_by_the_clock(process: int) -> str:
    try:
        return f"{psutil.Process(process).create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""
