"""Parameters as `dvc exp run -S` takes them in a shell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any


def changed_overrides(params: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """`-S key=value` for what differs from the defaults; both flat. Of what these do not name nothing is said."""
    return [
        f"-S {_shell(f'{key}={_yaml(value)}')}"
        for key, value in params.items()
        if defaults.get(key, value) != value
    ]


def _yaml(value: Any) -> str:
    """Without an exponent."""
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _shell(text: str) -> str:
    return text if re.fullmatch(r"[\w.=/:+-]+", text) else "'" + text.replace("'", "'\\''") + "'"
