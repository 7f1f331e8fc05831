"""Moments of patches against torch's unfold."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from evoq_moo.calibration._gram import moments, prior_weights, sampled_patches

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
    patches, outputs = sampled_patches(view, view.inputs, rows=9, seed=0)
    products = patches @ prior_weights(view).transpose(1, 2)
    bias = layer.bias.reshape(products.shape[0], 1, -1)
    torch.testing.assert_close(products + bias, outputs, rtol=1e-4, atol=1e-5)


def test_moments_are_covariances(view_of):
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    layer = LAYERS["conv"]
    view = view_of(layer, x)
    found = moments(view, seed=0)
    columns = functional.unfold(x, 3, stride=2, padding=1).transpose(1, 2).flatten(0, 1).double()
    torch.testing.assert_close(found.input[0].double(), torch.cov(columns.T, correction=0), rtol=1e-4, atol=1e-5)
    assert found.count == len(columns)
    # The output is a linear function of the input, so its covariance with the input is that of the weights.
    expected = torch.cov(columns.T, correction=0) @ layer.weight.flatten(1).double().T
    torch.testing.assert_close(found.cross[0].double(), expected, rtol=1e-3, atol=1e-5)
