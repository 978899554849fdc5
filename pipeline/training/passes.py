"""The passes through a network, forwards and back, on one GPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.model.network import FilledConv2d
from pipeline.training.device import predict


class GpuPasses:
    """Does what `predict` and `backward` do, with fewer kernels, and more of them at a time.

    In bfloat16 the convolutions get copies of their weights which are cast by one kernel all together, and so are
    their gradients. Autocast alone does it by one for each weight and one for each gradient.
    """

    def __init__(self, network: nn.Module, bf16: bool) -> None:
        self._network, self._bf16 = network, bf16
        self._weights = dict(network.named_parameters())
        self._copies = _bf16_copies(network) if bf16 else {}
        self._gradients = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        self._stream = torch.cuda.Stream(next(network.parameters()).device)

    def predict(self, rgb: Tensor) -> Tensor:
        """(N, 1, H, W) metres, float32."""
        with torch.no_grad():
            _copy(self._weights, self._copies)
        return predict(lambda rgb: functional_call(self._network, self._copies, (rgb,)), rgb, self._bf16)

    def backward(self, loss: Tensor) -> None:
        """Leave the gradients with the network's weights."""
        leaves = self._weights | self._copies
        with WeightGradientsBeside(self._stream, leaves.values()):
            # Not `backward`: it may copy a gradient before the streams have met.
            found = torch.autograd.grad(loss, list(leaves.values()))
        # Fused optimizers take a gradient to lie in memory as its weight does, which is not said of those found.
        _copy(dict(zip(leaves, found, strict=True)), self._gradients)
        for name, weight in self._weights.items():
            weight.grad = self._gradients[name]


def _bf16_copies(network: nn.Module) -> dict[str, Tensor]:
    """Of the convolutions' weights and biases, filled up where the layer would do it, by their names."""
    return {
        f"{place}.{name}": (layer.fill(weight) if isinstance(layer, FilledConv2d) else weight)
        .detach()
        .to(torch.bfloat16, copy=True)
        .requires_grad_()
        for place, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d)
        for name, weight in layer.named_parameters(recurse=False)
    }


def _copy(sources: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """To each target what of its source fits in, by one kernel for all of the same types and shape."""
    alike: dict[tuple[torch.dtype, torch.dtype], list[tuple[Tensor, Tensor]]] = {}
    for name, target in targets.items():
        target, source = target.detach(), sources[name].detach()
        if target.shape == source.shape:
            alike.setdefault((target.dtype, source.dtype), []).append((target, source))
        else:
            common = tuple(slice(min(sides)) for sides in zip(target.shape, source.shape, strict=True))
            target[common].copy_(source[common])
    for pairs in alike.values():
        torch._foreach_copy_([target for target, _ in pairs], [source for _, source in pairs])


class WeightGradientsBeside(TorchDispatchMode):
    """Convolutions make the gradients of their weights on a stream beside the one that leads back to the input.

    Nothing further back waits for them, and neither kind of kernel fills a GPU: in a network of this size they are
    a quarter of the time of both passes. The streams meet at the block's end; until then nobody may read these
    gradients. So it is done for `leaves` only, and each may be the weight of one convolution: a gradient by a
    weight that was computed is needed to go on from there, and those of a weight that is used twice are added up.
    """

    def __init__(self, stream: torch.cuda.Stream, leaves: Iterable[Tensor]) -> None:
        super().__init__()
        self._stream = stream
        self._leaves = {leaf.data_ptr() for leaf in leaves}
        self._used: list[Tensor] = []
        """by the stream; their memory must not be given to others before it is done"""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.ops.aten.convolution_backward.default or args[2].data_ptr() not in self._leaves:
            return func(*args, **(kwargs or {}))
        *inputs, (of_input, of_weight, of_bias) = args
        _, by_weight, by_bias = self.beside(func, *inputs, (False, of_weight, of_bias))
        self._used += inputs[:3]
        by_input = func(*inputs, (True, False, False))[0] if of_input else None
        return by_input, by_weight, by_bias

    def beside(self, func: Any, *args: Any) -> Any:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            return func(*args)

    def meet(self) -> None:
        torch.cuda.current_stream().wait_stream(self._stream)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.meet()
        self._used.clear()
