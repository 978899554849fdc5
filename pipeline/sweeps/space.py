"""What `depth sweep --trials` searches. The only place that says so; `--help` prints it from here.

Beside it, how names and overrides of a sweep are written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.errors import PipelineError


@dataclass(frozen=True)
class Range:
    """The values of one parameter, both ends included."""

    low: float
    high: float
    log: bool = False
    """whether equal factors, not equal differences, are equally likely"""
    step: int | None = None
    """the distance of whole numbers; None: any number between"""

    def __str__(self) -> str:
        how = f", whole numbers in steps of {self.step}" if self.step else ", logarithmic" if self.log else ""
        return f"{self.low:g} to {self.high:g}{how}"

    def text(self, value: float) -> str:
        """The value as it is given to an experiment, with four digits."""
        return str(int(value)) if self.step else f"{float(f'{value:.4g}')!r}"


Space = dict[str, Range]

SPACE: Space = {
    "loss.ssim_weight": Range(0.0, 1.0),
    # Around the default of 0.004.
    "train.learning_rate": Range(0.0003, 0.02, log=True),
    # 8 to 24 channels are 0.14 to 1.3 million parameters.
    "network.width": Range(8, 24, step=4),
}


def refuse_bad_name(name: str) -> None:
    """Experiments and runs bear the name of their sweep, and YAML must read it as text."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise PipelineError(f"the name {name!r} must begin with a letter and hold letters, digits, - and _ only")


def bare_key(override: str) -> str:
    """The parameter that an override is about: `loss.ssim_weight` of `+loss.ssim_weight=0.5`."""
    return override.partition("=")[0].rpartition(":")[2].lstrip("+~")
