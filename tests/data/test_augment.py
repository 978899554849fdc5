"""Flips and noise, against what mirroring and a normal distribution are by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from pipeline.data.augment import Augmentation, add_noise, flip


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
