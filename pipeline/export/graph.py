"""The network as one graph for images of any size: RGB in [0, 1] in, clipped metres out."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_shapes
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.model.network import MIN_SIDE

MIN_DEPTH_M = 1e-3
"""Nearest depth that a graph tells, as every protocol clips it."""


class DepthGraph(nn.Module):
    """A network in eval mode with its batch normalisation inside the convolutions.

    `forward(rgb)` takes what the network takes, (N, 3, H, W) float32 in [0, 1] at any H, W of at least 32, scales
    it inside, and returns (N, 1, H, W) metres from `MIN_DEPTH_M` to `max_depth_m`.
    """

    def __init__(self, network: nn.Module, max_depth_m: float) -> None:
        super().__init__()
        self.network = fold_normalisation(network)
        self.max_depth_m = max_depth_m

    def forward(self, rgb: Tensor) -> Tensor:
        depth_m: Tensor = self.network(rgb)
        return depth_m.clamp(MIN_DEPTH_M, self.max_depth_m)


def fold_normalisation(network: nn.Module) -> nn.Module:
    """A copy in eval mode whose convolutions do what the batch normalisation right behind them did."""
    folded = copy.deepcopy(network).eval()
    for module in folded.modules():
        if isinstance(module, nn.Sequential):
            for place, (convolution, norm) in enumerate(pairwise(list(module))):
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[place], module[place + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    return folded


def export_program(graph: nn.Module, example: Tensor, *, any_size: bool = True) -> ExportedProgram:
    """The graph of PyTorch's operations for any number of images, and for any size of them.

    Nothing in it tells where on this machine the code lay. `any_size` False keeps the example's height and width.
    """
    sizes = {2: Dim("H", min=MIN_SIDE), 3: Dim("W", min=MIN_SIDE)} if any_size else {}
    # Otherwise sizes that leave the deepest level one pixel would be refused: a side of one is not told apart.
    oblivious = symbolic_shapes.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with oblivious, torch.no_grad():
        program = torch.export.export(graph, (example,), dynamic_shapes=({0: Dim("N", min=1), **sizes},))
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program
