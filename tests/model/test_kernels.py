from __future__ import annotations

import importlib
import itertools
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.model.kernels import Function, kernels_at_hand, run_both_ways
from tests.model.kernels import DEVICE, made_by_kernels, needs_triton


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, number: Tensor, calls: list[str]) -> Tensor:
        ctx.calls = calls
        calls.append("forward")
        return 2 * number

    @staticmethod
    def backward(ctx: Any, of_output: Tensor) -> tuple[Tensor, None]:
        ctx.calls.append("backward")
        return 2 * of_output, None


class DoesNotCompile(Doubled):
    @staticmethod
    def backward(ctx: Any, of_output: Tensor) -> tuple[Tensor, None]:
        raise RuntimeError("PassManager::run failed\nand much more")


@pytest.mark.parametrize("around", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("bf16", [False, True])
def test_kernels_run_forward_and_backward_once_for_each_device(around: Any, bf16: bool) -> None:
    calls: list[str] = []

    @kernels_at_hand("the test")
    def function(device: torch.device) -> Function:
        run_both_ways(Doubled, torch.ones(3, device=device, requires_grad=True), calls)
        return Doubled

    with around(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        for _ in range(2):
            assert function(torch.device("cpu")) is Doubled
            assert calls == ["forward", "backward"]
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
        assert function(torch.device("cpu", 0)) is Doubled
        assert calls == 2 * ["forward", "backward"]


def test_where_only_the_gradients_do_not_compile_it_is_said_once_and_done_without() -> None:
    @kernels_at_hand("the test")
    def function() -> Function:
        run_both_ways(DoesNotCompile, torch.ones(3, requires_grad=True), [])
        return DoesNotCompile

    with torch.no_grad(), pytest.warns(UserWarning, match=r"the test does without .*: PassManager::run failed$"):
        assert function() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert function() is None


KERNELS = {
    "losses": ["_value_kernel", "_gradient_kernel"],
    "normalisation": ["_sums_kernel", "_output_kernel", "_gradient_sums_kernel", "_gradient_kernel"],
    "joining": ["_join_kernel", "_coarse_gradient_kernel"],
}
PASSES = {"training": torch.enable_grad, "validation": torch.inference_mode}
CASES = [
    (module, broken, during)
    for module, kernels in KERNELS.items()
    for broken, during in itertools.product([None, *kernels], PASSES)
]


class Broken:
    def __getitem__(self, grid: Any) -> Any:
        raise RuntimeError("does not compile")


def are_at_hand(module: str, broken: str | None, during: str) -> tuple[bool]:
    """Whether the module takes kernels, one of which may be broken, when it asks for them in a pass."""
    asks = importlib.import_module(f"pipeline.model.{module}")._triton_function.__wrapped__
    triton_module = importlib.import_module(f"pipeline.model.{module}_triton")
    types = () if module == "losses" else (torch.bfloat16,)
    with pytest.MonkeyPatch.context() as patch, PASSES[during](), torch.autocast(DEVICE, torch.bfloat16):
        if broken is not None:
            patch.setattr(triton_module, broken, Broken())
        return (asks(torch.device(DEVICE), *types) is not None,)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str | None, str], tuple[bool]]:
    return dict(zip(CASES, made_by_kernels(are_at_hand, CASES, tmp_path_factory), strict=True))


@needs_triton
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_kernel_that_does_not_run_is_noticed_at_once(
    case: tuple[str, str | None, str], found: dict[tuple[str, str | None, str], tuple[bool]]
) -> None:
    _, broken, _ = case
    assert found[case] == (broken is None,)
