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
    prediction_m = network_predictor(network, (12, 16), border=4, device=CPU)(torch.from_numpy(rgb))
    filled = np.pad(rgb[..., 4:-4, 4:-4], ((0, 0), (0, 0), (4, 4), (4, 4)), mode="edge")
    expected = filled.reshape(2, 3, 12, 2, 16, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(network.rgb.numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(prediction_m.numpy(), network.rgb[:, :1].numpy())


def test_predicting_is_done_in_eval_mode_and_without_gradients() -> None:
    network = Seen().train()
    prediction_m = network_predictor(network, (8, 8), 0, CPU)(torch.rand(1, 3, 16, 16))
    assert not network.was_training
    assert not prediction_m.requires_grad
