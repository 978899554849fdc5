"""Which execution of the pipeline this process belongs to, and which processes are still alive."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

import psutil

_CLOCK_TOLERANCE_S = 2.0
"""A process's start is told in wall-clock time, which a time server may shift."""


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


def current_execution() -> Execution:
    """The execution that the environment and the ancestors of this process tell of.

    DVC runs all stages of an execution from one process of its own, in a queue one for each experiment. A stage
    that was started without DVC is an execution by itself.
    """
    experiment = os.environ.get("DVC_EXP_NAME") or None
    command = process_mark(_command())
    key = f"{command}:{experiment}" if experiment else command
    return Execution(key, experiment, os.environ.get("DVC_EXP_BASELINE_REV") or None, command)


def _command() -> psutil.Process:
    """The process that started this stage: the nearest ancestor which is not itself inside of a stage."""
    process = psutil.Process()
    if "DVC_STAGE" not in os.environ:
        return process
    for ancestor in process.parents():
        try:
            inside = "DVC_STAGE" in ancestor.environ()
        except psutil.Error:  # another user's process
            inside = False
        if not inside:
            return ancestor
    return process


def process_mark(process: psutil.Process | None = None) -> str:
    """Host, number and start of a process (this one without an argument), which no other process shares."""
    process = process or psutil.Process()
    return f"{platform.node()}:{process.pid}:{process.create_time():.2f}"


def has_ended(mark: str) -> bool:
    """Whether the process was one of this host and is gone. Of other hosts nothing can be told."""
    host, number, start = mark.rsplit(":", 2)
    if host != platform.node():
        return False
    try:
        return abs(psutil.Process(int(number)).create_time() - float(start)) > _CLOCK_TOLERANCE_S
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
