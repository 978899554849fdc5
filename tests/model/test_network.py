"""The network: its size, the images it takes, what it returns, how it starts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.model.network import HEAD_GAIN, HEADS, NORMALISED_GAIN, Attention, build_network, count_parameters

REPOSITORY = Path(__file__).resolve().parents[2]
TINY: dict[str, Any] = {"width": 4, "max_depth_m": 10.0, "attention": 1}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def default_network() -> nn.Module:
    parameters = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    return build_network(**parameters["network"])


def test_the_default_network_has_about_half_a_million_parameters() -> None:
    network = default_network()
    counted = sum(math.prod(parameter.shape) for parameter in network.parameters())
    assert 450_000 <= counted <= 500_000
    assert count_parameters(network) == counted


def test_parameters_that_are_not_trained_are_not_counted() -> None:
    layer = nn.Conv2d(3, 2, 1)
    layer.bias.requires_grad_(False)
    assert count_parameters(layer) == 6


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 2), st.integers(32, 130), st.integers(32, 130))
@example(1, 32, 32)
@example(2, 33, 97)
def test_an_image_of_any_size_gets_a_depth_map_of_that_size(frames: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    network = build_network("unet", **TINY).eval()
    with torch.no_grad():
        depth_m = network(torch.rand(frames, 3, height, width))
    assert depth_m.shape == (frames, 1, height, width)
    assert depth_m.dtype == torch.float32
    assert depth_m.isfinite().all()


@pytest.mark.parametrize("size", [(31, 64), (64, 31), (1, 1)])
def test_an_image_that_is_too_small_is_refused_with_the_least_size(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"too small; at least 32 x 32"):
        build_network("unet", **TINY)(torch.rand(1, 3, *size))


@pytest.mark.parametrize("max_depth_m", [1.0, 10.0, 80.0])
@pytest.mark.parametrize("training", [True, False])
def test_depth_lies_between_nothing_and_the_greatest_depth(max_depth_m: float, training: bool) -> None:
    torch.manual_seed(0)
    network = build_network("unet", width=4, max_depth_m=max_depth_m).train(training)
    with torch.no_grad():
        depth_m = network(torch.rand(4, 3, 64, 64))
    assert float(depth_m.min()) > 0
    assert float(depth_m.max()) < max_depth_m


def test_every_parameter_takes_part_in_the_prediction() -> None:
    torch.manual_seed(0)
    network = build_network("unet", **TINY)
    network(torch.rand(2, 3, 64, 96)).square().mean().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert idle == []


def test_a_place_in_the_image_matters_also_where_all_pixels_are_equal() -> None:
    torch.manual_seed(0)
    network = build_network("unet", **TINY).eval()
    with torch.no_grad():
        depth_m = network(torch.full((1, 3, 64, 64), 0.5))[0, 0, 16:48, 16:48]  # away from the padded edges
    assert float(depth_m.std()) > 1e-5


def test_every_convolution_starts_with_xavier_uniform_weights_and_no_bias() -> None:
    network = default_network()
    under_normalisation = {
        block[0]
        for block in network.modules()
        if isinstance(block, nn.Sequential) and len(block) > 1 and isinstance(block[1], nn.BatchNorm2d)
    }
    assert under_normalisation
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        weight = module.weight.detach().double().numpy()
        outputs, inputs, *kernel = weight.shape
        bound = math.sqrt(6 / ((inputs + outputs) * math.prod(kernel)))
        largest = np.abs(weight).max()
        gain = NORMALISED_GAIN if module in under_normalisation else HEAD_GAIN if name == "head" else 1.0
        # Uniform from end to end: a normal distribution, or fan-in instead of both fans, would not fit.
        assert 0.95 * gain * bound < largest <= gain * bound * (1 + 1e-6), name
        assert weight.std() == pytest.approx(gain * bound / math.sqrt(3), rel=0.1), name
        assert abs(weight.mean()) < 5 * gain * bound / math.sqrt(3 * weight.size), name
        if module.bias is not None:
            assert not module.bias.any(), name


@pytest.mark.parametrize("seed", range(4))
def test_training_starts_from_one_depth_everywhere_whatever_the_seed(seed: int) -> None:
    torch.manual_seed(seed)
    network = build_network("unet", width=16, max_depth_m=10.0)
    with torch.no_grad():
        depth_m = network(torch.rand(4, 3, 64, 96))  # in training mode: batch statistics
    assert abs(float(depth_m.mean()) - 10 / (1 + math.e)) < 0.25
    assert float(depth_m.std()) < 0.25


def test_one_seed_gives_one_network() -> None:
    first, again = default_network(), default_network()
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("architecture", "options", "says"),
    [
        ("transformer", TINY, "unknown architecture 'transformer'; known: unet"),
        ("unet", {**TINY, "depth": 5}, "architecture unet: .*depth"),
        ("unet", {"width": 4}, "architecture unet: .*max_depth_m"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(architecture: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build_network(architecture, **options)


def test_attention_is_the_published_formula() -> None:
    torch.manual_seed(0)
    channels, height, width = 8, 3, 5
    layer = Attention(channels).double()
    nn.init.normal_(layer.places)
    features = torch.randn(2, channels, height, width, dtype=torch.float64)
    with torch.no_grad():
        places = nn.functional.interpolate(layer.places, (height, width), mode="bilinear").numpy()[0]
        found = layer(features).numpy()
    weights = {name: value.detach().numpy().squeeze() for name, value in layer.state_dict().items()}
    for image, result in zip(features.numpy(), found, strict=True):
        normalised = (image - image.mean()) / np.sqrt(image.var() + layer.norm.eps)
        tokens = (normalised + places).reshape(channels, -1)
        compared = weights["compare.weight"] @ tokens + weights["compare.bias"][:, None]
        query, key, value = (part.reshape(HEADS, channels // HEADS, -1) for part in np.split(compared, 3))
        seen = []
        for q, k, v in zip(query, key, value, strict=True):
            share = np.exp(q.T @ k / np.sqrt(channels // HEADS))
            seen.append(v @ (share / share.sum(axis=1, keepdims=True)).T)
        projected = weights["project.weight"] @ np.concatenate(seen) + weights["project.bias"][:, None]
        np.testing.assert_allclose(result, image + projected.reshape(image.shape), rtol=1e-9)


def test_a_network_without_attention_has_the_weights_that_it_had_before_there_was_any() -> None:
    names = build_network("unet", width=4, max_depth_m=10.0).state_dict()
    assert not [name for name in names if name.startswith("attention")]
