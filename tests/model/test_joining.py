from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.model.joining import enlarge_beside

ROOT = Path(__file__).parents[2]
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


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Tensor, ...]]:
    folder = tmp_path_factory.mktemp("joining")
    torch.save([made(number) for number in range(len(KINDS))], folder / "cases")
    command = [sys.executable, "-m", "tests.model.joining_kernels", str(folder / "cases"), str(folder / "results")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[tuple[Tensor, ...]] = torch.load(folder / "results")
    return found


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed: see requirements-benchmark.lock"
)
@pytest.mark.parametrize("number", range(len(KINDS)))
def test_the_kernels_do_what_pytorch_does(results: list[tuple[Tensor, ...]], number: int) -> None:
    coarse, fine, of_joined, _ = made(number)
    tolerance = 1e-5 if fine.dtype == torch.float32 else 0.01
    for mine, exact in zip(results[number], expected(coarse, fine, of_joined), strict=True):
        assert mine.dtype == fine.dtype
        torch.testing.assert_close(mine.double(), exact, rtol=tolerance, atol=tolerance)
