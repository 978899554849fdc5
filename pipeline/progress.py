"""The progress bar of every long piece of work."""

from __future__ import annotations

import sys

from tqdm import tqdm


def progress_bar(
    total: int, description: str, unit: str, *, initial: int = 0, scaled: bool = False, hidden: bool = False
) -> tqdm:
    """A bar that moves smoothly on a terminal and leaves a line every ten seconds in a log file."""
    return tqdm(
        total=total,
        initial=initial,
        desc=description,
        unit=unit,
        unit_scale=scaled,
        unit_divisor=1024 if scaled else 1000,
        mininterval=0.1 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
        disable=hidden,
    )
