"""Frames of any size reach the network as its training frames did."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.evaluation.predictor import network_predictor

CPU = torch.device("cpu")


class Seen(nn.Module):
    """Keeps what it is given and answers with the red channel."""

    def forward(self, rgb: Tensor) -> Tensor:
        self.rgb = rgb
        self.was_training = self.training
        return rgb[:, :1]


def test_the_network_sees_the_frame_without_its_border_averaged_to_its_own_size() -> None:
    rgb = np.random.default_rng(0).random((2, 3, 24, 32)).astype(np.float32)
    network = Seen()
    network_predictor(network, (12, 16), border=2, device=CPU)(torch.from_numpy(rgb))
    small = rgb.reshape(2, 3, 12, 2, 16, 2).mean(axis=(3, 5))
    expected = np.pad(small[..., 2:-2, 2:-2], ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    np.testing.assert_allclose(network.rgb.numpy(), expected, atol=1e-6)


class Rows(nn.Module):
    """Answers with the number of the row."""

    def forward(self, rgb: Tensor) -> Tensor:
        return torch.arange(float(rgb.shape[-2]))[None, None, :, None].expand(len(rgb), 1, -1, rgb.shape[-1])


def test_what_the_network_says_of_the_untrained_border_is_not_used() -> None:
    prediction_m = network_predictor(Rows(), (12, 16), border=2, device=CPU)(torch.rand(1, 3, 24, 32))
    assert prediction_m[0, 0, :, 0].tolist() == [2, 2, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9]


def test_predicting_is_done_in_eval_mode_and_without_gradients() -> None:
    network = Seen().train()
    prediction_m = network_predictor(network, (8, 8), 0, CPU)(torch.rand(1, 3, 16, 16))
    assert not network.was_training
    assert not prediction_m.requires_grad
