from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from pipeline.model import losses
from pipeline.model.losses import DepthLoss, ssim


def depth_maps(
    seed: int = 0, n: int = 2, height: int = 48, width: int = 64, noise_m: float = 0.3
) -> tuple[Tensor, Tensor]:
    """A smooth target in 0.5..9.5 m and a prediction that is off by noise, float32."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 1, 4, 5, generator=generator) * 9 + 0.5
    target_m = functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    noise = torch.randn(target_m.shape, generator=generator)
    return (target_m + noise_m * noise).clamp(min=0.1), target_m


def skimage_map(prediction_m: Tensor, target_m: Tensor, data_range: float = 10.0) -> np.ndarray:
    """(N, H - 10, W - 10) SSIM of every whole window, in float64."""
    full = [
        structural_similarity(
            p,
            t,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=data_range,
            full=True,
        )[1]
        for p, t in zip(prediction_m[:, 0].double().numpy(), target_m[:, 0].double().numpy(), strict=True)
    ]
    return np.stack(full)[:, 5:-5, 5:-5]


def textbook_ssim(prediction_m: Tensor, target_m: Tensor, valid: Tensor | None = None) -> Tensor:
    """The published formula in float64 under autograd, over clean windows; what is missing must be finite."""
    x, y = prediction_m.double(), target_m.double()
    weights = torch.exp(-((torch.arange(11.0, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = torch.outer(weights, weights)[None, None] / weights.sum() ** 2
    e_x, e_y, e_xx, e_yy, e_xy = (functional.conv2d(maps, window) for maps in (x, y, x * x, y * y, x * y))
    c1, c2 = 0.1**2, 0.3**2
    similarity = (
        (2 * e_x * e_y + c1)
        * (2 * (e_xy - e_x * e_y) + c2)
        / ((e_x**2 + e_y**2 + c1) * (e_xx - e_x**2 + e_yy - e_y**2 + c2))
    )
    return similarity.mean() if valid is None else similarity[:, 0][torch.from_numpy(clean_windows(valid))].mean()


def gradients_of(function: Callable[..., Tensor], *maps: Tensor, valid: Tensor | None = None) -> list[Tensor]:
    """By each of the maps, in float64."""
    leaves = [each.detach().clone().requires_grad_() for each in maps]
    return [gradient.double() for gradient in torch.autograd.grad(function(*leaves, valid=valid), leaves)]


def clean_windows(valid: Tensor) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(valid[:, 0].numpy(), (11, 11), axis=(1, 2))
    return windows.all(axis=(-2, -1))


def blobs_missing(shape: torch.Size, seed: int = 1) -> Tensor:
    coarse = torch.rand(shape[0], 1, 5, 6, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, shape[-2:], mode="bilinear") > 0.25


@pytest.mark.parametrize("noise_m", [0.01, 0.3, 2.0])
@pytest.mark.parametrize(("height", "width"), [(11, 11), (11, 40), (33, 12), (120, 160)])
def test_ssim_agrees_with_skimage(height: int, width: int, noise_m: float) -> None:
    prediction_m, target_m = depth_maps(height=height, width=width, noise_m=noise_m)
    expected = skimage_map(prediction_m, target_m).mean()
    assert float(ssim(prediction_m, target_m)) == pytest.approx(expected, abs=1e-6)
    assert float(ssim(prediction_m.double(), target_m.double())) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("data_range", [1.0, 10.0, 100.0])
def test_ssim_agrees_with_skimage_at_any_data_range(data_range: float) -> None:
    prediction_m, target_m = depth_maps()
    expected = skimage_map(prediction_m, target_m, data_range).mean()
    assert float(ssim(prediction_m, target_m, data_range=data_range)) == pytest.approx(expected, abs=2e-6)


def test_the_data_range_decides_the_value_and_is_ten_metres_unless_given() -> None:
    prediction_m, target_m = depth_maps()
    at_1, at_10, at_100 = (float(ssim(prediction_m, target_m, data_range=L)) for L in (1.0, 10.0, 100.0))
    assert at_1 < at_10 - 0.05
    assert at_10 < at_100 - 0.01
    assert float(ssim(prediction_m, target_m)) == at_10


def test_ssim_of_two_flat_maps_is_the_luminance_term() -> None:
    a, b, c1 = 2.0, 3.0, (0.01 * 10) ** 2
    value = ssim(torch.full((1, 1, 20, 30), a), torch.full((1, 1, 20, 30), b))
    assert float(value) == pytest.approx((2 * a * b + c1) / (a**2 + b**2 + c1), abs=1e-6)


def test_float32_keeps_faint_structure_far_away() -> None:
    """1 cm of structure at 9.9 m: without centring E[x²] - E[x]² of about 98 leaves errors above 1e-5."""
    generator = torch.Generator().manual_seed(3)
    target_m = 9.9 + 0.01 * torch.randn(2, 1, 64, 64, generator=generator)
    prediction_m = 9.9 + 0.01 * torch.randn(2, 1, 64, 64, generator=generator)
    expected = skimage_map(prediction_m, target_m, data_range=0.1).mean()
    assert float(ssim(prediction_m, target_m, data_range=0.1)) == pytest.approx(expected, abs=1e-5)


@given(
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1e-3, 1.0, 10.0, 1e4]),
    noise_m=st.floats(0, 100, width=32),
)
@settings(max_examples=40, deadline=None)
def test_ssim_stays_between_minus_one_and_one(seed: int, scale: float, noise_m: float) -> None:
    prediction_m, target_m = depth_maps(seed, noise_m=noise_m, height=16, width=20)
    assert -1 <= float(ssim(prediction_m * scale, target_m * scale)) <= 1


def test_rounding_cannot_push_flat_walls_out_of_the_range() -> None:
    """The true variance is 0, float32 leaves about ±1e-6 of it, and this data range makes C2 just 9e-8."""
    depths_m = torch.rand(60, 1, 1, 4, generator=torch.Generator().manual_seed(0)) * 9 + 0.5
    walls_m = depths_m.repeat_interleave(16, dim=3).repeat(1, 1, 12, 1)
    for wall_m in walls_m.split(1):
        assert -1 <= float(ssim(1.1 * wall_m, wall_m, data_range=0.01)) <= 1


def test_equal_maps_have_ssim_one_and_no_gradient() -> None:
    _, target_m = depth_maps()
    prediction_m = target_m.clone().requires_grad_()
    value = ssim(prediction_m, target_m)
    value.backward()
    assert value.item() == 1
    torch.testing.assert_close(prediction_m.grad, torch.zeros_like(target_m), atol=1e-9, rtol=0)


def test_ssim_does_not_depend_on_the_order_of_its_maps() -> None:
    prediction_m, target_m = depth_maps()
    assert float(ssim(prediction_m, target_m)) == pytest.approx(float(ssim(target_m, prediction_m)), abs=1e-7)


def test_missing_pixels_leave_the_mean_over_clean_windows() -> None:
    prediction_m, target_m = depth_maps(n=3)
    valid = blobs_missing(target_m.shape)
    clean = clean_windows(valid)
    assert 0.1 < clean.mean() < 0.7, "the mask must drop windows and leave some"
    expected = skimage_map(prediction_m, target_m)[clean].mean()
    value = ssim(prediction_m, torch.where(valid, target_m, 0), valid=valid)
    assert float(value) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("corner", [(0, 0), (0, 10), (10, 0), (10, 10), (5, 5)])
def test_one_missing_pixel_anywhere_makes_a_window_unclean(corner: tuple[int, int]) -> None:
    prediction_m, target_m = depth_maps(n=1, height=11, width=11)
    valid = torch.ones(1, 1, 11, 11, dtype=torch.bool)
    valid[0, 0, corner[0], corner[1]] = False
    assert float(ssim(prediction_m, target_m)) < 0.999
    assert float(ssim(prediction_m, target_m, valid=valid)) == 1


def test_a_call_under_no_grad_gives_the_same_value() -> None:
    prediction_m, target_m = depth_maps()
    prediction_m.requires_grad_()
    with torch.no_grad():
        value = ssim(prediction_m, target_m)
    assert not value.requires_grad
    assert value.item() == ssim(prediction_m, target_m).item()


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_what_stands_in_missing_pixels_changes_neither_value_nor_gradient(garbage: float) -> None:
    prediction_m, target_m = depth_maps()
    valid = blobs_missing(target_m.shape)
    results = []
    for filler in (0.0, garbage):
        prediction = torch.where(valid, prediction_m, filler).requires_grad_()
        losses = DepthLoss(0.5)(prediction, torch.where(valid, target_m, filler), valid)
        losses["total"].backward()
        results.append((losses["mse"], losses["ssim"], prediction.grad))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    gradient = results[1][2]
    assert gradient is not None
    assert (gradient[~valid] == 0).all()
    assert (gradient[valid] != 0).any()


def test_an_all_true_mask_is_no_mask() -> None:
    prediction_m, target_m = depth_maps()
    everywhere = torch.ones_like(target_m, dtype=torch.bool)
    masked, plain = (DepthLoss(0.4)(prediction_m, target_m, valid) for valid in (everywhere, None))
    torch.testing.assert_close(masked, plain)


def test_without_a_clean_window_ssim_is_one_and_has_no_gradient() -> None:
    prediction_m, target_m = depth_maps()
    prediction_m.requires_grad_()
    valid = torch.ones_like(target_m, dtype=torch.bool)
    valid[..., ::8, ::8] = False
    value = ssim(prediction_m, target_m, valid=valid)
    value.backward()
    assert value.item() == 1
    assert prediction_m.grad is not None
    assert (prediction_m.grad == 0).all()


def test_ssim_passes_gradcheck() -> None:
    prediction_m, target_m = (maps.double().requires_grad_() for maps in depth_maps(n=1, height=12, width=13))
    assert torch.autograd.gradcheck(ssim, (prediction_m, target_m))


@pytest.mark.parametrize("component", ["total", "mse", "ssim"])
def test_every_component_has_its_gradient_by_prediction_and_by_target(component: str) -> None:
    prediction_m, target_m = (maps.double().requires_grad_() for maps in depth_maps(n=2, height=12, width=14))
    valid = torch.ones_like(target_m, dtype=torch.bool)
    valid[0, 0, 0, 3] = valid[1, 0, :, 12:] = False
    loss = DepthLoss(0.7)
    for maps in ((prediction_m, target_m), (prediction_m, target_m.detach()), (prediction_m.detach(), target_m)):
        assert torch.autograd.gradcheck(lambda *maps: loss(*maps, valid)[component], maps, fast_mode=True)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("noise_m", [0.03, 0.3, 2.0])
@pytest.mark.parametrize(("height", "width"), [(60, 80), (47, 101)])
def test_float32_gradients_are_those_of_float64_autograd(
    noise_m: float, masked: bool, height: int, width: int
) -> None:
    prediction_m, target_m = depth_maps(n=5, height=height, width=width, noise_m=noise_m)
    valid = blobs_missing(target_m.shape) if masked else None
    expected = gradients_of(textbook_ssim, prediction_m, target_m, valid=valid)
    found = gradients_of(ssim, prediction_m, target_m, valid=valid)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("block", sorted(set(losses.BLOCK.values())))
@pytest.mark.parametrize("frames_at_once", [1, 2, 5])
def test_it_does_not_matter_how_much_is_worked_on_at_once(
    frames_at_once: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So what holds on a CPU holds on a GPU."""
    prediction_m, target_m = (maps.double() for maps in depth_maps(n=5, height=23, width=57))
    valid = blobs_missing(target_m.shape)
    monkeypatch.setattr(losses, "_frames_at_once", lambda maps: frames_at_once)
    monkeypatch.setattr(losses, "BLOCK", {"cpu": block})
    value = ssim(prediction_m, target_m, valid=valid)
    torch.testing.assert_close(value, textbook_ssim(prediction_m, target_m, valid), rtol=0, atol=1e-13)
    expected = gradients_of(textbook_ssim, prediction_m, target_m, valid=valid)
    torch.testing.assert_close(
        gradients_of(ssim, prediction_m, target_m, valid=valid), expected, rtol=0, atol=1e-15
    )


def test_a_loss_may_be_used_more_than_once() -> None:
    prediction_m, target_m = depth_maps()
    prediction_m.requires_grad_()
    values = DepthLoss(0.5)(prediction_m, target_m)
    (once,) = torch.autograd.grad(values["total"], prediction_m, retain_graph=True)
    (again,) = torch.autograd.grad(values["total"], prediction_m, retain_graph=True)
    torch.testing.assert_close(again, once, rtol=0, atol=0)
    (twice_and_part,) = torch.autograd.grad(2 * values["total"] - values["mse"], prediction_m, retain_graph=True)
    (of_mse,) = torch.autograd.grad(values["mse"], prediction_m)
    torch.testing.assert_close(twice_and_part, 2 * once - of_mse, rtol=0, atol=1e-9)


def test_the_gradient_has_no_gradient_and_says_so() -> None:
    prediction_m, target_m = depth_maps(n=1, height=12, width=12)
    prediction_m.requires_grad_()
    (gradient,) = torch.autograd.grad(ssim(prediction_m, target_m), prediction_m, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()
    (gradient,) = torch.autograd.grad(ssim(prediction_m, target_m).square(), prediction_m, create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        gradient.sum().backward()


def test_autocast_changes_neither_loss_nor_gradient() -> None:
    prediction_m, target_m = depth_maps()
    prediction_m.requires_grad_()
    plain = DepthLoss(0.5)(prediction_m, target_m)
    (plain_gradient,) = torch.autograd.grad(plain["total"], prediction_m)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = DepthLoss(0.5)(prediction_m, target_m)
        (gradient,) = torch.autograd.grad(cast["total"], prediction_m)
    torch.testing.assert_close(cast, plain, rtol=0, atol=0)
    torch.testing.assert_close(gradient, plain_gradient, rtol=0, atol=0)


def test_a_bfloat16_prediction_is_judged_in_float32() -> None:
    prediction_m, target_m = depth_maps()
    prediction_m = prediction_m.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = DepthLoss(0.5)(prediction_m, target_m)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    torch.testing.assert_close(losses, DepthLoss(0.5)(prediction_m.float(), target_m), rtol=0, atol=0)


def test_a_first_call_in_inference_mode_does_not_spoil_training() -> None:
    shape = (1, 1, 19, 23)  # a size that no other test uses, so that nothing is cached for it
    with torch.inference_mode():
        ssim(torch.rand(shape), torch.rand(shape))
    prediction_m = torch.rand(shape, requires_grad=True)
    ssim(prediction_m, torch.rand(shape)).backward()
    assert prediction_m.grad is not None


@pytest.mark.parametrize(("height", "width"), [(10, 40), (40, 10), (1, 1)])
def test_maps_smaller_than_the_window_are_refused_in_one_line(height: int, width: int) -> None:
    maps = torch.ones(1, 1, height, width)
    with pytest.raises(ValueError, match=rf"at least 11 x 11 pixels, not {height} x {width}$"):
        ssim(maps, maps)


def test_shapes_that_would_broadcast_are_refused() -> None:
    maps = torch.ones(4, 1, 16, 16)
    for prediction, target, valid in (
        (maps, maps[:, 0], None),
        (maps, maps[:1], None),
        (maps[:, 0], maps[:, 0], None),
        (maps, maps, torch.ones(16, 16, dtype=torch.bool)),
    ):
        with pytest.raises(ValueError, match=r"one shape \(N, 1, H, W\)"):
            DepthLoss(0.5)(prediction, target, valid)
        with pytest.raises(ValueError, match=r"one shape \(N, 1, H, W\)"):
            ssim(prediction, target, valid=valid)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_weighs_squared_error_against_half_the_dissimilarity(weight: float) -> None:
    prediction_m, target_m = depth_maps()
    mse = np.mean((prediction_m.double().numpy() - target_m.double().numpy()) ** 2)
    dissimilarity = (1 - skimage_map(prediction_m, target_m).mean()) / 2
    losses = DepthLoss(weight)(prediction_m, target_m)
    assert set(losses) == {"total", "mse", "ssim"}
    assert float(losses["mse"]) == pytest.approx(mse, rel=1e-6)
    assert float(losses["ssim"]) == pytest.approx(dissimilarity, abs=1e-6)
    assert float(losses["total"]) == pytest.approx((1 - weight) * mse + weight * dissimilarity, rel=1e-5)


def test_squared_error_is_averaged_over_the_valid_pixels_of_the_batch() -> None:
    target_m = torch.full((2, 1, 12, 12), 3.0)
    prediction_m = target_m + torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1)
    valid = torch.zeros_like(target_m, dtype=torch.bool)
    valid[0, 0, 0, :3] = valid[1, 0, 0, :1] = True
    assert float(DepthLoss(0.0)(prediction_m, target_m, valid)["total"]) == pytest.approx((3 * 1 + 1 * 4) / 4)


def test_a_batch_without_valid_pixels_costs_nothing_and_pulls_nowhere() -> None:
    prediction_m = torch.full((2, 1, 16, 16), 2.0, requires_grad=True)
    losses = DepthLoss(0.5)(prediction_m, torch.zeros(2, 1, 16, 16), torch.zeros(2, 1, 16, 16, dtype=torch.bool))
    losses["total"].backward()
    assert {name: value.item() for name, value in losses.items()} == {"total": 0, "mse": 0, "ssim": 0}
    assert prediction_m.grad is not None
    assert (prediction_m.grad == 0).all()


def test_a_prediction_that_is_not_finite_where_truth_is_known_shows_in_the_loss() -> None:
    prediction_m, target_m = depth_maps()
    prediction_m[0, 0, 20, 20] = float("nan")
    losses = DepthLoss(0.5)(prediction_m, target_m, torch.ones_like(target_m, dtype=torch.bool))
    assert all(value.isnan() for value in losses.values())


def of_ranks(
    weight: float, prediction_m: Tensor, target_m: Tensor, valid: Tensor | None, frames: list[int]
) -> tuple[dict[str, Tensor], Tensor]:
    """Mean of the ranks' losses, and the gradient that it has by the whole prediction."""
    parts = list(zip(*(maps.split(frames) for maps in (prediction_m, target_m)), strict=True))
    masks = [None] * len(parts) if valid is None else valid.split(frames)
    counts: list[Tensor] = []

    def told(count: Tensor) -> Tensor:
        counts.append(count)
        return count

    for (prediction, target), mask in zip(parts, masks, strict=True):
        DepthLoss(weight, mean_over_ranks=told)(prediction, target, mask)
    assert len(counts) == len(frames), "the ranks talk once in a forward pass"
    assert all(count.is_floating_point() and count.shape == (2,) for count in counts)
    mean = torch.stack(counts).mean(dim=0)

    values, gradients = [], []
    for (prediction, target), mask in zip(parts, masks, strict=True):
        leaf = prediction.detach().clone().requires_grad_()
        values.append(DepthLoss(weight, mean_over_ranks=lambda _: mean)(leaf, target, mask))
        gradients.append(torch.autograd.grad(values[-1]["total"], leaf)[0])
    means = {name: torch.stack([value[name] for value in values]).mean() for name in values[0]}
    return means, torch.cat(gradients) / len(frames)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("frames", [[3, 3], [5, 1], [6, 0], [0, 6], [1, 2, 3]])
def test_a_batch_split_over_ranks_has_the_loss_and_gradient_of_the_whole(frames: list[int], masked: bool) -> None:
    prediction_m, target_m = depth_maps(n=6, noise_m=0.6)
    valid = blobs_missing(target_m.shape) if masked else None
    if valid is not None:
        valid[0] = True
        assert valid[:3].sum() != valid[3:].sum(), "equal numbers would need no ranks that talk"
    values, gradient = of_ranks(0.4, prediction_m, target_m, valid, frames)
    prediction_m.requires_grad_()
    whole = DepthLoss(0.4)(prediction_m, target_m, valid)
    (expected,) = torch.autograd.grad(whole["total"], prediction_m)
    torch.testing.assert_close(values, {k: v.detach() for k, v in whole.items()}, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_a_single_clean_window_counts_once_however_many_ranks_there_are() -> None:
    """Their mean is then a third of a window."""
    prediction_m, target_m = depth_maps(n=3, height=11, width=11)
    valid = torch.zeros_like(target_m, dtype=torch.bool)
    valid[1] = True
    values, _ = of_ranks(1.0, prediction_m, target_m, valid, [1, 1, 1])
    assert values["ssim"].item() == pytest.approx((1 - skimage_map(prediction_m, target_m)[1].mean()) / 2, rel=1e-5)


def test_an_empty_batch_costs_nothing() -> None:
    empty = torch.zeros(0, 1, 16, 16)
    for valid in (None, empty > 0):
        prediction_m = empty.clone().requires_grad_()
        values = DepthLoss(0.5)(prediction_m, empty, valid)
        values["total"].backward()
        assert {name: value.item() for name, value in values.items()} == {"total": 0, "mse": 0, "ssim": 0}
        assert prediction_m.grad is not None
        assert prediction_m.grad.shape == empty.shape


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_outside_zero_to_one_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"ssim_weight must lie in 0\.\.1"):
        DepthLoss(weight)


def test_the_loss_never_waits_for_the_device() -> None:
    """Traced without data: a branch on a value raises, and reading one leaves a node in the graph."""
    prediction_m, target_m = depth_maps()
    valid = blobs_missing(target_m.shape)
    loss = DepthLoss(0.5)
    loss(prediction_m, target_m, valid)  # the window matrices are made on the first call

    def step(prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        prediction_m = prediction_m.detach().requires_grad_()
        total = loss(prediction_m, target_m, valid)["total"]
        return total.detach(), torch.autograd.grad(total, prediction_m)[0]

    traced = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(prediction_m, target_m, valid)
    operations = {str(node.target) for node in traced.graph.nodes}
    assert not [name for name in operations if "_local_scalar_dense" in name or "nonzero" in name]
    torch.testing.assert_close(traced(prediction_m, target_m, valid), step(prediction_m, target_m, valid))


def test_a_compiled_caller_gets_the_same_loss_and_gradient() -> None:
    prediction_m, target_m = depth_maps()
    valid = blobs_missing(target_m.shape)
    loss = DepthLoss(0.5)

    def total(prediction_m: Tensor) -> Tensor:
        return loss(1.5 * prediction_m, target_m, valid)["total"]

    results = []
    for function in (total, torch.compile(total, backend="aot_eager")):
        leaf = prediction_m.clone().requires_grad_()
        value = function(leaf)
        results.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
    torch.testing.assert_close(results[1], results[0])


def some_maps() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prediction, target and mask of three frames; the last has no valid pixel."""
    generator = torch.Generator().manual_seed(8)
    prediction_m, target_m = (0.5 + 5 * torch.rand(3, 1, 12, 14, generator=generator) for _ in range(2))
    valid = torch.rand(3, 1, 12, 14, generator=generator) < 0.7
    valid[2] = False
    return prediction_m, target_m, valid


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_silog_is_the_published_formula_by_image(share: float) -> None:
    prediction_m, target_m, valid = some_maps()
    expected = []
    for p, g, v in zip(
        prediction_m[:2].double().numpy(), target_m[:2].double().numpy(), valid[:2].numpy(), strict=True
    ):
        e = np.log(p[v]) - np.log(g[v])
        expected.append(np.sqrt(np.mean(e**2) - share * np.mean(e) ** 2))
    values = DepthLoss(0.25, error="silog", scale_invariance=share)(prediction_m, target_m, valid)
    assert float(values["silog"]) == pytest.approx(np.mean(expected), rel=1e-5)
    assert float(values["total"]) == pytest.approx(0.75 * float(values["silog"]) + 0.25 * float(values["ssim"]))


def test_the_gradient_term_is_the_mean_difference_between_errors_of_neighbours() -> None:
    prediction_m, target_m, valid = some_maps()
    error = (prediction_m - target_m).double().numpy()
    v = valid.numpy()
    differences = [
        np.abs(error[..., 1:, :] - error[..., :-1, :])[v[..., 1:, :] & v[..., :-1, :]],
        np.abs(error[..., 1:] - error[..., :-1])[v[..., 1:] & v[..., :-1]],
    ]
    values = DepthLoss(0.0, gradient_weight=0.3)(prediction_m, target_m, valid)
    assert float(values["gradient"]) == pytest.approx(np.concatenate(differences).mean(), rel=1e-5)
    assert float(values["total"]) == pytest.approx(float(values["mse"]) + 0.3 * float(values["gradient"]))


def test_what_stands_in_missing_pixels_changes_neither_further_terms_nor_their_gradients() -> None:
    prediction_m, target_m, valid = some_maps()
    loss = DepthLoss(0.2, error="silog", gradient_weight=0.3)
    found = []
    for filler in (0.0, float("nan"), -3.0):
        leaf = torch.where(valid, prediction_m, filler).requires_grad_()
        values = loss(leaf, torch.where(valid, target_m, filler), valid)
        values["total"].backward()
        found.append((values["total"].detach(), leaf.grad))
    assert torch.isfinite(found[0][1]).all()
    for total, gradient in found[1:]:
        torch.testing.assert_close(total, found[0][0])
        torch.testing.assert_close(gradient, found[0][1])


def test_further_terms_of_parts_have_the_whole_batch_as_their_mean_over_ranks() -> None:
    prediction_m, target_m, valid = some_maps()
    options = {"error": "silog", "gradient_weight": 0.3}
    whole = DepthLoss(0.2, **options)(prediction_m, target_m, valid)
    counts = []

    def told(count: torch.Tensor) -> torch.Tensor:
        counts.append(count)
        return count

    parts = [slice(0, 1), slice(1, 3)]
    for part in parts:
        DepthLoss(0.2, **options, mean_over_ranks=told)(prediction_m[part], target_m[part], valid[part])
    mean = torch.stack(counts).mean(dim=0)
    values = [
        DepthLoss(0.2, **options, mean_over_ranks=lambda _: mean)(prediction_m[part], target_m[part], valid[part])
        for part in parts
    ]
    for name, value in whole.items():
        torch.testing.assert_close(torch.stack([each[name] for each in values]).mean(), value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"error": "l3"}, "error must be one of mse, silog"),
        ({"scale_invariance": 1.5}, "scale_invariance must lie in 0..1"),
        ({"gradient_weight": -1.0}, "gradient_weight must be 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DepthLoss(0.5, **options)
