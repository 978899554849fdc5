"""An exported file against the network that it was made from."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.errors import PipelineError
from pipeline.export.formats import Run
from pipeline.export.graph import MIN_DEPTH_M
from pipeline.progress import progress_bar

TOLERANCE_M = 1e-4
CHECKED = ((1, 32, 32), (2, 33, 47), (3, 120, 160), (2, 240, 320), (1, 481, 641))
"""Numbers, heights and widths of images: the smallest, odd ones, and whole frames of NYU with a row and a column
more."""


def largest_difference(run: Run, network: nn.Module, max_depth_m: float) -> float:
    """Metres, over images of noise in several sizes and numbers.

    Raises `PipelineError`, which names the size, if it is more than `TOLERANCE_M` or the file does not take it.
    """
    largest = 0.0
    generator = torch.Generator().manual_seed(0)
    with progress_bar(len(CHECKED), "check", "size") as progress, torch.no_grad():
        for count, height, width in CHECKED:
            # Half of it constant within 8 x 8 pixels, as noise alone has nothing that the deep levels see.
            coarse = torch.rand(count, 3, height // 8 + 1, width // 8 + 1, generator=generator)
            blocks = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)[..., :height, :width]
            rgb = (blocks + torch.rand(blocks.shape, generator=generator)) / 2
            what = f"for {count} of {height} x {width}"
            try:
                found_m = torch.from_numpy(run(rgb.numpy()))
            except Exception as error:  # each runtime has its own
                reason = " ".join(str(error).split())[:300]
                raise PipelineError(f"the exported file fails {what}, so it is not kept: {reason}") from error
            expected_m = network(rgb).clamp(MIN_DEPTH_M, max_depth_m)
            if found_m.shape != expected_m.shape:
                raise PipelineError(
                    f"the exported file returns {tuple(found_m.shape)} {what}, so it is not kept; expected was "
                    f"{tuple(expected_m.shape)}"
                )
            difference_m = float((found_m - expected_m).abs().max())
            if not difference_m <= TOLERANCE_M:  # NaN is no difference either
                raise PipelineError(
                    f"the exported file is {difference_m:.2g} m from the network {what}, so it is not kept; "
                    f"{TOLERANCE_M:g} m is allowed"
                )
            largest = max(largest, difference_m)
            progress.update()
    return largest
