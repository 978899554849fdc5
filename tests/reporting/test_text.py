"""Numbers as a reader sees them."""

from __future__ import annotations

import numpy as np

from pipeline.reporting import text


def test_what_is_no_number_is_an_en_dash() -> None:
    assert [text.number(value) for value in (None, float("nan"), float("inf"), "", True)] == ["–"] * 5
    assert text.interval([0.1, None]) == text.interval(None) == ""


def test_numbers_are_rounded_and_carry_a_true_minus_sign() -> None:
    assert text.number(0.5604) == "0.560"
    assert text.number(-1.25, 1) == "−1.2"
    assert text.number(np.float32(0.25)) == "0.250"
    assert [text.count(n).replace("\N{NO-BREAK SPACE}", " ") for n in (499_000, 3.1e8, 41_200_000, 0, 12)] == [
        "0.499 M",
        "0.31 G",
        "41.2 M",
        "0",
        "12",
    ]


def test_a_difference_always_shows_its_sign() -> None:
    assert [text.signed(value) for value in (0.0125, -0.5)] == ["+0.013", "−0.500"]
    assert [text.signed(value) for value in (0.0, -0.0001, 0.0001)] == ["0.000"] * 3, "there is no −0.000"


def test_both_ends_of_an_interval_are_told() -> None:
    assert text.interval([0.5204, 0.6125], 2) == "0.52–0.61"
