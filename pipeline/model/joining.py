"""Features of two resolutions in one map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.model.kernels import kernels_at_hand, run_both_ways


def enlarge_beside(coarse: Tensor, fine: Tensor) -> Tensor:
    """(N, C, h, w) features enlarged bilinearly to the resolution of the (N, C, H, W) finer ones, and these behind.

    A GPU does it in one kernel, and the gradients in another.
    """
    if _is_known(coarse, fine):
        function = _triton_function(fine.device, fine.dtype)
        if function is not None:
            joined: Tensor = function.apply(coarse, fine)
            return joined
    if not torch.is_autocast_enabled(coarse.device.type):
        return _join(coarse, fine)  # an exported graph would have a graph of its own for the block below
    # Autocast would enlarge in float32, and so join and pass on maps of twice the size.
    with torch.autocast(coarse.device.type, enabled=False):
        return _join(coarse, fine)


def _join(coarse: Tensor, fine: Tensor) -> Tensor:
    enlarged = interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([enlarged, fine], dim=1)


def _is_known(coarse: Tensor, fine: Tensor) -> bool:
    """Whether the kernels know type and layout."""
    return (
        fine.is_cuda
        and fine.dtype in (torch.bfloat16, torch.float32)
        and coarse.dtype == fine.dtype
        and coarse.shape[:2] == fine.shape[:2]
        and fine.numel() > 0
        and all(maps.is_contiguous(memory_format=torch.channels_last) for maps in (coarse, fine))
        and not torch.compiler.is_compiling()
    )


@kernels_at_hand("the decoder")
def _triton_function(device: torch.device, dtype: torch.dtype) -> type[torch.autograd.Function]:
    from pipeline.model.joining_triton import Join

    coarse = torch.zeros(1, 16, 2, 2, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    fine = torch.zeros_like(coarse)
    run_both_ways(Join, coarse.requires_grad_(), fine.requires_grad_())
    return Join
