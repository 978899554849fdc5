from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from pipeline.evaluation.metrics import (
    METRICS,
    ErrorSums,
    Region,
    _sums_on_device,
    depth_errors,
    error_sums,
    errors_from_sums,
    region_sums,
)


def expected_errors(p: np.ndarray, g: np.ndarray) -> dict[str, float]:
    """The published formulas over flat arrays of valid pixels, in float64."""
    p, g = p.astype(np.float64), g.astype(np.float64)
    threshold = np.maximum(g / p, p / g)
    e = np.log(p) - np.log(g)
    return {
        "rmse": np.sqrt(np.mean((g - p) ** 2)),
        "rmse_log": np.sqrt(np.mean((np.log(g) - np.log(p)) ** 2)),
        "abs_rel": np.mean(np.abs(g - p) / g),
        "sq_rel": np.mean((g - p) ** 2 / g),
        "log10": np.mean(np.abs(np.log10(g) - np.log10(p))),
        "silog": 100 * np.sqrt(np.mean(e**2) - np.mean(e) ** 2),
        "delta1": np.mean(threshold < 1.25),
        "delta2": np.mean(threshold < 1.25**2),
        "delta3": np.mean(threshold < 1.25**3),
    }


def random_maps(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target_m = 0.5 + 9 * torch.rand(shape, generator=generator)
    prediction_m = target_m * torch.exp(0.4 * torch.randn(shape, generator=generator))
    return prediction_m, target_m


def flat(depth_m: float) -> Tensor:
    return torch.full((1, 1, 6, 8), depth_m)


@pytest.mark.parametrize("shape", [(3, 1, 20, 30), (3, 20, 30), (1, 1, 1, 1)])
def test_errors_of_each_image_follow_the_published_formulas(shape: tuple[int, ...]) -> None:
    prediction_m, target_m = random_maps(shape)
    errors = depth_errors(prediction_m, target_m)
    assert tuple(errors) == METRICS
    for image in range(shape[0]):
        expected = expected_errors(prediction_m[image].numpy(), target_m[image].numpy())
        assert {name: float(values[image]) for name, values in errors.items()} == pytest.approx(
            expected, rel=1e-7, abs=1e-6
        )


def test_maps_in_float64_are_judged_in_float64_throughout() -> None:
    prediction_m, target_m = (maps.double() for maps in random_maps((2, 1, 70, 30)))
    errors = depth_errors(prediction_m, target_m)
    for image in range(2):
        expected = expected_errors(prediction_m[image].numpy(), target_m[image].numpy())
        found = {name: float(values[image]) for name, values in errors.items()}
        assert found == pytest.approx(expected, rel=1e-11)


def test_errors_are_one_float64_number_an_image() -> None:
    errors = depth_errors(*random_maps((5, 1, 9, 7)))
    assert {(values.shape, values.dtype) for values in errors.values()} == {((5,), torch.float64)}


def test_pixels_without_truth_do_not_count_unless_a_mask_says_so() -> None:
    prediction_m, target_m = random_maps((2, 1, 20, 30))
    missing = torch.rand(target_m.shape, generator=torch.Generator().manual_seed(5)) < 0.3
    target_m = torch.where(missing, 0, target_m)
    errors = depth_errors(prediction_m, target_m)
    for image in range(2):
        inside = ~missing[image].numpy()
        expected = expected_errors(prediction_m[image].numpy()[inside], target_m[image].numpy()[inside])
        assert {name: float(values[image]) for name, values in errors.items()} == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 0.0, -3.0])
def test_what_stands_outside_the_mask_does_not_matter(garbage: float) -> None:
    prediction_m, target_m = random_maps((2, 1, 10, 12))
    valid = torch.rand(target_m.shape, generator=torch.Generator().manual_seed(6)) < 0.6
    expected = depth_errors(prediction_m, target_m, valid)
    spoilt = depth_errors(torch.where(valid, prediction_m, garbage), torch.where(valid, target_m, garbage), valid)
    torch.testing.assert_close(spoilt, expected, rtol=0, atol=0)


def test_an_image_without_a_valid_pixel_has_nan_errors_and_spares_its_neighbour() -> None:
    prediction_m, target_m = random_maps((2, 1, 10, 12))
    target_m[0] = 0
    errors = depth_errors(prediction_m, target_m)
    assert all(values[0].isnan() for values in errors.values())
    torch.testing.assert_close(
        {name: values[1:] for name, values in errors.items()}, depth_errors(prediction_m[1:], target_m[1:])
    )


@given(arrays(np.float32, (2, 1, 3, 5), elements=st.floats(2**-10, 10, width=32)))
@settings(max_examples=50, deadline=None)
def test_equal_maps_have_no_error_and_every_pixel_within_every_threshold(depth_m: np.ndarray) -> None:
    errors = depth_errors(torch.from_numpy(depth_m), torch.from_numpy(depth_m))
    for name, values in errors.items():
        assert (values == (1 if name.startswith("delta") else 0)).all(), name


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("too_far", [True, False])
def test_a_ratio_of_exactly_the_threshold_is_not_within_it(power: int, too_far: bool) -> None:
    # Powers of 1.25 up to the third and a truth of 2 m are exact in binary.
    target_m, prediction_m = flat(2.0), flat(2 * 1.25**power)
    pair = (prediction_m, target_m) if too_far else (target_m, prediction_m)
    just_inside = pair[0] * (1 - 1e-6 if too_far else 1 + 1e-6)
    assert [depth_errors(*pair)[f"delta{k}"].item() for k in (1, 2, 3)] == [k > power for k in (1, 2, 3)]
    assert depth_errors(just_inside, pair[1])[f"delta{power}"].item() == 1


def test_a_constant_ratio_has_its_logarithm_as_error_and_no_scale_invariant_one() -> None:
    _, target_m = random_maps((1, 1, 30, 40))
    errors = {
        name: value.item() for name, value in depth_errors(1.1 * target_m.double(), target_m.double()).items()
    }
    assert errors["abs_rel"] == pytest.approx(0.1)
    assert errors["rmse_log"] == pytest.approx(math.log(1.1))
    assert errors["log10"] == pytest.approx(math.log10(1.1))
    assert errors["silog"] == pytest.approx(0, abs=1e-5)
    assert errors["delta1"] == 1


def test_a_constant_offset_is_the_rmse() -> None:
    _, target_m = random_maps((1, 1, 30, 40))
    assert depth_errors(target_m.double() + 0.25, target_m.double())["rmse"].item() == pytest.approx(0.25)


def test_relative_errors_divide_by_the_truth_which_stands_second() -> None:
    errors = depth_errors(flat(2.0), flat(4.0))
    assert errors["abs_rel"].item() == 0.5
    assert errors["sq_rel"].item() == 1.0
    assert depth_errors(flat(4.0), flat(2.0))["abs_rel"].item() == 1.0


def test_sums_are_accumulated_in_float64() -> None:
    """0.1 m of error on each of 307,200 pixels; a running float32 sum is off in the fourth digit.

    What is left is the rounding of a column of a strip, whose equal terms are all rounded the same way.
    """
    target_m = torch.full((1, 1, 480, 640), 4.0)
    sums = error_sums(target_m + 0.1, target_m)
    assert sums.squared.item() == pytest.approx(480 * 640 * float(np.float32(4.1) - np.float32(4)) ** 2, rel=5e-7)


def test_pooled_errors_weigh_pixels_where_per_image_means_weigh_images() -> None:
    # Image 0: two valid pixels off by 1 m; image 1: eight valid pixels off by 3 m; the truth is 4 m.
    target_m = torch.full((2, 1, 2, 4), 4.0)
    target_m[0, 0, :, 1:] = 0
    prediction_m = torch.stack((torch.full((1, 2, 4), 5.0), torch.full((1, 2, 4), 7.0)))
    sums = error_sums(prediction_m, target_m)
    assert errors_from_sums(sums)["rmse"].tolist() == [1, 3]
    pooled = {name: value.item() for name, value in errors_from_sums(sums.pooled()).items()}
    assert pooled["rmse"] == pytest.approx(math.sqrt((2 * 1 + 8 * 9) / 10))
    assert pooled["abs_rel"] == pytest.approx((2 * 0.25 + 8 * 0.75) / 10)
    # A ratio of 5/4 is exactly 1.25, so not within δ1; 7/4 is within δ3 = 1.953 only.
    assert [pooled[f"delta{k}"] for k in (1, 2, 3)] == [0, 0.2, 1]


def test_pooled_errors_are_those_of_all_pixels_as_one_image() -> None:
    prediction_m, target_m = random_maps((4, 1, 15, 20))
    target_m[1, :, :9] = 0
    pooled = errors_from_sums(error_sums(prediction_m, target_m).pooled())
    inside = (target_m > 0).numpy()
    expected = expected_errors(prediction_m.numpy()[inside], target_m.numpy()[inside])
    assert {name: value.item() for name, value in pooled.items()} == pytest.approx(expected, rel=1e-7)


OVERLAPPING = [
    Region(),
    Region(slice(5, 130), slice(3, 31), (1e-3, 9.0), (1e-3, 8.0)),
    Region(slice(40, 41), slice(0, 40), (0.0, math.inf), (2.0, 6.0)),
    Region(slice(0, 0), slice(0, 40)),
]


@pytest.mark.parametrize("masked", [False, True])
def test_regions_judged_together_give_what_each_gives_alone(masked: bool) -> None:
    """Clipped or not, with holes and without, across strips; an empty region has no pixels."""
    prediction_m, target_m = random_maps((3, 1, 150, 40))
    target_m[1, :, 20:90, 10:20] = 0
    mask = torch.rand(target_m.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    mask = mask & (target_m > 0) if masked else None
    together = region_sums(prediction_m, target_m, OVERLAPPING, mask)
    for region, sums in zip(OVERLAPPING, together, strict=True):
        part = (slice(None), slice(None), region.rows, region.columns)
        truth_m, clipped_m = target_m[part], prediction_m[part].clamp(*region.clip_m)
        low, high = region.between_m
        valid = (truth_m > low) & (truth_m < high) if mask is None else mask[part]
        for image in range(3):
            inside = valid[image].numpy()
            assert sums.pixels[image] == inside.sum()
            if inside.any():
                expected = expected_errors(clipped_m[image].numpy()[inside], truth_m[image].numpy()[inside])
                found = {name: float(values[image]) for name, values in errors_from_sums(sums).items()}
                assert found == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("region", OVERLAPPING[:3])
def test_a_gpu_computes_what_a_cpu_does(region: Region) -> None:
    """Its way is PyTorch's alone and runs on any device; here on the CPU."""
    prediction_m, target_m = random_maps((3, 150, 40))
    target_m[1, 20:90, 10:20] = 0
    (expected,) = region_sums(prediction_m, target_m, [region])
    on_device = _sums_on_device([prediction_m, target_m], region)
    for name, values, others in zip(ErrorSums._fields, on_device, expected, strict=True):
        torch.testing.assert_close(values, others, rtol=1e-7, atol=1e-4, msg=name)


def test_the_number_of_threads_does_not_matter() -> None:
    prediction_m, target_m = random_maps((5, 1, 70, 30))
    alone = error_sums(prediction_m, target_m)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        shared = error_sums(prediction_m, target_m)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(values, others) for values, others in zip(alone, shared, strict=True))


def test_shapes_that_would_broadcast_are_refused() -> None:
    maps = torch.ones(3, 1, 4, 4)
    for prediction, target, valid in (
        (maps, maps[:, 0], None),
        (maps, maps[:1], None),
        (maps, maps, maps[0] > 0),
    ):
        with pytest.raises(ValueError, match="must share one shape"):
            depth_errors(prediction, target, valid)
