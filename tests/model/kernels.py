"""What the Triton kernels make of cases in a file: `python -m tests.model.kernels CASES RESULTS`.

They run on the GPU, and where there is none in Triton's interpreter, which has to be asked for before Triton is
first imported: hence a process of its own.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Case(NamedTuple):
    prediction_m: Tensor
    target_m: Tensor
    valid: Tensor | None
    wanted: tuple[bool, bool]
    tile: tuple[int, int]
    """rows and columns"""


class Result(NamedTuple):
    squared_error: Tensor
    dissimilarity: Tensor
    counts: Tensor
    of_squared_error: list[Tensor]
    """gradients by those maps that were wanted"""
    of_dissimilarity: list[Tensor]
    of_both: list[Tensor]
    """of 3 times the first and -2 times the second"""


def results_of(case: Case) -> Result:
    from pipeline.model import losses_triton

    losses_triton.ROWS, losses_triton.COLUMNS = case.tile
    maps = [maps.to(DEVICE) for maps in case[:2]]
    valid = None if case.valid is None else case.valid.to(DEVICE)
    leaves = [one.requires_grad_() for one, want in zip(maps, case.wanted, strict=True) if want]
    *sums, counts = losses_triton.LossSums.apply(*maps, valid, 10.0, case.wanted)
    gradients: list[list[Tensor]] = [[], [], []]
    if leaves:
        for number, value in enumerate((*sums, 3 * sums[0] - 2 * sums[1])):
            gradients[number] = [one.cpu() for one in torch.autograd.grad(value, leaves, retain_graph=True)]
    return Result(*(value.detach().cpu() for value in (*sums, counts)), *gradients)


def main() -> None:
    cases: list[dict[str, Any]] = torch.load(sys.argv[1])
    torch.save([results_of(Case(**case))._asdict() for case in cases], sys.argv[2])


if __name__ == "__main__":
    if DEVICE == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    main()
