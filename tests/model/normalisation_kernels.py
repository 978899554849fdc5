"""What the kernels of normalisation make of cases: `python -m tests.model.normalisation_kernels CASES RESULTS`.

They run on the GPU, and where there is none in Triton's interpreter: see `tests.model.kernels`.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Case(NamedTuple):
    features: Tensor
    weight: Tensor
    bias: Tensor
    residual: Tensor | None
    relu: bool
    of_output: Tensor
    momentum: float
    programs: int
    block_bytes: int


class Result(NamedTuple):
    output: Tensor
    of_features: Tensor
    of_weight: Tensor
    of_bias: Tensor
    of_residual: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    batches: Tensor


def layer_of(case: Case, device: str = "cpu") -> nn.BatchNorm2d:
    """The layer as it is before: neither its numbers nor its statistics are those of a new one."""
    norm = nn.BatchNorm2d(len(case.weight), momentum=case.momentum)
    with torch.no_grad():
        norm.weight.copy_(case.weight)
        norm.bias.copy_(case.bias)
        norm.running_mean.copy_(torch.linspace(-1, 1, len(case.weight)))
        norm.running_var.copy_(torch.linspace(0.5, 2, len(case.weight)))
        norm.num_batches_tracked.fill_(41)
    return norm.to(device)


def results_of(case: Case) -> Result:
    from pipeline.model import normalisation_triton

    normalisation_triton.PROGRAMS, normalisation_triton.BLOCK_BYTES = case.programs, case.block_bytes
    norm = layer_of(case, DEVICE)
    features = case.features.to(DEVICE).contiguous(memory_format=torch.channels_last).requires_grad_()
    leaves = [features, norm.weight, norm.bias]
    residual = None
    if case.residual is not None:
        residual = case.residual.to(DEVICE).requires_grad_()
        leaves.append(residual)
    output = normalisation_triton.NormAct.apply(features, norm.weight, norm.bias, residual, norm, case.relu)
    assert output.is_contiguous(memory_format=torch.channels_last)
    found = torch.autograd.grad(output, leaves, case.of_output.to(DEVICE))
    gradients = [each.cpu() for each in found] + [None] * (4 - len(found))
    statistics = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    return Result(output.detach().cpu(), *gradients, *(each.cpu() for each in statistics))


def main() -> None:
    cases: list[dict[str, Any]] = torch.load(sys.argv[1])
    torch.save([results_of(Case(**case))._asdict() for case in cases], sys.argv[2])


if __name__ == "__main__":
    if DEVICE == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    main()
