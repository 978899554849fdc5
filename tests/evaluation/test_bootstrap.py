"""Intervals against scipy's bootstrap, and against cases that can be counted by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import bootstrap

from pipeline.errors import PipelineError
from pipeline.evaluation.bootstrap import (
    intervals,
    intervals_of_difference,
    paired_difference,
    paired_difference_of_tables,
    percentile_interval,
    resampled_errors,
)
from pipeline.evaluation.metrics import ErrorSums, error_sums, errors_from_sums


def random_sums(images: int, seed: int, scale: float = 0.3) -> ErrorSums:
    generator = torch.Generator().manual_seed(seed)
    target_m = 1 + 8 * torch.rand((images, 6, 8), generator=torch.Generator().manual_seed(0))
    noise = torch.randn((images, 1, 1), generator=generator) + torch.randn((images, 6, 8), generator=generator)
    return error_sums(target_m * torch.exp(scale * noise), target_m)


def test_the_interval_of_a_mean_over_images_is_that_of_scipy() -> None:
    sums = random_sums(23, seed=1)
    rmse = errors_from_sums(sums)["rmse"].numpy()
    peer = bootstrap((rmse,), np.mean, n_resamples=3000, method="percentile", rng=np.random.default_rng(5))
    found = intervals(resampled_errors(sums, resamples=3000, seed=5))["rmse"]
    assert found == pytest.approx(tuple(peer.confidence_interval), rel=1e-12)


def test_the_interval_of_a_pooled_error_is_that_of_scipy() -> None:
    """Pooled errors are no means: the sums of the drawn images are added before the root is taken."""
    sums = random_sums(23, seed=1)
    squared, pixels = sums.squared.numpy(), sums.pixels.numpy()
    peer = bootstrap(
        (np.arange(23),),
        lambda drawn, axis=-1: np.sqrt(squared[drawn].sum(axis) / pixels[drawn].sum(axis)),
        n_resamples=3000,
        method="percentile",
        rng=np.random.default_rng(5),
    )
    found = intervals(resampled_errors(sums, resamples=3000, seed=5))["rmse_pooled"]
    assert found == pytest.approx(tuple(peer.confidence_interval), rel=1e-12)


def test_a_difference_is_resampled_over_the_same_images_on_both_sides_as_in_scipy() -> None:
    ours, theirs = random_sums(19, seed=1), random_sums(19, seed=2, scale=0.4)
    a, b = (errors_from_sums(sums)["abs_rel"].numpy() for sums in (ours, theirs))
    peer = bootstrap(
        (a, b),
        lambda x, y, axis=-1: x.mean(axis) - y.mean(axis),
        paired=True,
        vectorized=True,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    resampled = [resampled_errors(sums, resamples=2000) for sums in (ours, theirs)]
    found = intervals_of_difference(*resampled)["abs_rel"]
    assert found == pytest.approx(tuple(peer.confidence_interval), rel=1e-12)
    of_pairs = paired_difference(a, b, resamples=2000)
    assert (of_pairs.low, of_pairs.high) == pytest.approx(found, rel=1e-12)
    assert (of_pairs.mean, of_pairs.images) == (pytest.approx(a.mean() - b.mean()), 19)


def test_two_images_are_drawn_in_all_four_ways_equally_often() -> None:
    """Errors of 1 and 3 m: means of 1, 2, 2 and 3 m."""
    target_m = torch.full((2, 4, 4), 4.0)
    sums = error_sums(target_m + torch.tensor([1.0, 3.0]).view(2, 1, 1), target_m)
    rmse = resampled_errors(sums)["rmse"]
    values, counts = np.unique(rmse.round(6), return_counts=True)
    expected = sorted(sum(pair) / 2 for pair in product((1, 3), repeat=2))
    assert sorted(values) == sorted(set(expected))
    assert counts / len(rmse) == pytest.approx([0.25, 0.5, 0.25], abs=0.02)
    assert intervals({"rmse": rmse})["rmse"] == (1, 3)


def test_an_interval_is_the_middle_of_the_resampled_values() -> None:
    values = np.append(np.random.default_rng(0).permutation(1001).astype(float), np.nan)
    assert percentile_interval(values, 0.95) == pytest.approx((25, 975))
    assert percentile_interval(values, 0.5) == pytest.approx((250, 750))


def test_the_same_seed_gives_the_same_interval_and_another_one_nearly_the_same() -> None:
    sums = random_sums(30, seed=3)
    first, again, other = (intervals(resampled_errors(sums, seed=seed))["rmse"] for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first == pytest.approx(other, rel=0.03)


def test_an_image_without_a_valid_pixel_counts_in_no_mean() -> None:
    """Drawn or not, the rest has an error of 1 m."""
    target_m = torch.full((3, 4, 4), 4.0)
    target_m[1] = 0
    errors = resampled_errors(error_sums(target_m + 1, target_m), resamples=500)
    some = ~np.isnan(errors["rmse"])
    assert some.mean() > 0.9
    assert (errors["rmse"][some] == 1).all()
    assert (errors["rmse_pooled"][some] == 1).all()
    assert intervals(errors)["rmse"] == (1, 1)


def test_a_model_that_is_a_little_better_on_every_image_is_clearly_better() -> None:
    """Single intervals overlap widely; the paired one does not reach 0."""
    random = np.random.default_rng(0)
    theirs = random.uniform(0.5, 2, 60)
    ours = theirs - random.uniform(0.01, 0.03, 60)
    found = paired_difference(ours, theirs)
    assert found.is_clear
    assert found.low < found.mean < found.high < 0
    assert not paired_difference(random.permutation(theirs), theirs).is_clear


def test_images_that_one_side_lacks_are_left_out_of_the_pairs() -> None:
    found = paired_difference(np.array([1.0, np.nan, 3.0]), np.array([0.5, 1.0, 2.5]))
    assert (found.mean, found.low, found.high, found.images) == (0.5, 0.5, 0.5, 2)
    with pytest.raises(ValueError, match="no image was scored by both"):
        paired_difference(np.array([np.nan, 1]), np.array([1, np.nan]))
    with pytest.raises(ValueError, match="the same images"):
        paired_difference(np.ones(3), np.ones(1))


def test_two_tables_are_paired_by_frame_whatever_their_order() -> None:
    ours = pd.DataFrame({"frame": ["00001", "00002", "00003"], "full_rmse": [1.0, 2.0, 3.0]})
    theirs = pd.DataFrame({"frame": ["00003", "00001", "00002"], "full_rmse": [3.5, 1.5, 2.5]})
    found = paired_difference_of_tables(ours, theirs, "full_rmse")
    assert (found.mean, found.low, found.high) == (-0.5, -0.5, -0.5)
    with pytest.raises(PipelineError, match=r"same test frames; 1 are in one per_image.csv only.*00002"):
        paired_difference_of_tables(ours, theirs[:2], "full_rmse")
    with pytest.raises(PipelineError, match="no column 'eigen_rmse'"):
        paired_difference_of_tables(ours, theirs, "eigen_rmse")


SCENES = np.array(["b", "a", "c", "d", "e", "f", "g", "a", "b", "b", "c", "g", "h", "h", "h", "h"])


def test_whole_scenes_are_drawn_for_a_paired_difference_as_scipy_draws_their_sums() -> None:
    """A scene is drawn with all its frames; the mean is over the frames drawn, however many these are."""
    ours, theirs = np.random.default_rng(3).uniform(0, 1, (2, len(SCENES)))
    ours[4] = np.nan  # scene e has no other frame
    table = pd.DataFrame({"frame": [f"{k}" for k in range(len(SCENES))], "scene": SCENES, "full_rmse": ours})
    other = table.assign(full_rmse=theirs).drop(columns="scene").sample(frac=1, random_state=0)
    gaps = {name: (ours - theirs)[(name == SCENES) & ~np.isnan(ours)] for name in "abcdfgh"}
    sums, sizes = (np.array([of(gap) for gap in gaps.values()]) for of in (np.sum, len))
    peer = bootstrap(
        (np.arange(7),),
        lambda drawn, axis=-1: sums[drawn].sum(axis) / sizes[drawn].sum(axis),
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    found = paired_difference_of_tables(table, other, "full_rmse")
    assert (found.low, found.high) == pytest.approx(tuple(peer.confidence_interval), rel=1e-12)
    assert (found.images, found.groups) == (15, 7)
    assert found.mean == pytest.approx(np.nanmean(ours - theirs))


def test_the_difference_of_resampled_errors_draws_the_same_whole_scenes() -> None:
    ours, theirs = random_sums(16, seed=1), random_sums(16, seed=2)
    a, b = (errors_from_sums(sums)["rmse"].numpy() for sums in (ours, theirs))
    found = intervals_of_difference(*(resampled_errors(sums, groups=SCENES) for sums in (ours, theirs)))
    of_pairs = paired_difference(a, b, groups=SCENES)
    assert found["rmse"] == pytest.approx((of_pairs.low, of_pairs.high), rel=1e-12)


def test_a_gain_in_one_scene_of_many_frames_is_not_clear() -> None:
    """30 of 42 frames are of one scene, in which the model is better; in the other twelve it is a little worse."""
    scenes = np.array(["kitchen"] * 30 + [f"office_{number}" for number in range(12)])
    gaps = np.where(scenes == "kitchen", -0.1, 0.02)
    assert paired_difference(gaps, np.zeros(42)).high < 0
    assert not paired_difference(gaps, np.zeros(42), groups=scenes).is_clear
    few = paired_difference(gaps[:34], np.zeros(34), groups=scenes[:34])
    assert few.groups is None and few.is_clear, "of five scenes each frame counts for itself"
