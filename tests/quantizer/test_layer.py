"""Layers made to compute with given parameters: captured ones and modules of torch's own classes."""

import pytest
import torch
from torch import nn

from evoq_moo.graph import Geometry, Product, weight_of
from evoq_moo.quantizer import (
    ActivationRange,
    LayerRanges,
    QuantizedLayer,
    parameters_of,
    quantized_copy,
    weight_scales,
)
from evoq_moo.space import LayerInfo


def layers():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, generator=generator)
    return {
        "captured": (Product(weight, torch.ones(4), Geometry()), torch.randn(5, 3, generator=generator)),
        "linear": (nn.Linear(3, 4), torch.randn(5, 3, generator=generator)),
        "no bias": (nn.Conv2d(4, 6, 3, groups=2, bias=False), torch.randn(2, 4, 5, 5, generator=generator)),
        "transposed": (nn.ConvTranspose2d(4, 6, 2, groups=2), torch.randn(2, 4, 5, 5, generator=generator)),
    }


def parameters(module, bits, name="0"):
    weight = weight_of(module)
    info = LayerInfo(name=name, kind="any", params=weight.numel(), macs=1, bias_params=0, output_channels=len(weight))
    ranges = LayerRanges(
        weight_scales={4: weight_scales(weight.flatten(1), 4)}, activation={4: ActivationRange(0.3, 7)}
    )
    bias = None if module.bias is None else module.bias.detach()
    return parameters_of(info, weight, bias, ranges, bits)


@pytest.mark.parametrize("name", layers())
@torch.no_grad()
def test_it_computes_with_levels_and_goes_back_bit_for_bit(name):
    module, x = layers()[name]
    expected = module(x)
    layer = QuantizedLayer(module)
    p = parameters(module, (4, 4))
    layer.set(p)
    quantized = module(x)
    assert torch.equal(weight_of(module), p.value())
    assert not torch.equal(quantized, expected)
    # Its input is quantized: what is already on levels passes unchanged.
    assert torch.equal(module(p.quantize_input(x)), quantized)
    layer.set(parameters(module, (32, 4)))
    layer.reset()
    assert torch.equal(module(x), expected)
    assert torch.equal(module(input=x), expected)


@torch.no_grad()
def test_keyword_inputs_and_hooks_of_the_callers_own():
    module, x = nn.Linear(3, 4), torch.randn(5, 3)
    module.register_forward_pre_hook(lambda _m, args: (args[0] * 2,))
    layer = QuantizedLayer(module)
    p = parameters(module, (4, 4))
    layer.set(p)
    assert torch.equal(module(x), nn.functional.linear(p.quantize_input(x * 2), p.value(), p.bias))
    other = nn.Linear(3, 4)
    QuantizedLayer(other).set(q := parameters(other, (4, 4)))
    assert torch.equal(other(input=x), nn.functional.linear(q.quantize_input(x), q.value(), q.bias))


@torch.no_grad()
def test_a_copy_leaves_the_network_as_it_is():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    before = network(x)
    p = parameters(network[2], (4, 4), name="2")
    copied = quantized_copy(network, [p])
    assert torch.equal(network(x), before)
    hidden = network[1](network[0](x))
    assert torch.equal(copied(x), nn.functional.linear(p.quantize_input(hidden), p.value(), p.bias))
