"""What a user sees when something goes wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import PipelineError, reported_to_user


def report(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int | str | None, str]:
    """(exit status, what stands on stderr) when a command ends with `error`."""
    with pytest.raises(SystemExit) as left, reported_to_user("fetch"):
        raise error
    captured = capsys.readouterr()
    assert captured.out == ""
    return left.value.code, captured.err


def test_a_mistake_of_the_user_is_one_line_and_status_one(capsys: pytest.CaptureFixture[str]) -> None:
    status, shown = report(PipelineError("params.yaml: seed must be at least 0"), capsys)
    assert (status, shown) == (1, "error: fetch: params.yaml: seed must be at least 0\n")


def test_a_message_of_several_lines_becomes_one(capsys: pytest.CaptureFixture[str]) -> None:
    _, shown = report(PipelineError("first\n  second\r\n\tthird\n"), capsys)
    assert shown == "error: fetch: first second third\n"


def test_ctrl_c_is_one_line_and_the_shell_s_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(KeyboardInterrupt(), capsys) == (130, "error: fetch: interrupted\n")


def test_a_refusal_of_the_system_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, reported_to_user("fetch"):
        (tmp_path / "none" / "file").write_text("")
    assert left.value.code == 1
    assert capsys.readouterr().err == f"error: fetch: No such file or directory ({tmp_path}/none/file)\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here to stand for a full disk")
def test_a_full_disk_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), reported_to_user("fetch"), open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123
        full.write(b"x")
    shown = capsys.readouterr().err
    assert shown == "error: fetch: No space left on device; free some space and start again\n"


def test_an_error_without_a_system_message_is_still_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(OSError("cannot synchronise"), capsys) == (1, "error: fetch: cannot synchronise\n")


def test_success_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with reported_to_user("fetch"):
        pass
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_a_defect_of_the_program_keeps_its_type() -> None:
    with pytest.raises(ZeroDivisionError), reported_to_user("fetch"):
        _ = 1 / 0


def test_an_exit_status_passes_through() -> None:
    with pytest.raises(SystemExit) as left, reported_to_user("fetch"):
        sys.exit(3)
    assert left.value.code == 3


def run(body: str) -> subprocess.Popen[str]:
    code = f"from pipeline.errors import *\nwith reported_to_user('fetch'):\n    {body}\n"
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True)


def test_a_process_ends_with_one_line_and_no_traceback() -> None:
    with run("raise PipelineError('seed is missing') from KeyError('seed')") as process:
        assert process.communicate(timeout=30) == ("", "error: fetch: seed is missing\n")
    assert process.returncode == 1


def test_an_interrupted_process_ends_with_one_line_and_no_traceback() -> None:
    with run("import time; print('ready', flush=True); time.sleep(30)") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[1] == "error: fetch: interrupted\n"
    assert process.returncode == 130
