from __future__ import annotations

import itertools
import sys
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from pipeline.model import normalisation
from pipeline.model.network import build_network
from pipeline.model.normalisation import norm_act
from pipeline.training.distributed import SharedBatchNorm2d
from tests.model.kernels import DEVICE, made_by_kernels, needs_gpu, needs_triton


class Case(NamedTuple):
    features: Tensor
    weight: Tensor
    bias: Tensor
    residual: Tensor | None
    relu: bool
    of_output: Tensor
    momentum: float
    programs: int
    block_bytes: int


class Result(NamedTuple):
    output: Tensor
    of_features: Tensor
    of_weight: Tensor
    of_bias: Tensor
    of_residual: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    batches: Tensor


SHAPES = [(2, 4, 5, 7), (1, 16, 2, 3), (2, 48, 9, 11), (3, 80, 8, 10), (2, 20, 6, 7), (2, 1, 4, 4), (4, 16, 33, 37)]
KINDS = list(itertools.product((torch.float32, torch.bfloat16), (True, False), (False, True)))
CUTS = [(128, 16384), (4, 1024), (1, 8192)]
CASES: dict[str, Case] = {}


def _case(
    name: str,
    *shape: int,
    dtype: torch.dtype = torch.float32,
    relu: bool = True,
    summed: bool = True,
    mean: float = 0.5,
    deviation: float = 2.0,
    momentum: float = 0.1,
    programs: int = 16,
    block_bytes: int = 2048,
) -> Case:
    generator = torch.Generator().manual_seed(len(CASES))
    features, residual, of_output = (torch.randn(shape, generator=generator) for _ in range(3))
    weight, bias = 1 + 0.3 * torch.randn(2, shape[1], generator=generator)
    features = mean + deviation * features
    CASES[name] = Case(
        features.to(dtype),
        weight,
        bias,
        residual.to(dtype) if summed else None,
        relu,
        of_output.to(dtype),
        momentum,
        programs,
        block_bytes,
    )
    return CASES[name]


for shape in SHAPES:
    for dtype, relu, summed in KINDS if shape == (2, 48, 9, 11) else [KINDS[0], KINDS[1], KINDS[5]]:
        _case(f"{shape} {dtype} relu {relu} summed {summed}", *shape, dtype=dtype, relu=relu, summed=summed)
for cut in CUTS:
    for summed in (False, True):
        _case(f"cut {cut} summed {summed}", 2, 48, 21, 23, summed=summed, programs=cut[0], block_bytes=cut[1])
_case("momentum of 1", 2, 16, 9, 5, momentum=1.0)
FINITE = list(CASES)
for summed in (False, True):
    _case(f"badly scaled, summed {summed}", 4, 16, 24, 32, mean=100.0, deviation=0.1, relu=False, summed=summed)
    case = _case(f"first pixel far off, summed {summed}", 4, 16, 24, 32, relu=False, summed=summed)
    case.features[0, :, 0, 0] = -100.0
SCALED = [name for name in CASES if name not in FINITE]
for summed in (False, True):
    _case(f"not finite, summed {summed}", 2, 16, 9, 5, summed=summed).features[1, 3, 4, 2] = float("nan")


def layer_of(case: Case, device: str = "cpu") -> nn.BatchNorm2d:
    """The layer as it is before: neither its numbers nor its statistics are those of a new one."""
    norm = nn.BatchNorm2d(len(case.weight), momentum=case.momentum)
    with torch.no_grad():
        norm.weight.copy_(case.weight)
        norm.bias.copy_(case.bias)
        norm.running_mean.copy_(torch.linspace(-1, 1, len(case.weight)))
        norm.running_var.copy_(torch.linspace(0.5, 2, len(case.weight)))
        norm.num_batches_tracked.fill_(41)
    return norm.to(device)


def of_kernels(*fields: Any) -> Result:
    from pipeline.model import normalisation_triton

    case = Case(*fields)
    normalisation_triton.PROGRAMS, normalisation_triton.BLOCK_BYTES = case.programs, case.block_bytes
    norm = layer_of(case, DEVICE)
    features = case.features.to(DEVICE).contiguous(memory_format=torch.channels_last).requires_grad_()
    leaves = [features, norm.weight, norm.bias]
    residual = None
    if case.residual is not None:
        residual = case.residual.to(DEVICE).requires_grad_()
        leaves.append(residual)
    output = normalisation_triton.NormAct.apply(features, norm.weight, norm.bias, residual, norm, case.relu)
    assert output.is_contiguous(memory_format=torch.channels_last)
    found = torch.autograd.grad(output, leaves, case.of_output.to(DEVICE))
    gradients = [each.cpu() for each in found] + [None] * (4 - len(found))
    statistics = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    return Result(output.detach().cpu(), *gradients, *(each.cpu() for each in statistics))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    found = made_by_kernels(of_kernels, CASES.values(), tmp_path_factory)
    return dict(zip(CASES, (Result(*one) for one in found), strict=True))


def textbook(case: Case) -> Result:
    """Ioffe & Szegedy 2015, algorithm 1, in float64; the gradients by autograd."""
    layer = layer_of(case)
    x, gamma, beta = (each.double().requires_grad_() for each in (case.features, case.weight, case.bias))
    leaves = [x, gamma, beta]
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    variance = (x - mean).square().mean(dim=(0, 2, 3), keepdim=True)
    output = (x - mean) / (variance + layer.eps).sqrt() * gamma[:, None, None] + beta[:, None, None]
    if case.residual is not None:
        leaves.append(case.residual.double().requires_grad_())
        output = output + leaves[-1]
    if case.relu:
        output = output.relu()
    gradients = [*torch.autograd.grad(output, leaves, case.of_output.double()), None][:4]
    pixels = x.numel() / x.shape[1]
    batch = mean.flatten().detach(), variance.flatten().detach() * pixels / (pixels - 1)
    running = [
        (1 - case.momentum) * before.double() + case.momentum * now
        for before, now in zip((layer.running_mean, layer.running_var), batch, strict=True)
    ]
    return Result(output.detach(), *gradients, *running, layer.num_batches_tracked + 1)


def assert_near(found: Result, expected: Result, dtype: torch.dtype, error: float) -> None:
    """Maps are also rounded to `dtype`, by Triton's interpreter towards 0; `error` is relative to the greatest."""
    for name in Result._fields:
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None), name
        if one is not None:
            rounding = 1.01 * torch.finfo(one.dtype).eps if one.dtype == torch.bfloat16 else 0.0
            assert one.dtype == (dtype if one.dim() == 4 else one.dtype)
            atol = error * max(1.0, float(other.abs().max()))
            off = (one.double() - other).abs() - rounding * other.abs()
            assert float(off.max()) <= atol, name


@needs_triton
@pytest.mark.parametrize("name", FINITE)
def test_outputs_gradients_and_statistics_are_those_of_the_formulas(name: str, results: dict[str, Result]) -> None:
    case = CASES[name]
    assert_near(results[name], textbook(case), case.features.dtype, 3e-6)


@needs_triton
@pytest.mark.parametrize("name", SCALED)
def test_a_mean_far_from_zero_or_from_the_first_pixel_costs_few_digits(
    name: str, results: dict[str, Result]
) -> None:
    # float32 holds the mean of 100 itself no better than to 4e-5 deviations of 0.1.
    assert_near(results[name], textbook(CASES[name]), torch.float32, 1e-4)


@needs_triton
@pytest.mark.parametrize("summed", [False, True])
def test_what_is_not_finite_shows_in_its_channel_and_in_no_other(summed: bool, results: dict[str, Result]) -> None:
    result = results[f"not finite, summed {summed}"]
    for maps in (result.output, result.of_features):
        lost = maps.isnan().transpose(0, 1).flatten(1)
        assert lost[3].all()
        assert not lost[[channel for channel in range(16) if channel != 3]].any()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, SharedBatchNorm2d])
def test_elsewhere_it_is_the_layers_of_pytorch(
    kind: type[nn.BatchNorm2d], summed: bool, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind is SharedBatchNorm2d:
        monkeypatch.setattr("torch.distributed.all_reduce", lambda *_: None)
    features, residual = torch.randn(2, 3, 6, 5, 4).requires_grad_()
    found = []
    for fused in (True, False):
        norm = kind(6).train(training)
        if fused:
            output = norm_act(features, norm, residual=residual if summed else None, relu=True)
        else:
            output = nn.ReLU()(residual + norm(features) if summed else norm(features))
        leaves = (features, norm.weight, *([residual] if summed else []))
        found.append((output, *torch.autograd.grad(output.square().sum(), leaves), *norm.buffers()))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_the_kernels_are_for_what_they_know(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu(Tensor):
        is_cuda = True

    def fusible(norm: nn.Module, *shape: int, dtype: torch.dtype = torch.float32, residual: Any = None) -> bool:
        features = torch.zeros(shape or (2, 6, 3, 3), dtype=dtype).contiguous(memory_format=torch.channels_last)
        return normalisation._is_fusible(features.as_subclass(OnGpu), norm, residual)

    assert fusible(nn.BatchNorm2d(6))
    assert fusible(nn.BatchNorm2d(6), dtype=torch.bfloat16)
    assert fusible(nn.BatchNorm2d(6), residual=torch.zeros(2, 6, 3, 3))
    assert not fusible(nn.BatchNorm2d(6), residual=torch.zeros(1, 6, 3, 3))
    assert not fusible(nn.BatchNorm2d(6), residual=torch.zeros(2, 6, 3, 3, dtype=torch.bfloat16))
    assert not fusible(nn.BatchNorm2d(6), dtype=torch.float64)
    assert not fusible(nn.BatchNorm2d(6), dtype=torch.float16)
    assert not fusible(nn.BatchNorm2d(6), 1, 6, 1, 1)
    assert not fusible(nn.BatchNorm2d(6).eval())
    assert not fusible(nn.BatchNorm2d(6, affine=False))
    assert not fusible(nn.BatchNorm2d(6, track_running_stats=False))
    assert not fusible(nn.BatchNorm2d(6, momentum=None))
    assert not fusible(nn.SyncBatchNorm(6))
    assert not fusible(SharedBatchNorm2d(6))
    assert not normalisation._is_fusible(torch.zeros(2, 6, 3, 3).as_subclass(OnGpu), nn.BatchNorm2d(6), None)
    assert not normalisation._is_fusible(torch.zeros(2, 6, 3, 3), nn.BatchNorm2d(6), None)


def test_where_the_kernels_do_not_run_normalisation_says_so_and_does_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "pipeline.model.normalisation_triton", raising=False)
    monkeypatch.delattr("pipeline.model.normalisation_triton", raising=False)
    with pytest.warns(UserWarning, match="without its Triton kernels.*triton"):
        assert normalisation._triton_function.__wrapped__(torch.device("cpu"), torch.float32) is None


def trained_once(network: nn.Module, rgb: Tensor, *, bf16: bool) -> tuple[Tensor, Tensor]:
    """All gradients, and all statistics."""
    with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
        depth_m = network(rgb.contiguous(memory_format=torch.channels_last))
    depth_m.square().mean().backward()
    gradients = [parameter.grad.flatten() for parameter in network.parameters()]
    statistics = [buffer.double().flatten() for buffer in network.buffers()]
    return torch.cat(gradients).double(), torch.cat(statistics)


@needs_gpu
def test_on_a_gpu_a_network_trains_as_with_the_layers_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    rgb = torch.rand(4, 3, 96, 128, device="cuda")
    kernels = normalisation._triton_function
    found = {}
    for fused, bf16 in itertools.product((True, False), repeat=2):
        monkeypatch.setattr(normalisation, "_triton_function", kernels if fused else lambda *_: None)
        torch.manual_seed(0)
        network = build_network("unet", width=16, max_depth_m=10.0).cuda().to(memory_format=torch.channels_last)
        found[fused, bf16] = trained_once(network, rgb, bf16=bf16)
    for number in range(2):
        exact = found[False, False][number]
        off = {how: float((each[number] - exact).norm() / exact.norm()) for how, each in found.items()}
        assert off[True, False] < 1e-3
        assert off[True, True] < 1.2 * off[False, True]


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_a_captured_layer_is_the_layer(dtype: torch.dtype) -> None:
    features, residual = (
        torch.randn(4, 48, 30, 40, device="cuda", dtype=dtype)
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
        for _ in range(2)
    )
    norm = nn.BatchNorm2d(48, device="cuda")

    def step() -> list[Tensor]:
        output = norm_act(features, norm, residual=residual, relu=True)
        leaves = (features, residual, norm.weight, norm.bias)
        return [output.detach(), *torch.autograd.grad(output.square().sum(), leaves)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        features.mul_(3).add_(1)
        norm.weight.mul_(0.5)
    before = int(norm.num_batches_tracked)
    graph.replay()
    assert int(norm.num_batches_tracked) == before + 1
    torch.testing.assert_close(captured, step(), rtol=0, atol=0)
