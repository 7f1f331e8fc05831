"""What a layer computes with under bit-widths, against the arithmetic written out."""

from dataclasses import replace

import pytest
import torch

from evoq_moo.errors import ArgumentError
from evoq_moo.quantizer import ActivationRange, LayerParameters, LayerRanges, parameters_of, weight_scales
from evoq_moo.space import LayerInfo

WEIGHT = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
BIAS = torch.arange(4.0)
INFO = LayerInfo(name="a.b", kind="Conv2d", params=48, macs=1, bias_params=4, output_channels=4)
RANGES = LayerRanges(
    weight_scales={b: weight_scales(WEIGHT.flatten(1), b) for b in range(2, 9)},
    activation={b: ActivationRange(0.5 / b, b) for b in range(2, 9)},
)


@pytest.mark.parametrize("bits", range(2, 9))
def test_quantized_sides(bits):
    p = parameters_of(INFO, WEIGHT, BIAS, RANGES, (bits, bits))
    scales = RANGES.weight_scales[bits]
    expected = torch.fake_quantize_per_channel_affine(
        WEIGHT, scales, torch.zeros(4, dtype=torch.int32), 0, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    )
    assert (p.quantized_weight, p.quantized_activation) == (True, True)
    assert p.weight_levels.dtype == torch.int8
    torch.testing.assert_close(p.value(), expected, rtol=1e-6, atol=1e-7)
    x = torch.linspace(-4, 4, 1001)
    exact = torch.fake_quantize_per_tensor_affine(x, 0.5 / bits, bits, 0, 2**bits - 1)
    torch.testing.assert_close(p.quantize_input(x), exact, rtol=1e-6, atol=1e-6)
    assert p.quantize_input(torch.zeros(1)).item() == 0


@pytest.mark.parametrize("bits", [16, 32])
def test_float_sides(bits):
    p = parameters_of(INFO, WEIGHT, BIAS, RANGES, (bits, bits))
    assert (p.quantized_weight, p.quantized_activation) == (False, False)
    assert torch.equal(p.value(), WEIGHT)
    x = torch.randn(5)
    assert p.quantize_input(x) is x


@pytest.mark.parametrize("bits", [4, 32])
def test_gains_multiply_the_products_of_each_channel(bits):
    p = parameters_of(INFO, WEIGHT, BIAS, RANGES, (bits, 8))
    gain = torch.tensor([1.0, 2.0, 0.5, 3.0])
    found = p.scaled(gain, p.bias * gain)
    torch.testing.assert_close(found.value(), p.value() * gain.reshape(-1, 1, 1, 1))
    torch.testing.assert_close(found.bias, p.bias * gain)
    if bits == 4:
        assert torch.equal(found.weight_levels, p.weight_levels)


def test_parameters_that_hold_no_weights_are_refused():
    p = LayerParameters(
        name="a",
        kind="Linear",
        weight_bits=4,
        activation_bits=4,
        weight=None,
        weight_levels=None,
        weight_scales=None,
        bias=None,
        activation_scale=None,
        activation_zero_point=None,
    )
    with pytest.raises(ArgumentError, match="layer 'a': given neither weights nor levels"):
        p.value()


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_bias_of_integers_is_on_levels_of_30_bits(bits):
    p = parameters_of(INFO, WEIGHT, BIAS + 0.1234, RANGES, (bits, bits))
    step = p.weight_scales.double() * p.activation_scale / 2 ** max(0, 7 - bits)
    assert p.bias_levels.dtype == torch.int32
    torch.testing.assert_close(p.bias_scales.double(), step, rtol=1e-6, atol=0)
    torch.testing.assert_close(p.bias.double(), ((BIAS.double() + 0.1234) / step).round() * step)
    torch.testing.assert_close(p.bias, (p.bias_levels * p.bias_scales.double()).float())
    again = replace(p)
    assert torch.equal(again.bias, p.bias)
    assert torch.equal(again.weight_scales, p.weight_scales)


@pytest.mark.parametrize("bits", [(8, 32), (32, 8), (32, 32)])
def test_the_bias_of_a_layer_with_a_float_side_stays_as_it_is(bits):
    p = parameters_of(INFO, WEIGHT, BIAS + 0.1234, RANGES, bits)
    assert torch.equal(p.bias, BIAS + 0.1234)
    assert (p.bias_scales, p.bias_levels, p.is_integer) == (None, None, False)


@pytest.mark.parametrize("factor", [0.0, 1e-12, 1e-30])
@pytest.mark.parametrize("bits", [2, 8])
def test_a_channel_of_tiny_weights_keeps_its_bias(bits, factor):
    """BatchNorm folded into a channel that never varies: its bias is worth more than 2^31 steps of its weights."""
    weight = WEIGHT.clone()
    weight[1] *= factor
    ranges = LayerRanges(
        weight_scales={b: weight_scales(weight.flatten(1), b) for b in (2, 8)}, activation=RANGES.activation
    )
    p = parameters_of(INFO, weight, BIAS - 0.7, ranges, (bits, 8))
    torch.testing.assert_close(p.bias[1], BIAS[1] - 0.7, rtol=1e-5, atol=0)
    assert p.value()[1].abs().max() <= 1e-6
    assert int(p.bias_levels.abs().max()) <= 2**30
    # The other channels are as they were.
    assert torch.equal(p.weight_scales[2:], ranges.weight_scales[bits][2:])
