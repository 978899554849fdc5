"""The passes through a network, forwards and back, on one GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.training.device import predict


class GpuPasses:
    """Does what `predict` and `backward` do, with fewer kernels, and more of them at a time.

    In bfloat16 the convolutions get copies of their weights which are cast by one kernel all together, and so are
    their gradients. Autocast alone does it by one for each weight and one for each gradient, 7 % of a step.
    """

    def __init__(self, network: nn.Module, bf16: bool) -> None:
        self._network, self._bf16 = network, bf16
        self._weights = dict(network.named_parameters())
        converted = _names_in_convolutions(network) if bf16 else set()
        self._copies = {
            name: weight.detach().to(torch.bfloat16).requires_grad_()
            for name, weight in self._weights.items()
            if name in converted
        }
        self._copied: list[Tensor] = [self._weights[name] for name in self._copies]
        self._gradients = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        self._stream = torch.cuda.Stream(next(network.parameters()).device)

    def predict(self, rgb: Tensor) -> Tensor:
        """(N, 1, H, W) metres, float32."""
        if self._copies:
            with torch.no_grad():
                torch._foreach_copy_(list(self._copies.values()), self._copied)
        return predict(lambda rgb: functional_call(self._network, self._copies, (rgb,)), rgb, self._bf16)

    def backward(self, loss: Tensor) -> None:
        """Leave the gradients with the network's weights."""
        leaves = self._weights | self._copies
        with _WeightGradientsBeside(self._stream):
            # Not `backward`: it may copy a gradient before the streams have met.
            found = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        # Fused optimizers take a gradient to lie in memory as its weight does, which is not said of those found.
        for names in (self._copies.keys(), self._weights.keys() - self._copies.keys()):
            if names:
                torch._foreach_copy_([self._gradients[name] for name in names], [found[name] for name in names])
        for name, weight in self._weights.items():
            weight.grad = self._gradients[name]


def _names_in_convolutions(network: nn.Module) -> set[str]:
    return {
        f"{place}.{name}"
        for place, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d)
        for name, _ in layer.named_parameters(recurse=False)
    }


class _WeightGradientsBeside(TorchDispatchMode):
    """Convolutions make the gradients of their weights on a stream beside the one that leads back to the input.

    Nothing further back waits for them, and neither kind of kernel fills a GPU: in a network of this size they are
    a quarter of the time of both passes.
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        super().__init__()
        self._stream = stream
        self._used: list[Tensor] = []
        """by the stream; their memory must not be given to others before it is done"""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.ops.aten.convolution_backward.default:
            return func(*args, **(kwargs or {}))
        *inputs, (of_input, of_weight, of_bias) = args
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            _, by_weight, by_bias = func(*inputs, (False, of_weight, of_bias))
        self._used += inputs[:3]
        by_input = func(*inputs, (True, False, False))[0] if of_input else None
        return by_input, by_weight, by_bias

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.cuda.current_stream().wait_stream(self._stream)
        self._used.clear()
