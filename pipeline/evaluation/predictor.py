"""A network of one input size as a predictor for frames of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.data.pixels import fill_border, resize_rgb
from pipeline.evaluation.protocols import Predictor


def network_predictor(
    network: nn.Module, input_size: tuple[int, int], border: int, device: torch.device
) -> Predictor:
    """Predict frames the way the network was trained on them.

    The predictor takes (n, 3, H, W) RGB in [0, 1], averages it down to `input_size` (height, width) and returns
    (n, 1, *input_size) metres on `device`, which cover the whole frame. The `border` of the input that training
    left out is filled from the nearest pixel inside, before and after: untrained, the network predicts anything
    there.
    """
    network = network.to(device).eval()

    def predict(rgb: Tensor) -> Tensor:
        with torch.inference_mode():
            small = fill_border(resize_rgb(rgb.to(device), input_size), border)
            prediction_m: Tensor = network(small)
            return fill_border(prediction_m, border)

    return predict
