"""Two depth networks of the size of MobileNetV2, built from their published descriptions, with random weights.

They are written anew here for their cost alone: layers, widths and order are those of the papers and of the code
that their authors published, so an image takes the same work. Nothing was trained and no weights are taken over.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

PUBLISHED_PARAMETERS_M = {"FastDepth": 3.96, "GuideDepth-S": 5.7}
"""Millions, as the papers tell. FastDepth's is of the network before pruning, as built here."""


def _convolution(
    channels_in: int,
    channels_out: int,
    size: int,
    stride: int = 1,
    *,
    groups: int = 1,
    bias: bool = False,
    activation: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """A convolution that keeps the size (but for the stride), batch normalisation, and an activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels_in, channels_out, size, stride, size // 2, groups=groups, bias=bias),
        nn.BatchNorm2d(channels_out),
    ]
    if activation is not None:
        layers.append(activation(inplace=True))
    return nn.Sequential(*layers)


class FastDepth(nn.Module):
    """Wofk et al., FastDepth: Fast Monocular Depth Estimation on Embedded Systems, ICRA 2019;
    github.com/dwofk/fast-depth.

    "MobileNet-NNConv5(dw), skip-add": the encoder is MobileNet (Howard et al. 2017) without its classifier, the
    decoder five depthwise separable 5 x 5 convolutions that halve the channels, each followed by nearest-neighbour
    enlarging, and a 1 x 1 convolution. Encoder maps of 1/8, 1/4 and 1/2 are added to the decoder's. The original
    takes multiples of 32 only; here the decoder's maps get the size of those that they are added to, which costs
    less than to pad 240 rows to 256.
    """

    ENCODER = (
        *((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)),
        *((512, 512, 1),) * 5,
        *((512, 1024, 2), (1024, 1024, 1)),
    )
    """Channels in, channels out and stride of each depthwise separable block."""
    SKIPPED = (0, 2, 4)
    """Blocks whose maps go to the decoder: those of 1/2, 1/4 and 1/8."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(3, 32, 3, 2, activation=nn.ReLU6)
        self.encoder = nn.ModuleList(
            nn.Sequential(
                _convolution(channels_in, channels_in, 3, stride, groups=channels_in, activation=nn.ReLU6),
                _convolution(channels_in, channels_out, 1, activation=nn.ReLU6),
            )
            for channels_in, channels_out, stride in self.ENCODER
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(_convolution(coarse, coarse, 5, groups=coarse), _convolution(coarse, fine, 1))
            for coarse, fine in pairwise((1024, 512, 256, 128, 64, 32))
        )
        self.head = _convolution(32, 1, 1)

    def forward(self, rgb: Tensor) -> Tensor:
        features = self.stem(rgb)
        skips = []
        for number, block in enumerate(self.encoder):
            features = block(features)
            if number in self.SKIPPED:
                skips.append(features)
        for skip, block in zip((None, *reversed(skips), None), self.decoder, strict=True):
            features = block(features)
            if skip is None:
                features = interpolate(features, scale_factor=2, mode="nearest")
            else:
                features = interpolate(features, size=skip.shape[-2:], mode="nearest") + skip
        depth_m: Tensor = self.head(features)
        return depth_m


class GuideDepthS(nn.Module):
    """Rudolph et al., Lightweight Monocular Depth Estimation through Guided Decoding, ICRA 2022;
    github.com/mic-rud/GuidedDecoding.

    The encoder is DDRNet-23-slim (Hong et al. 2021), whose features of 1/8 three blocks enlarge bilinearly to the
    whole image, each guided by the image at the size that is reached. "S" has 32, 8 and 4 channels there. Height
    and width are multiples of 8.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 8, 4)
        self.encoder = DualResolutionEncoder(32, widths[0])
        self.up = nn.ModuleList(
            GuidedUpsampling(coarse, fine) for coarse, fine in zip(widths, (*widths[1:], 1), strict=True)
        )

    def forward(self, rgb: Tensor) -> Tensor:
        features: Tensor = self.encoder(rgb)
        for factor, block in zip((0.25, 0.5, None), self.up, strict=True):
            guide = rgb if factor is None else interpolate(rgb, scale_factor=factor, mode="nearest")
            features = block(guide, interpolate(features, size=guide.shape[-2:], mode="bilinear"))
        return features


class GuidedUpsampling(nn.Module):
    """Features and image are filtered apart, weighted by channel (Hu et al. 2018), and filtered together."""

    def __init__(self, channels: int, channels_out: int) -> None:
        super().__init__()
        both = 2 * (channels // 2)
        self.of_features = self._filter(channels, channels, channels // 2)
        self.of_image = self._filter(3, channels, channels // 2)
        self.weights = nn.Sequential(
            nn.Linear(both, both, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(both, both, bias=False),
            nn.Sigmoid(),
        )
        self.combine = self._filter(both, channels, channels)
        self.reduce = nn.Conv2d(channels, channels_out, 1)

    @staticmethod
    def _filter(channels_in: int, between: int, channels_out: int) -> nn.Sequential:
        return nn.Sequential(
            _convolution(channels_in, between, 3, bias=True), _convolution(between, channels_out, 1, bias=True)
        )

    def forward(self, guide: Tensor, features: Tensor) -> Tensor:
        both = torch.cat([self.of_features(features), self.of_image(guide)], dim=1)
        both = both * self.weights(both.mean(dim=(-2, -1)))[:, :, None, None]
        reduced: Tensor = self.reduce(self.combine(both) + features)
        return reduced


class DualResolutionEncoder(nn.Module):
    """DDRNet-23-slim (Hong et al., Deep Dual-resolution Networks, 2021; github.com/ydhongHIT/DDRNet): residual
    blocks down to 1/64, beside them others that stay at 1/8, and exchange between the two."""

    def __init__(self, width: int, channels_out: int) -> None:
        super().__init__()
        high = 2 * width
        self.stem = nn.Sequential(
            _convolution(3, width, 3, 2, bias=True), _convolution(width, width, 3, 2, bias=True)
        )
        self.to_4 = _basic_blocks(width, width)
        self.to_8 = _basic_blocks(width, 2 * width, 2)
        self.low = nn.ModuleList([_basic_blocks(2 * width, 4 * width, 2), _basic_blocks(4 * width, 8 * width, 2)])
        self.high = nn.ModuleList([_basic_blocks(2 * width, high), _basic_blocks(high, high)])
        self.to_high = nn.ModuleList(
            _convolution(channels, high, 1, activation=None) for channels in (4 * width, 8 * width)
        )
        self.to_low = nn.ModuleList(
            [
                _convolution(high, 4 * width, 3, 2, activation=None),
                nn.Sequential(
                    _convolution(high, 4 * width, 3, 2), _convolution(4 * width, 8 * width, 3, 2, activation=None)
                ),
            ]
        )
        self.last_high = Residual(high, high, bottleneck=True)
        self.last_low = Residual(8 * width, 8 * width, 2, bottleneck=True)
        self.context = PyramidPooling(16 * width, 128, 4 * width)
        self.head = nn.Sequential(
            nn.BatchNorm2d(4 * width),
            nn.ReLU(inplace=True),
            _convolution(4 * width, 64, 3),
            nn.Conv2d(64, channels_out, 1),
        )

    def forward(self, rgb: Tensor) -> Tensor:
        low = high = torch.relu(self.to_8(torch.relu(self.to_4(self.stem(rgb)))))
        size = high.shape[-2:]
        for deeper, along, to_high, to_low in zip(self.low, self.high, self.to_high, self.to_low, strict=True):
            deep, wide = deeper(low), along(high)
            low = torch.relu(deep + to_low(torch.relu(wide)))
            high = torch.relu(wide + interpolate(to_high(torch.relu(deep)), size=size, mode="bilinear"))
        context = interpolate(self.context(self.last_low(low)), size=size, mode="bilinear")
        features: Tensor = self.head(context + self.last_high(high))
        return features


def _basic_blocks(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """Two residual blocks; whoever takes the second one's sum applies ReLU to it."""
    return nn.Sequential(
        Residual(channels_in, channels_out, stride), nn.ReLU(inplace=True), Residual(channels_out, channels_out)
    )


class Residual(nn.Module):
    """x + two 3 x 3 convolutions of x, or with `bottleneck` 1 x 1, 3 x 3 and 1 x 1 ones to twice the channels."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1, *, bottleneck: bool = False) -> None:
        super().__init__()
        channels_out = 2 * channels if bottleneck else channels
        if bottleneck:
            self.body = nn.Sequential(
                _convolution(channels_in, channels, 1),
                _convolution(channels, channels, 3, stride),
                _convolution(channels, channels_out, 1, activation=None),
            )
        else:
            self.body = nn.Sequential(
                _convolution(channels_in, channels, 3, stride), _convolution(channels, channels, 3, activation=None)
            )
        changed = stride != 1 or channels_in != channels_out
        self.shortcut = (
            _convolution(channels_in, channels_out, 1, stride, activation=None) if changed else nn.Identity()
        )

    def forward(self, features: Tensor) -> Tensor:
        summed: Tensor = self.body(features) + self.shortcut(features)
        return summed


class PyramidPooling(nn.Module):
    """DDRNet's DAPPM: means over ever larger areas, each filtered together with the one before."""

    def __init__(self, channels: int, branch: int, channels_out: int) -> None:
        super().__init__()
        pools: list[nn.Module] = [nn.Identity()]
        pools += [nn.AvgPool2d(2 * stride + 1, stride, stride) for stride in (2, 4, 8)]
        pools.append(nn.AdaptiveAvgPool2d(1))
        self.scales = nn.ModuleList(nn.Sequential(pool, _norm_first(channels, branch, 1)) for pool in pools)
        self.processes = nn.ModuleList(_norm_first(branch, branch, 3) for _ in pools[1:])
        self.compress = _norm_first(len(pools) * branch, channels_out, 1)
        self.shortcut = _norm_first(channels, channels_out, 1)

    def forward(self, features: Tensor) -> Tensor:
        size = features.shape[-2:]
        maps = [self.scales[0](features)]
        for scale, process in zip(self.scales[1:], self.processes, strict=True):
            maps.append(process(interpolate(scale(features), size=size, mode="bilinear") + maps[-1]))
        summed: Tensor = self.compress(torch.cat(maps, dim=1)) + self.shortcut(features)
        return summed


def _norm_first(channels_in: int, channels_out: int, size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels_in),
        nn.ReLU(),
        nn.Conv2d(channels_in, channels_out, size, padding=size // 2, bias=False),
    )


PEERS: dict[str, type[nn.Module]] = {"FastDepth": FastDepth, "GuideDepth-S": GuideDepthS}
