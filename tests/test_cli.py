"""The command `depth`, as its user meets it."""

from __future__ import annotations

import pytest

from pipeline.cli import main


def failure(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    "command",
    [
        *([], ["predict"], ["demo"], ["export"], ["compare"], ["ui"]),
        *(["sync"], ["prune"], ["promote"], ["study"], ["sweep"]),
    ],
)
def test_each_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert failure(*command, "--help") == 0
    assert "usage: " + " ".join(["depth", *command]) in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["paint"], ["predict", "a.png"], ["predict", "--out", "d"]])
def test_a_command_that_is_not_complete_shows_its_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failure(*arguments) == 2
    assert "usage: depth" in capsys.readouterr().err
