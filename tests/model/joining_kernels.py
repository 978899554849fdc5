"""What the kernels of joining make of cases: `python -m tests.model.joining_kernels CASES RESULTS`.

They run on the GPU, and where there is none in Triton's interpreter: see `tests.model.kernels`.
"""

from __future__ import annotations

import os
import sys

import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def results_of(coarse: Tensor, fine: Tensor, of_joined: Tensor, block: int) -> tuple[Tensor, ...]:
    """The joined map, and its gradients by both."""
    from pipeline.model import joining_triton

    joining_triton.BLOCK = block
    leaves = [
        maps.to(DEVICE).contiguous(memory_format=torch.channels_last).requires_grad_() for maps in (coarse, fine)
    ]
    joined = joining_triton.Join.apply(*leaves)
    assert joined.is_contiguous(memory_format=torch.channels_last)
    gradients = torch.autograd.grad(joined, leaves, of_joined.to(DEVICE))
    return tuple(each.detach().cpu() for each in (joined, *gradients))


if __name__ == "__main__":
    if DEVICE == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    torch.save([results_of(*case) for case in torch.load(sys.argv[1])], sys.argv[2])
