"""Augmentation of RGB-D batches: horizontal flips and zero-mean Gaussian noise.

No rotation: a tilted camera over a level floor is a scene that no depth sensor has seen; it invents depth.
Pure tensor code that runs on the device of its inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def flip(images: Tensor, which: Tensor) -> Tensor:
    """Mirror left and right those (N, C, H, W) images for which the (N,) bool `which` is true."""
    return torch.where(which[:, None, None, None], images.flip(-1), images)


def add_noise(rgb: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Add zero-mean Gaussian noise to (N, 3, H, W) RGB in [0, 1]; the result stays in [0, 1]."""
    noise = torch.randn(rgb.shape, generator=generator, device=rgb.device, dtype=rgb.dtype)
    return (rgb + std * noise).clamp_(0, 1)


@dataclass(frozen=True)
class Augmentation:
    """Random flips and noise, drawn per frame from the generator that is passed in."""

    flip: float
    """probability of a horizontal flip"""
    noise_std: float
    """standard deviation of the noise, for RGB in [0, 1]"""

    def __call__(self, rgb: Tensor, depth: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augment (N, 3, H, W) RGB in [0, 1] and the (N, 1, H, W) depth maps that belong to it."""
        mirrored = torch.rand(len(rgb), generator=generator, device=rgb.device) < self.flip
        rgb, depth = flip(rgb, mirrored), flip(depth, mirrored)
        if self.noise_std > 0:
            rgb = add_noise(rgb, self.noise_std, generator)
        return rgb, depth
