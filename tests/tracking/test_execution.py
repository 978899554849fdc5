"""Which processes are alive, and what a stage belongs to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pipeline.tracking.execution import current_execution, has_ended, is_alive, process_mark


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        yield child
        child.kill()


def test_a_process_is_alive_until_it_ends_even_if_nobody_has_taken_note(child: subprocess.Popen[bytes]) -> None:
    mark = process_mark(child.pid)
    assert (is_alive(mark), has_ended(mark)) == (True, False)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert (is_alive(mark), has_ended(mark)) == (False, True), "it is a zombie"
    child.wait()
    assert (is_alive(mark), has_ended(mark)) == (False, True)


def test_another_process_with_the_same_number_is_another(child: subprocess.Popen[bytes]) -> None:
    host, number, _ = process_mark(child.pid).rsplit(":", 2)
    other = f"{host}:{number}:{process_mark(os.getpid()).rsplit(':', 1)[1]}"
    assert (is_alive(other), has_ended(other)) == (False, True)


@pytest.mark.parametrize("mark", ["elsewhere:1:00000000-1", "", "nonsense"])
def test_nothing_is_known_of_other_machines(mark: str) -> None:
    assert (is_alive(mark), has_ended(mark)) == (False, False)


def test_an_execution_is_the_process_that_starts_the_stages(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    alone = current_execution(child.pid)
    assert (alone.key, alone.experiment) == (process_mark(child.pid), None)
    monkeypatch.setenv("DVC_STAGE", "train")
    assert current_execution(child.pid).command == process_mark(os.getpid())
    monkeypatch.setenv("DVC_EXP_NAME", "one")
    assert current_execution(child.pid).key == f"{process_mark(os.getpid())}:one"
