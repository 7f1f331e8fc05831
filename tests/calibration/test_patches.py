"""Patches against torch's layers."""

import pytest
import torch
from torch import nn

from evoq_moo.calibration._patches import prior_weights, sampled_patches

LAYERS = {
    "conv": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "dilated": nn.Conv2d(4, 6, 3, dilation=2, padding=(2, 1)),
    "depthwise": nn.Conv2d(4, 8, 3, padding=1, groups=4),
    "pointwise": nn.Conv2d(4, 6, 1),
    "same": nn.Conv2d(4, 6, 2, padding="same"),
    "conv1d": nn.Conv1d(4, 6, 3, padding=1),
    "linear": nn.Linear(5, 6),
}


@pytest.mark.parametrize("name", [n for n in LAYERS if n != "same"])
def test_patches_times_weights_are_the_outputs(name, view_of):
    layer = LAYERS[name]
    shape = {"conv1d": (3, 4, 9), "linear": (3, 7, 5)}.get(name, (3, 4, 8, 7))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    view = view_of(layer, x)
    [(patches, outputs)] = sampled_patches(view, rows=9, seed=0, quantized=False)
    products = patches @ prior_weights(view).transpose(1, 2)
    bias = layer.bias.reshape(products.shape[0], 1, -1)
    torch.testing.assert_close(products + bias, outputs, rtol=1e-4, atol=1e-5)
