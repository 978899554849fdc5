"""Augmentation of RGB-D batches: horizontal flips, zooms, other light, zero-mean Gaussian noise.

No rotation: a tilted camera over a level floor is a scene that no depth sensor has seen; it invents depth.
Pure tensor code that runs on the device of its inputs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


def seed_from(*parts: int) -> int:
    """A generator's seed that is unrelated to those from other parts, such as the next frame's or step's."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def flip(images: Tensor, which: Tensor) -> Tensor:
    """Mirror left and right those (N, C, H, W) images for which the (N,) bool `which` is true."""
    if images.device.type != "cpu":
        # Computing both and choosing needs no answer from the device, which may still be at the step before.
        return torch.where(which[:, None, None, None], images.flip(-1), images)
    flipped = images.clone()
    for index in which.nonzero().flatten().tolist():
        flipped[index] = images[index].flip(-1)
    return flipped


def add_noise(
    rgb: Tensor, std: float, generator: torch.Generator, *, first: int = 0, of: int | None = None
) -> Tensor:
    """Add zero-mean Gaussian noise to (N, 3, H, W) RGB in [0, 1]; the result stays in [0, 1].

    The frames are those from `first` on of a batch of `of` (their own number) and get what they would get there.
    """
    of = len(rgb) if of is None else of
    if rgb.device.type == "cpu":
        noise = _gaussian_from_table(rgb.shape, std, generator, first, of)
    else:
        noise = torch.empty((of, *rgb.shape[1:]), device=rgb.device).normal_(0, std, generator=generator)
        noise = noise[first : first + len(rgb)]
    return noise.add_(rgb).clamp_(0, 1)


def _gaussian_from_table(shape: torch.Size, std: float, generator: torch.Generator, first: int, of: int) -> Tensor:
    """Frames `first` on of a batch of `of` of Gaussian numbers, (N, 3, H, W) float32.

    16 random bits choose one of 65536 equally likely quantiles. For 16 frames of 120 x 160 that takes 2.0 ms, where
    `torch.randn` takes 3.3 ms, 2 % of a training step.
    """
    frame = math.prod(shape[1:])
    words = torch.empty(math.ceil(of * frame / 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    bits = words.view(torch.uint16)[first * frame : (first + shape[0]) * frame]
    return (std * _quantiles()).index_select(0, bits.to(torch.int32)).view(shape)


@functools.cache
def _quantiles() -> Tensor:
    """(65536,) float32: the middles of as many equally likely parts of the normal distribution.

    Their spread is 0.001 % below 1, the greatest is 4.3.
    """
    return torch.special.ndtri((torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16).float()


def zoom(rgb: Tensor, depth: Tensor, factors: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Enlarge what (N, 3, H, W) RGB and (N, 1, H, W) depth show by (N,) factors, and divide the depth by them.

    To the same camera a thing that appears k times as large is k times as near, in size and in depth, which keeps
    the pair possible; only its sides towards the camera are not quite what they would be (Eigen et al. 2014).
    places: (N, 2) in [-1, 1], column and row: which part of a frame an enlarged view shows (0: its middle), or
    where in the view a diminished frame lies. Around that RGB is mirrored and depth is 0, missing. Depth is taken
    from the nearest pixel: a mean over an edge is a depth that is nowhere.
    """
    turned = torch.zeros(len(rgb), 2, 3, device=rgb.device)
    turned[:, 0, 0] = turned[:, 1, 1] = 1 / factors
    turned[:, :, 2] = places * (1 - 1 / factors).abs()[:, None]
    grid = affine_grid(turned, [len(rgb), 1, *rgb.shape[2:]], align_corners=False)
    rgb = grid_sample(rgb, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    depth = grid_sample(depth, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return rgb, depth / factors[:, None, None, None]


COLOUR_DRAWS = 7
"""Numbers that decide how the light of a frame changes."""


def change_colours(rgb: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Other light and another camera: (N, 3, H, W) RGB in [0, 1] with other tone curve, brightness, white balance,
    contrast and saturation.

    draws: (N, 7) uniform in [-1, 1]. strength: with 1 the tone curve's exponent lies between 0.61 and 1.65, the
    brightness between 0.7 and 1.42, each channel's part in it between 0.82 and 1.22, the contrast between 0.61 and
    1.65, the saturation between 0 and 1.5; with 0 the image stays as it is.
    """
    tone, brightness, contrast, saturation = (
        draws[:, index, None, None, None] * strength for index in range(COLOUR_DRAWS - 3)
    )
    balance = draws[:, -3:, None, None] * strength
    rgb = rgb ** torch.exp(0.5 * tone)
    rgb = rgb * torch.exp(0.35 * brightness + 0.2 * balance)
    mean = rgb.mean(dim=(1, 2, 3), keepdim=True)
    rgb = mean + (rgb - mean) * torch.exp(0.5 * contrast)
    grey = rgb.mean(dim=1, keepdim=True)
    share = 1 + torch.where(saturation < 0, saturation, saturation / 2)
    return (grey + (rgb - grey) * share).clamp_(0, 1)


@dataclass(frozen=True)
class Augmentation:
    """Random flips, zooms, light and noise, drawn per frame from the generator that is passed in."""

    flip: float
    """probability of a horizontal flip"""
    noise_std: float
    """standard deviation of the noise, for RGB in [0, 1]"""
    zoom: float = 1.0
    """greatest factor; factors lie between its inverse and it, their logarithms evenly"""
    colour: float = 0.0
    """strength of `change_colours`"""

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> Augmentation:
        """As the parameters' section `augment` says; one of older code lacks what is off then."""
        return cls(**{field.name: section[field.name] for field in fields(cls) if field.name in section})

    def __call__(
        self, rgb: Tensor, depth: Tensor, generator: torch.Generator, *, first: int = 0, of: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Augment (N, 3, H, W) RGB in [0, 1] and the (N, 1, H, W) depth maps that belong to it.

        The frames are those from `first` on of a batch of `of` (their own number) and get the draws that they would
        get there: parts of a batch, augmented apart from equal generators, are the parts of the augmented batch.
        """
        of = len(rgb) if of is None else of

        def draw(*shape: int) -> Tensor:
            """Uniform in [0, 1), for each of these frames."""
            return torch.rand(of, *shape, generator=generator, device=rgb.device)[first : first + len(rgb)]

        mirrored = draw() < self.flip
        rgb, depth = flip(rgb, mirrored), flip(depth, mirrored)
        if self.zoom > 1:
            exponent, *place = (2 * draw(3) - 1).unbind(1)
            if len(rgb):  # PyTorch samples no empty part of a batch
                rgb, depth = zoom(rgb, depth, self.zoom**exponent, torch.stack(place, dim=1))
        if self.colour > 0:
            rgb = change_colours(rgb, 2 * draw(COLOUR_DRAWS) - 1, self.colour)
        if self.noise_std > 0:
            rgb = add_noise(rgb, self.noise_std, generator, first=first, of=of)
        return rgb, depth
