"""The networks: RGB in, metres out, fully convolutional."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from pipeline.model.joining import enlarge_beside
from pipeline.model.normalisation import norm_act

MIN_SIDE = 32
"""Smallest height and width that leave the deepest level (1/32) one pixel."""
NORMALISED_GAIN = 0.07
"""Gain of Xavier's initialisation for convolutions under batch normalisation.

It leaves the function as it is and lets each of Adam's steps turn a filter 14 times as far (van Laarhoven 2017).
At a learning rate of 1e-4 a gain of 1 memorised 60 rendered rooms and was no better than the mean depth map on
unseen ones after 15 epochs; a gain of 0.1 was 10 % better.
"""
HEAD_GAIN = 0.07
"""Gain of Xavier's initialisation for the last convolution: training starts from one depth everywhere, 2.7 m.

With a gain of 1 it starts from noise of several metres around an offset that depends on the seed. On NYU's frames
seeds then differed in training MSE by 1.09 to 1.49 m² after 12 epochs; now by 1.15 to 1.19.
"""
HEADS = 4
"""of attention"""
PLACES = (8, 10)
"""Rows and columns of the map of places that attention learns."""


def build_network(architecture: str, **options: float) -> nn.Module:
    """Build the network that the `network` section of the parameters describes.

    `forward(rgb)` takes (N, 3, H, W) float in [0, 1] at any H, W of at least 32 and returns (N, 1, H, W) metres.
    Raises `ValueError` for an unknown architecture or option.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}")
    try:
        return ARCHITECTURES[architecture](**options)
    except TypeError as error:
        raise ValueError(f"architecture {architecture}: {error}") from error


def count_parameters(network: nn.Module) -> int:
    """How many numbers training adjusts."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


class UNet(nn.Module):
    """A U-Net of residual blocks down to 1/32 whose deepest level sees the whole image.

    Channels grow from `width` (at 1/2) to 2, 3, 4 and 5 times that; the decoder mirrors them. Two coordinate
    planes are given with the image: the camera is held level at eye height in most photographs, so the place in the
    image alone tells much of the depth (the mean depth map is no bad guess).

    attention: layers of self-attention at the deepest level, after the mean over the image has been added there.
    """

    def __init__(self, width: int, max_depth_m: float, attention: int = 0) -> None:
        super().__init__()
        channels = [round(width * factor) for factor in (1, 2, 3, 4, 5)]
        if attention:
            channels[-1] -= channels[-1] % HEADS
        self.max_depth_m = max_depth_m
        self.stem = ConvNorm(3 + 2, channels[0], stride=2)
        self.down = nn.ModuleList(
            nn.Sequential(ConvNorm(fine, coarse, stride=2), ResidualBlock(coarse))
            for fine, coarse in pairwise(channels)
        )
        self.context = GlobalContext(channels[-1])
        self.attention = nn.Sequential(*(Attention(channels[-1]) for _ in range(attention)))
        self.up = nn.ModuleList(
            Merge(coarse, fine) for fine, coarse in zip(channels[-2::-1], channels[:0:-1], strict=True)
        )
        self.head = FilledConv2d(channels[0], 1, 3, padding=1)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier (Glorot & Bengio 2010), with a small gain where batch normalisation undoes any scale."""
        for module in self.modules():
            gain = NORMALISED_GAIN if isinstance(module, ConvNorm) else 1.0
            for layer in module.children():
                if isinstance(layer, nn.Conv2d):
                    nn.init.xavier_uniform_(layer.weight, gain)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.head.weight, HEAD_GAIN)

    def forward(self, rgb: Tensor) -> Tensor:
        height, width = rgb.shape[-2:]
        if min(height, width) < MIN_SIDE:
            raise ValueError(f"images of {height} x {width} are too small; at least {MIN_SIDE} x {MIN_SIDE}")
        features = self.stem(torch.cat([2 * rgb - 1, _coordinates(rgb)], dim=1))
        skips = []
        for level in self.down:
            skips.append(features)
            features = level(features)
        features = self.attention(self.context(features))
        for level in self.up:
            features = level(features, skips.pop())
        depth_m = self.max_depth_m * torch.sigmoid(self.head(features).float() - 1.0)
        return interpolate(depth_m, size=(height, width), mode="bilinear", align_corners=False)


class FilledConv2d(nn.Conv2d):
    """A convolution of which a GPU gets at least eight channels in and out, filled up with zeros: its matrix units
    take no fewer.

    cuDNN fills up the maps itself, at a price: on an H200 its kernels take 257 µs a step for 16 channels to 1 at
    120 x 160 and 140 for 16 to 8, and 132 for 5 channels to 16 at 240 x 320 and 83 for 8 to 16.
    """

    def forward(self, features: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if features.is_cuda:
            weight, bias = self.fill(weight), None if bias is None else self.fill(bias)
        more = weight.shape[1] - self.in_channels
        if not more and len(weight) == self.out_channels:
            return super().forward(features)
        if more:
            features = pad(features.to(weight.dtype, memory_format=torch.channels_last), (0, 0, 0, 0, 0, more))
        return self._conv_forward(features, weight, bias)[:, : self.out_channels]

    @staticmethod
    def fill(parameter: Tensor) -> Tensor:
        """A weight or bias with all its channels; one that has them already stays as it is."""
        missing = [max(0, 8 - channels) for channels in parameter.shape[:2]]
        if not any(missing):
            return parameter
        sides = [0, 0] * (parameter.dim() - len(missing))
        return pad(parameter, sides + [side for more in reversed(missing) for side in (0, more)])


class ConvNorm(nn.Sequential):
    """3 x 3 convolution and batch normalisation, then ReLU unless a sum comes first."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, *, activation: bool = True) -> None:
        super().__init__(
            FilledConv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True) if activation else nn.Identity(),
        )

    def forward(self, features: Tensor, residual: Tensor | None = None) -> Tensor:
        """With `residual` ReLU of the sum."""
        convolution, norm, activation = self
        relu = residual is not None or isinstance(activation, nn.ReLU)
        return norm_act(convolution(features), norm, residual=residual, relu=relu)


class ResidualBlock(nn.Module):
    """x + two convolutions of x (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvNorm(channels, channels), ConvNorm(channels, channels, activation=False))

    def forward(self, features: Tensor) -> Tensor:
        first, second = self.body
        summed: Tensor = second(first(features), residual=features)
        return summed


class GlobalContext(nn.Module):
    """Adds to every pixel a learned function of the mean over all pixels: the size of the room is seen nowhere
    in particular."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 1), nn.ReLU(inplace=True), nn.Conv2d(channels // 2, channels, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.project(features.mean(dim=(-2, -1), keepdim=True))


class Attention(nn.Module):
    """x + multi-head self-attention over all places of x (Vaswani et al. 2017), normalised first.

    A learned map of places, resized to the size of the features, is added to what is compared: how far
    away a wall is says something else of the floor below it than of the ceiling.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.places = nn.Parameter(torch.zeros(1, channels, *PLACES))
        self.compare = nn.Conv2d(channels, 3 * channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        _, channels, *size = features.shape
        places = interpolate(self.places, size=size, mode="bilinear", align_corners=False)
        compared = self.compare(self.norm(features) + places).flatten(2)
        seen = []
        # Head by head and written out: an exported graph of the usual form would refuse sides and batches of one.
        for query, key, value in zip(*(part.chunk(HEADS, dim=1) for part in compared.chunk(3, dim=1)), strict=True):
            alike = torch.bmm(query.transpose(1, 2), key) * (channels // HEADS) ** -0.5
            seen.append(torch.bmm(value, alike.softmax(dim=-1).transpose(1, 2)))
        summed: Tensor = features + self.project(torch.cat(seen, dim=1).unflatten(2, size))
        return summed


class Merge(nn.Module):
    """Brings coarse features to the resolution of the finer level and joins the two."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(coarse, fine, 1, bias=False)
        self.fuse = ConvNorm(2 * fine, fine)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        # Reducing before enlarging costs a quarter of the multiply-adds.
        return self.fuse(enlarge_beside(self.reduce(coarse), fine))


def _coordinates(rgb: Tensor) -> Tensor:
    """(N, 2, H, W): each pixel's row and column in [-1, 1]."""
    n, _, height, width = rgb.shape
    # Not by linspace: an exported graph would take images of one size only.
    rows, columns = (
        ((2 * torch.arange(count, device=rgb.device) - (count - 1)) / (count - 1)).to(rgb.dtype)
        for count in (height, width)
    )
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(n, 2, height, width)


ARCHITECTURES: dict[str, type[nn.Module]] = {"unet": UNet}
