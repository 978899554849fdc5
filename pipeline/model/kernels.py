"""Triton kernels, where they run."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = type[torch.autograd.Function]


def kernels_at_hand(whose: str) -> Callable[[Callable[..., Function]], Callable[..., Function | None]]:
    """Decorates a function that runs kernels and returns what uses them: None, after a warning, if they do not run.

    They need the package, a C compiler and Python's headers. PyTorch's own operations do the same, only slower.
    The function is called once for the same arguments. It can make gradients even when that is in the middle of a
    pass without them.
    """

    def ask_once(attempt: Callable[..., Function]) -> Callable[..., Function | None]:
        @functools.cache
        @functools.wraps(attempt)
        def kernels(*arguments: Any) -> Function | None:
            try:
                with torch.inference_mode(False), torch.enable_grad():
                    return attempt(*arguments)
            except Exception as error:  # whatever a compiler or driver raises
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                warnings.warn(f"{whose} does without its Triton kernels, which are faster: {reason}", stacklevel=3)
                return None

        return kernels

    return ask_once


def run_both_ways(function: Function, *inputs: Any) -> None:
    """Forward, and backward to those inputs that require a gradient: a kernel is compiled when it first runs."""
    outputs = function.apply(*inputs)
    outputs = [each for each in ((outputs,) if isinstance(outputs, Tensor) else outputs) if each.requires_grad]
    leaves = [each for each in inputs if isinstance(each, Tensor) and each.requires_grad]
    torch.autograd.grad(outputs, leaves, [torch.ones_like(each) for each in outputs])
