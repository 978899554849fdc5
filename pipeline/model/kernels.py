"""Triton kernels, where they run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

Kernels = TypeVar("Kernels")


def kernels_at_hand(whose: str, attempt: Callable[[], Kernels]) -> Kernels | None:
    """What `attempt` returns once it has run kernels; None, after a warning, if they do not run here.

    They need the package, a C compiler and Python's headers. PyTorch's own operations do the same, only slower.
    """
    try:
        with torch.inference_mode(False), torch.no_grad():
            return attempt()
    except Exception as error:  # whatever a compiler or driver raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(f"{whose} does without its Triton kernels, which are faster: {reason}", stacklevel=4)
        return None
