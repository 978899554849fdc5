from __future__ import annotations

import itertools
import sys

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.model import joining
from pipeline.model.joining import enlarge_beside
from tests.model.kernels import DEVICE, made_by_kernels, needs_triton

SIZES = [
    ((8, 10), (15, 20)),
    ((3, 4), (6, 8)),
    ((1, 1), (2, 3)),
    ((5, 3), (5, 3)),
    ((3, 3), (10, 8)),
    ((7, 9), (4, 5)),
]
KINDS = [
    *itertools.product(SIZES, [6], [torch.float32]),
    *itertools.product(SIZES[:1], [4, 16, 48], [torch.bfloat16]),
]
Case = tuple[Tensor, Tensor, Tensor, int]


def made(number: int) -> Case:
    """Coarse and fine maps, the gradient of what is made of them, and the size of the kernels' blocks."""
    (coarse, fine), channels, dtype = KINDS[number]
    generator = torch.Generator().manual_seed(number)

    def maps(channels: int, size: tuple[int, int]) -> Tensor:
        return torch.randn(2, channels, *size, generator=generator).to(dtype)

    return maps(channels, coarse), maps(channels, fine), maps(2 * channels, fine), (4096, 1024)[number % 2]


def expected(coarse: Tensor, fine: Tensor, of_joined: Tensor) -> list[Tensor]:
    """By PyTorch in float64."""
    leaves = [maps.double().requires_grad_() for maps in (coarse, fine)]
    enlarged = interpolate(leaves[0], fine.shape[-2:], mode="bilinear", align_corners=False)
    joined = torch.cat([enlarged, leaves[1]], dim=1)
    return [joined.detach(), *torch.autograd.grad(joined, leaves, of_joined.double())]


def test_features_are_enlarged_and_joined() -> None:
    coarse, fine, of_joined, _ = made(0)
    leaves = [maps.requires_grad_() for maps in (coarse, fine)]
    joined = enlarge_beside(*leaves)
    found = [joined.detach(), *torch.autograd.grad(joined, leaves, of_joined)]
    for mine, exact in zip(found, expected(coarse.detach(), fine.detach(), of_joined), strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=1e-5, atol=1e-5)


def test_under_autocast_the_type_of_the_features_stays() -> None:
    maps = torch.ones(1, 2, 3, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert enlarge_beside(maps, torch.ones(1, 2, 6, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_where_the_kernels_do_not_run_the_decoder_says_so_and_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "pipeline.model.joining_triton", raising=False)
    monkeypatch.delattr("pipeline.model.joining_triton", raising=False)
    with pytest.warns(UserWarning, match="without its Triton kernels.*triton"):
        assert joining._triton_function.__wrapped__(torch.device("cpu"), torch.float32) is None


def of_kernels(coarse: Tensor, fine: Tensor, of_joined: Tensor, block: int) -> tuple[Tensor, ...]:
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


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Tensor, ...]]:
    return made_by_kernels(of_kernels, map(made, range(len(KINDS))), tmp_path_factory)


@needs_triton
@pytest.mark.parametrize("number", range(len(KINDS)))
def test_the_kernels_do_what_pytorch_does(results: list[tuple[Tensor, ...]], number: int) -> None:
    coarse, fine, of_joined, _ = made(number)
    tolerance = 1e-5 if fine.dtype == torch.float32 else 0.01
    for mine, exact in zip(results[number], expected(coarse, fine, of_joined), strict=True):
        assert mine.dtype == fine.dtype
        torch.testing.assert_close(mine.double(), exact, rtol=tolerance, atol=tolerance)
