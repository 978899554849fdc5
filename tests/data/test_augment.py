"""Flips and noise, against what mirroring and a normal distribution are by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from pipeline.data.augment import COLOUR_DRAWS, Augmentation, add_noise, change_colours, flip, zoom


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_frames(frames: int, height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """RGB in [0, 1], and depth whose value is a function of the RGB, so that a pair can be told apart."""
    rgb = torch.rand(frames, 3, height, width, generator=seeded(seed))
    return rgb, 1 + 5 * rgb[:, :1] + rgb[:, 1:2]


@given(
    which=st.lists(st.booleans(), min_size=1, max_size=5),
    height=st.integers(1, 5),
    width=st.integers(1, 6),
)
def test_flipping_twice_gives_the_frames_back(which: list[bool], height: int, width: int) -> None:
    images, _ = random_frames(len(which), height, width)
    mask = torch.tensor(which)
    assert torch.equal(flip(flip(images, mask), mask), images)


@given(which=st.lists(st.booleans(), min_size=1, max_size=5))
def test_only_the_chosen_frames_are_mirrored_left_and_right(which: list[bool]) -> None:
    images, _ = random_frames(len(which), 3, 4)
    flipped = flip(images, torch.tensor(which)).numpy()
    for before, after, mirrored in zip(images.numpy(), flipped, which, strict=True):
        np.testing.assert_array_equal(after, before[:, :, ::-1] if mirrored else before)


def test_rgb_and_depth_of_a_frame_are_flipped_together() -> None:
    rgb, depth = random_frames(64, 4, 5)
    new_rgb, new_depth = Augmentation(flip=0.5, noise_std=0.0)(rgb, depth, seeded())
    assert torch.equal(new_depth, 1 + 5 * new_rgb[:, :1] + new_rgb[:, 1:2])
    moved = (new_rgb != rgb).flatten(1).any(dim=1)
    assert 16 <= int(moved.sum()) <= 48  # half of 64, give or take four standard deviations


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_certain_flips_are_certain(probability: float, share: float) -> None:
    rgb, depth = random_frames(20, 2, 3)
    new_rgb, _ = Augmentation(probability, noise_std=0.0)(rgb, depth, seeded())
    assert float((new_rgb != rgb).flatten(1).any(dim=1).float().mean()) == share


def test_noise_has_no_mean_and_the_spread_that_was_asked_for() -> None:
    grey = torch.full((4, 3, 100, 100), 0.5)
    added = (add_noise(grey, 0.05, seeded()) - grey).double()
    standard_error = 0.05 / added.numel() ** 0.5
    assert abs(float(added.mean())) < 4 * standard_error
    assert float(added.std()) == pytest.approx(0.05, abs=4 * standard_error)  # of a spread: a factor √2 less


def test_noise_is_distributed_as_a_gaussian_is() -> None:
    added = (add_noise(torch.full((4, 3, 100, 100), 0.5), 0.05, seeded()) - 0.5).double()
    # Kolmogorov and Smirnov: a true sample exceeds this once in a thousand times.
    assert kstest(added.flatten().numpy(), norm(scale=0.05).cdf).statistic < 1.95 / added.numel() ** 0.5


def test_noise_is_drawn_afresh_for_every_frame_channel_and_pixel() -> None:
    added = add_noise(torch.full((2, 3, 4, 4), 0.5), 0.05, seeded())
    assert len(added.unique()) > 90  # of 96


def test_noisy_rgb_stays_between_0_and_1() -> None:
    rgb, depth = random_frames(3, 16, 16)
    noisy, _ = Augmentation(flip=0.0, noise_std=0.5)(rgb, depth, seeded())
    assert float(noisy.min()) == 0.0
    assert float(noisy.max()) == 1.0


def test_noise_leaves_depth_and_the_inputs_alone() -> None:
    rgb, depth = random_frames(3, 8, 8)
    rgb_before, depth_before = rgb.clone(), depth.clone()
    _, new_depth = Augmentation(flip=0.0, noise_std=0.3)(rgb, depth, seeded())
    assert torch.equal(new_depth, depth_before)
    assert torch.equal(rgb, rgb_before)
    assert torch.equal(depth, depth_before)


@given(seed=st.integers(0, 2**32 - 1))
def test_one_seed_gives_one_draw_and_another_seed_another(seed: int) -> None:
    rgb, depth = random_frames(4, 4, 4)
    augment = Augmentation(flip=0.5, noise_std=0.1)
    first, again, other = (augment(rgb, depth, seeded(s)) for s in (seed, seed, seed + 1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@given(frames=st.integers(1, 6), cut=st.integers(0, 6), width=st.integers(1, 5), flip=st.sampled_from([0.0, 0.5]))
def test_parts_of_a_batch_get_what_they_get_in_the_whole(frames: int, cut: int, width: int, flip: float) -> None:
    rgb, depth = random_frames(frames, 3, width)
    augment = Augmentation(flip, noise_std=0.1)
    whole_rgb, whole_depth = augment(rgb, depth, seeded(7))
    cut = min(cut, frames)
    for first, part in ((0, slice(0, cut)), (cut, slice(cut, frames))):
        part_rgb, part_depth = augment(rgb[part], depth[part], seeded(7), first=first, of=frames)
        assert torch.equal(part_rgb, whole_rgb[part])
        assert torch.equal(part_depth, whole_depth[part])


def test_a_frame_enlarged_by_2_shows_its_middle_at_half_the_depth() -> None:
    rgb, depth = random_frames(1, 8, 12)
    new_rgb, new_depth = zoom(rgb, depth, torch.tensor([2.0]), torch.zeros(1, 2))
    middle = depth[0, 0, 2:6, 3:9].repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(new_depth[0, 0], middle / 2)
    # Between pixels that are a quarter and three quarters away, by hand: row 0.75 + 1.5, column 3.25 of the old.
    expected = torch.nn.functional.interpolate(rgb, scale_factor=2, mode="bilinear")[0, :, 4:12, 6:18]
    torch.testing.assert_close(new_rgb[0], expected)


@pytest.mark.parametrize(("place", "rows"), [(-1.0, slice(0, 4)), (1.0, slice(4, 8))])
def test_places_at_the_ends_show_the_ends(place: float, rows: slice) -> None:
    rgb, depth = random_frames(1, 8, 12)
    _, new_depth = zoom(rgb, depth, torch.tensor([2.0]), torch.tensor([[0.0, place]]))
    shown = depth[0, 0, rows, 3:9].repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(new_depth[0, 0], shown / 2)


def test_around_a_diminished_frame_depth_is_missing_and_rgb_goes_on() -> None:
    rgb, depth = torch.full((1, 3, 8, 8), 0.7), torch.full((1, 1, 8, 8), 3.0)
    new_rgb, new_depth = zoom(rgb, depth, torch.tensor([0.5]), torch.zeros(1, 2))
    expected = torch.zeros(8, 8)
    expected[2:6, 2:6] = 6.0
    assert torch.equal(new_depth[0, 0], expected)
    torch.testing.assert_close(new_rgb, rgb)


def test_each_frame_is_zoomed_by_a_factor_of_its_own_within_the_range() -> None:
    depth = torch.full((300, 1, 8, 8), 2.0)
    _, zoomed = Augmentation(0.0, 0.0, zoom=1.25)(torch.rand(300, 3, 8, 8), depth, seeded())
    factors = 2.0 / zoomed.amax(dim=(1, 2, 3)).double()
    assert 0.8 <= factors.min() < 0.81
    assert 1.24 < factors.max() <= 1.2501
    # The logarithms are even: Kolmogorov and Smirnov's 1 in 1000.
    assert kstest(((factors.log() / np.log(1.25) + 1) / 2).numpy(), "uniform").statistic < 1.95 / 300**0.5


def test_colours_without_strength_stay_and_with_it_the_depth_stays() -> None:
    rgb, depth = random_frames(4, 6, 7)
    rgb = rgb.clamp(min=1e-3)
    draws = 2 * torch.rand(4, COLOUR_DRAWS, generator=seeded()) - 1
    torch.testing.assert_close(change_colours(rgb, draws, 0.0), rgb)
    new_rgb, new_depth = Augmentation(0.0, 0.0, colour=1.0)(rgb, depth, seeded())
    assert torch.equal(new_depth, depth)
    assert float(new_rgb.min()) >= 0
    assert float(new_rgb.max()) <= 1
    assert (new_rgb - rgb).abs().flatten(1).mean(dim=1).min() > 0.01


def test_least_saturation_is_grey_and_tone_is_a_power() -> None:
    rgb = torch.rand(1, 3, 5, 5, generator=seeded()).clamp(min=1e-3)
    grey = change_colours(rgb, torch.tensor([[0.0, 0, 0, -1, 0, 0, 0]]), 1.0)
    torch.testing.assert_close(grey, rgb.mean(dim=1, keepdim=True).expand_as(rgb))
    darker = change_colours(rgb, torch.tensor([[1.0, 0, 0, 0, 0, 0, 0]]), 1.0)
    torch.testing.assert_close(darker, rgb**1.6487213, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(0, 2), (2, 5), (3, 3)])
def test_a_part_of_a_batch_is_zoomed_and_coloured_as_it_would_be_in_the_whole(size: tuple[int, int]) -> None:
    rgb, depth = random_frames(5, 16, 16)
    augment = Augmentation(0.5, 0.0, zoom=1.3, colour=0.8)
    whole_rgb, whole_depth = augment(rgb, depth, seeded(3))
    part = slice(*size)
    part_rgb, part_depth = augment(rgb[part], depth[part], seeded(3), first=part.start, of=5)
    torch.testing.assert_close(part_rgb, whole_rgb[part])
    assert torch.equal(part_depth, whole_depth[part])
