"""Numbers and values as a reader sees them: rounded, units kept beside them, a dash for what is absent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

EN_DASH = "–"
NBSP = "\N{NO-BREAK SPACE}"
"""Between a number and its unit, which no line break may part."""
LONGEST_VALUE = 28


def number(value: Any, digits: int = 3) -> str:
    """Fixed decimals, with a true minus sign; an en dash for what was not measured."""
    return f"{value:.{digits}f}".replace("-", "−") if is_number(value) else EN_DASH


def signed(value: Any, digits: int = 3) -> str:
    """A difference: its sign is always told, but for one that is 0 as written."""
    if not is_number(value):
        return EN_DASH
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text[1:] if float(text[1:]) == 0 else text


def percent(value: Any, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f}{NBSP}%" if is_number(value) else EN_DASH


def interval(bounds: Sequence[Any] | None, digits: int = 3) -> str:
    """Both ends of a confidence interval; empty if there is none."""
    if bounds is None or not all(is_number(bound) for bound in bounds):
        return ""
    low, high = bounds
    return f"{number(low, digits)}–{number(high, digits)}"


def count(value: Any) -> str:
    """A large count in thousands, millions or billions, three digits of it."""
    if not is_number(value):
        return EN_DASH
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 499 600 is 0.5 M beside the millions of other networks, rather than 500 k.
        if value >= size / 10:
            return f"{value / size:.3g}{NBSP}{letter}"
    return f"{value:g}"


def thousands(value: Any) -> str:
    """A whole number with its thousands parted."""
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}") if is_number(value) else EN_DASH


def shown_value(value: Any) -> str:
    """A parameter or a version as text."""
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return EN_DASH
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(shown_value(item) for item in value) or EN_DASH
    return str(value)


def short_value(value: Any) -> str:
    """A parameter as MLflow keeps it, cut to what a column can hold; an en dash where a run has none."""
    text = "" if value in (None, "None") or value != value else str(value)
    return shown_value(text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)
