"""The one formula of all products, against torch's own layers."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from evoq_moo.graph import Product, capture_network, own_copy, product, set_weight, torch_layout, untouched, weight_of
from evoq_moo.graph.products import macs_of, transposed_layout

LAYERS = {
    "Linear": [nn.Linear(5, 7), nn.Linear(5, 7, bias=False)],
    "Conv1d": [nn.Conv1d(4, 6, 3, 2, 1), nn.Conv1d(4, 6, 2, dilation=2, groups=2, bias=False)],
    "Conv2d": [nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0)), nn.Conv2d(4, 8, 3, padding=2, dilation=(1, 2), groups=4)],
    "Conv3d": [nn.Conv3d(4, 6, (1, 2, 3), padding=1), nn.Conv3d(4, 6, 2, 2, groups=2, bias=False)],
    "ConvTranspose1d": [nn.ConvTranspose1d(4, 6, 3, 2, 1, 1), nn.ConvTranspose1d(4, 6, 2, groups=2, bias=False)],
    "ConvTranspose2d": [
        nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2)),
        nn.ConvTranspose2d(4, 8, 3, dilation=(1, 2), groups=4),
    ],
    "ConvTranspose3d": [nn.ConvTranspose3d(4, 6, (1, 2, 3), 2), nn.ConvTranspose3d(4, 6, 2, groups=2, bias=False)],
}
CASES = [(kind, i) for kind, layers in LAYERS.items() for i in range(len(layers))]


def made(kind, i):
    """Return a layer, an input and the captured network of the layer alone."""
    layer = LAYERS[kind][i].eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(i)
    for parameter in layer.parameters():
        parameter.normal_(generator=generator)
    places = int(kind[-2]) if kind != "Linear" else 0
    x = torch.randn((2, 4, *range(6, 6 + places)) if places else (2, 3, 5), generator=generator)
    with untouched():
        return layer, x, capture_network(own_copy(layer)[0], x)


@pytest.mark.parametrize(("kind", "i"), CASES)
def test_it_computes_what_torchs_layers_do(kind, i):
    layer, x, captured = made(kind, i)
    (found,), (geometry,) = captured.products, captured.graph.geometries
    assert geometry.kind == kind
    assert isinstance(found, Product)
    assert torch.equal(found.weight, weight_of(layer))
    out = layer.out_features if kind == "Linear" else layer.out_channels
    assert len(found.weight) == out
    groups = getattr(layer, "groups", 1)
    assert found.weight.shape[1] * groups == (layer.in_features if kind == "Linear" else layer.in_channels)
    expected = layer(x)
    assert expected.shape[geometry.channel_axis] == out
    assert torch.equal(torch_layout(found.weight, geometry), layer.weight)
    torch.testing.assert_close(product(x, found.weight, layer.bias, geometry), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(captured(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kind", "i"), CASES)
def test_each_output_channel_has_its_own_row_of_the_weight(kind, i):
    _, x, captured = made(kind, i)
    weight, geometry = captured.products[0].weight.clone(), captured.graph.geometries[0]
    before = product(x, weight, None, geometry)
    weight[1] *= 3
    after = product(x, weight, None, geometry)
    ratio = torch.ones(len(weight))
    ratio[1] = 3
    shape = [1] * before.dim()
    shape[geometry.channel_axis] = -1
    torch.testing.assert_close(after, before * ratio.reshape(shape), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "i"), CASES)
def test_multiply_accumulates_are_half_of_torchs_operations(kind, i):
    layer, x, captured = made(kind, i)
    with FlopCounterMode(display=False) as counter:
        y = layer(x)
    weight, geometry = captured.products[0].weight, captured.graph.geometries[0]
    assert macs_of(weight, geometry, tuple(x.shape), tuple(y.shape)) == counter.get_total_flops() // 2


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_the_layout_of_transposed_convolutions_is_its_own_inverse(groups):
    weight = torch.randn(6, 5, 2, 3)
    other = transposed_layout(weight, groups)
    assert other.shape == (5 * groups, 6 // groups, 2, 3)
    assert torch.equal(transposed_layout(other, groups), weight)


@pytest.mark.parametrize(("kind", "i"), CASES)
def test_a_layers_weight_can_be_set_in_one_layout(kind, i):
    layer, x, _ = made(kind, i)
    expected = layer(x)
    weight = weight_of(layer).clone()
    set_weight(layer, weight * 2)
    assert torch.equal(weight_of(layer), weight * 2)
    set_weight(layer, weight)
    assert torch.equal(layer(x), expected)


def test_a_product_shows_what_it_computes():
    _, _, captured = made("Conv2d", 1)
    shown = repr(captured.products[0])
    assert "Conv2d, weight=(8, 1, 3, 3)" in shown
    assert "groups=4" in shown
