from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.model import losses
from pipeline.model.losses import DepthLoss, ssim
from tests.model.kernels import DEVICE, made_by_kernels, needs_gpu, needs_triton
from tests.model.test_losses import (
    blobs_missing,
    clean_windows,
    depth_maps,
    gradients_of,
    skimage_map,
    textbook_ssim,
)


class Case(NamedTuple):
    prediction_m: Tensor
    target_m: Tensor
    valid: Tensor | None
    wanted: tuple[bool, bool]
    tile: tuple[int, int]
    """rows and columns"""


class Result(NamedTuple):
    squared_error: Tensor
    dissimilarity: Tensor
    counts: Tensor
    of_squared_error: list[Tensor]
    """gradients by those maps that were wanted"""
    of_dissimilarity: list[Tensor]
    of_both: list[Tensor]
    """of 3 times the first and -2 times the second"""


SIZES = [(11, 11), (11, 40), (33, 12), (37, 53)]
NOISES_M = [0.03, 0.3, 2.0]
TILES = [(64, 64), (8, 32), (16, 16)]
CASES: dict[str, Case] = {}


def _case(
    name: str,
    *sizes: int,
    noise_m: float = 0.3,
    valid: Tensor | None = None,
    wanted: tuple[bool, bool] = (True, True),
    tile: tuple[int, int] = (64, 64),
) -> None:
    prediction_m, target_m = depth_maps(0, *sizes, noise_m=noise_m)
    CASES[name] = Case(prediction_m, target_m, valid, wanted, tile)


BLOBS = blobs_missing(torch.Size((2, 1, 37, 53)))
for height, width in SIZES:
    for noise_m in NOISES_M:
        _case(f"{height} x {width}, noise of {noise_m} m", 1, height, width, noise_m=noise_m)
for noise_m in NOISES_M:
    _case(f"masked, noise of {noise_m} m", 2, 37, 53, noise_m=noise_m, valid=BLOBS)
for tile in TILES:
    _case(f"tile of {tile}", 2, 23, 37, valid=blobs_missing(torch.Size((2, 1, 23, 37))), tile=tile)
for wanted in ((False, False), (True, False), (False, True), (True, True)):
    _case(f"wanted {wanted}", 1, 24, 31, valid=blobs_missing(torch.Size((1, 1, 24, 31)), seed=3), wanted=wanted)
_case("nothing missing", 1, 37, 53, valid=torch.ones(1, 1, 37, 53, dtype=torch.bool))
_case("all missing", 1, 37, 53, valid=torch.zeros(1, 1, 37, 53, dtype=torch.bool))
_corner = torch.ones(5, 1, 11, 11, dtype=torch.bool)
for frame, (y, x) in enumerate([(0, 0), (0, 10), (10, 0), (10, 10)]):
    _corner[frame, 0, y, x] = False
_case("one pixel missing", 5, 11, 11, valid=_corner)
GARBAGE = [float("nan"), float("inf"), -float("inf"), 1e30]
for garbage in GARBAGE:
    _case(f"{garbage} where missing", 2, 37, 53, valid=BLOBS)
    for maps in CASES[f"{garbage} where missing"][:2]:
        maps[~BLOBS] = garbage
_case("not finite where known", 1, 24, 31)
CASES["not finite where known"].prediction_m[0, 0, 12, 12] = float("nan")


def of_kernels(*fields: Any) -> Result:
    from pipeline.model import losses_triton

    case = Case(*fields)
    losses_triton.ROWS, losses_triton.COLUMNS = case.tile
    maps = [maps.to(DEVICE) for maps in case[:2]]
    valid = None if case.valid is None else case.valid.to(DEVICE)
    leaves = [one.requires_grad_() for one, want in zip(maps, case.wanted, strict=True) if want]
    *sums, counts = losses_triton.LossSums.apply(*maps, valid, 10.0, case.wanted)
    gradients: list[list[Tensor]] = [[], [], []]
    if leaves:
        for number, value in enumerate((*sums, 3 * sums[0] - 2 * sums[1])):
            gradients[number] = [one.cpu() for one in torch.autograd.grad(value, leaves, retain_graph=True)]
    return Result(*(value.detach().cpu() for value in (*sums, counts)), *gradients)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    found = made_by_kernels(of_kernels, CASES.values(), tmp_path_factory)
    return dict(zip(CASES, (Result(*one) for one in found), strict=True))


def clean_of(case: Case) -> np.ndarray:
    return clean_windows(torch.ones_like(case.target_m, dtype=torch.bool) if case.valid is None else case.valid)


FINITE = [name for name in CASES if "where" not in name]


@needs_triton
@pytest.mark.parametrize("name", FINITE)
def test_the_sums_are_those_of_scikit_image_and_numpy(name: str, results: dict[str, Result]) -> None:
    case, result = CASES[name], results[name]
    clean = clean_of(case)
    valid = np.ones(case.target_m.shape, bool) if case.valid is None else case.valid.numpy()
    dissimilarities = (1 - skimage_map(case.prediction_m, case.target_m)) / 2
    squares = (case.prediction_m.double().numpy() - case.target_m.double().numpy()) ** 2
    assert result.counts.tolist() == [valid.sum(), clean.sum()]
    assert float(result.dissimilarity) == pytest.approx(
        dissimilarities[clean].sum(), abs=5e-7 * max(1, clean.sum())
    )
    assert float(result.squared_error) == pytest.approx(squares[valid].sum(), rel=1e-6)


@needs_triton
@pytest.mark.parametrize("name", FINITE)
def test_gradients_are_those_of_float64_autograd(name: str, results: dict[str, Result]) -> None:
    case, result = CASES[name], results[name]
    windows = int(clean_of(case).sum())
    known = torch.tensor(1.0) if case.valid is None else case.valid.double()
    of_error = 2 * known * (case.prediction_m.double() - case.target_m.double())
    of_ssim = [torch.zeros_like(of_error)] * 2
    if windows:
        of_ssim = gradients_of(textbook_ssim, case.prediction_m, case.target_m, valid=case.valid)
    expected = [
        (sign * of_error, -windows / 2 * gradient)
        for sign, gradient, want in zip((1, -1), of_ssim, case.wanted, strict=True)
        if want
    ]
    found = zip(result.of_squared_error, result.of_dissimilarity, result.of_both, strict=True)
    for (error, dissimilarity, both), expect in zip(found, expected, strict=True):
        torch.testing.assert_close(error.double(), expect[0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(
            dissimilarity.double(), expect[1], rtol=0, atol=1e-5 * float(expect[1].abs().max())
        )
        torch.testing.assert_close(both, 3 * error - 2 * dissimilarity, rtol=1e-5, atol=1e-6)


@needs_triton
@pytest.mark.parametrize("garbage", GARBAGE)
def test_what_stands_in_missing_pixels_changes_nothing(garbage: float, results: dict[str, Result]) -> None:
    expected = results["masked, noise of 0.3 m"]
    torch.testing.assert_close(results[f"{garbage} where missing"], expected, rtol=0, atol=0)
    for gradients in expected[3:]:
        for gradient in gradients:
            assert (gradient[~BLOBS] == 0).all()


@needs_triton
@pytest.mark.parametrize("tile", TILES[1:])
def test_it_does_not_matter_how_much_is_worked_on_at_once(
    tile: tuple[int, int], results: dict[str, Result]
) -> None:
    whole = results[f"tile of {TILES[0]}"]
    torch.testing.assert_close(results[f"tile of {tile}"], whole, rtol=1e-6, atol=1e-6)


@needs_triton
def test_what_is_not_wanted_is_not_made(results: dict[str, Result]) -> None:
    both = results["wanted (True, True)"]
    for which, wanted in enumerate(((True, False), (False, True))):
        one = results[f"wanted {wanted}"]
        torch.testing.assert_close(one[:3], both[:3], rtol=1e-6, atol=0)
        for gradients, expected in zip(one[3:], both[3:], strict=True):
            torch.testing.assert_close(gradients, expected[which : which + 1], rtol=1e-5, atol=1e-7)
    assert results["wanted (False, False)"].of_both == []


@needs_triton
def test_a_prediction_that_is_not_finite_where_truth_is_known_shows(results: dict[str, Result]) -> None:
    result = results["not finite where known"]
    assert result.squared_error.isnan()
    assert result.dissimilarity.isnan()
    assert result.of_both[0].isnan().any()


def test_where_the_kernels_do_not_run_the_loss_says_so_and_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "pipeline.model.losses_triton", raising=False)
    monkeypatch.delattr("pipeline.model.losses_triton", raising=False)
    with pytest.warns(UserWarning, match="without its Triton kernels.*triton"):
        assert losses._triton_function.__wrapped__(torch.device("cpu")) is None


@needs_gpu
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("noise_m", NOISES_M)
def test_on_a_gpu_the_loss_is_that_of_the_cpu(noise_m: float, masked: bool) -> None:
    prediction_m, target_m = depth_maps(n=5, height=47, width=101, noise_m=noise_m)
    valid = blobs_missing(target_m.shape) if masked else None
    on_gpu = None if valid is None else valid.cuda()
    expected = gradients_of(textbook_ssim, prediction_m, target_m, valid=valid)
    for dtype, error in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        maps = [one.to("cuda", dtype) for one in (prediction_m, target_m)]
        values = DepthLoss(0.4)(*maps, on_gpu)
        on_cpu = DepthLoss(0.4)(prediction_m.double(), target_m.double(), valid)
        for name, value in values.items():
            assert float(value) == pytest.approx(float(on_cpu[name]), rel=error)
        for one, other in zip(gradients_of(ssim, *maps, valid=on_gpu), expected, strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=0, atol=error * float(other.abs().max()))


@needs_gpu
def test_on_a_gpu_a_captured_step_is_the_step() -> None:
    prediction_m, target_m = (maps.cuda() for maps in depth_maps(n=4))
    valid = blobs_missing(target_m.shape).cuda()
    prediction_m.requires_grad_()
    loss = DepthLoss(0.4)

    def step() -> tuple[Tensor, Tensor]:
        total = loss(prediction_m, target_m, valid)["total"]
        return total.detach(), torch.autograd.grad(total, prediction_m)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        prediction_m.add_(1)
        valid[0] = True
    graph.replay()
    torch.testing.assert_close(captured, step(), rtol=0, atol=0)
