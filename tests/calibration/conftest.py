"""A small network to calibrate, made once for a module: calibration does not change it (a test says so)."""

import numpy as np
import pytest
import torch
from torch import nn

import evoq_moo as evoq
from evoq_moo._compute import ComputePool
from evoq_moo.calibration._walk import LayerView
from evoq_moo.graph import StagedNetwork, own_copy, prepare
from evoq_moo.quantizer import LayerRanges, parameters_of
from evoq_moo.zoo._cifar import CifarBlock


@pytest.fixture(scope="module")
def tiny_network(with_random_weights):
    generator = torch.Generator().manual_seed(21)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        CifarBlock(4, 8, 2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 6),
    )
    with_random_weights(model, generator)
    samples = torch.randn(12, 3, 8, 8, generator=generator)
    return evoq.QuantizedNetwork(model, samples, pinned="none", engine="reference", progress=False)


@pytest.fixture(scope="session")
def policy_of():
    def make(network, weight_bits, activation_bits):
        bits = np.tile([weight_bits, activation_bits], (len(network.space.layer_names), 1))
        return evoq.Policy.from_array(network.space.layer_names, bits)

    return make


@pytest.fixture(scope="session")
def view_of():
    """Return a function that makes the view of one layer whose quantized network is the float one."""

    def make(layer, x, ranges=None, bits=(32, 32)):
        prepared = prepare(own_copy(nn.Sequential(layer))[0], x)
        (own,) = StagedNetwork(prepared.network).layers
        found = ranges or LayerRanges(weight_scales={}, activation={})
        return LayerView(
            layer=own,
            parameters=parameters_of(prepared.layers[0], own.weight, own.bias, found, bits),
            inputs=[x],
            targets=[own(x)],
            target_moments=list,
            seen=(True,),
            pool=ComputePool(threads=1),
        )

    return make
