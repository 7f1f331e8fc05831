"""Errors of layers' outputs, against a direct computation."""

import numpy as np
import pytest
import torch

import evoq_moo as evoq
from evoq_moo.calibration import layer_errors
from evoq_moo.errors import ArgumentError


def test_errors_are_normalized_and_independent_of_batches(tiny_model, tiny_samples):
    network = evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False)
    module = network.apply(network.uniform(4))
    found = layer_errors(module, tiny_samples)
    np.testing.assert_allclose(layer_errors(module, tiny_samples, batch_size=12), found, rtol=1e-5)
    # The last layer's output is the network's.
    with torch.no_grad():
        wanted, given = network.network(tiny_samples).double(), module(tiny_samples).double()
    expected = float((given - wanted).square().sum() / wanted.square().sum())
    assert found[-1] == pytest.approx(expected, rel=1e-5)
    assert (found > 0).all()
    # The first layer has 8 bits in both.
    assert (layer_errors(network.apply(network.uniform(8)), tiny_samples) < found)[1:].all()


def test_other_networks_are_refused(tiny_model, tiny_samples):
    with pytest.raises(ArgumentError, match="what apply or calibrate returns"):
        layer_errors(tiny_model, tiny_samples)
