"""The arithmetic against torch.ao's kernels (bit for bit) and float64."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoq_moo.quantizer import (
    activation_range,
    bias_scales,
    centered_levels,
    dequantize,
    fake_quantize_activation,
    fake_quantize_weight,
    quantize_bias,
    weight_levels,
    weight_range,
)
from evoq_moo.quantizer.arithmetic import LARGEST_BIAS, bias_levels, least_weight_scales, quantize, weight_values


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**31),
    bits=st.integers(2, 8),
    scale=st.floats(1e-6, 1e3),
    spread=st.floats(1e-3, 1e3),
)
def test_activations_equal_torch_ao_bit_for_bit(seed, bits, scale, spread):
    generator = torch.Generator().manual_seed(seed)
    lowest, highest = activation_range(bits)
    step = torch.tensor([scale], dtype=torch.float32)
    zero_point = torch.randint(lowest, highest + 1, (1,), generator=generator, dtype=torch.int32)
    x = torch.randn(997, generator=generator) * step * spread
    # Exact halves are where rounding rules differ.
    x[:100] = (torch.randint(-50, 50, (100,), generator=generator) + 0.5) * step
    ours = dequantize(quantize(x, step, zero_point, lowest, highest), step, zero_point)
    theirs = torch.fake_quantize_per_tensor_affine(x, step, zero_point, lowest, highest)
    assert torch.equal(ours, theirs)
    value, zero = step.item(), int(zero_point)
    assert torch.equal(fake_quantize_activation(x, value, zero, bits), theirs)
    assert torch.equal(centered_levels(x, value, zero, bits) + zero, quantize(x, step, zero, lowest, highest))


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**31), bits=st.integers(2, 8))
def test_weights_equal_torch_ao_bit_for_bit(seed, bits):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 5, 3, 3, generator=generator)
    scales = torch.rand(len(weight), generator=generator) * 0.5 + 1e-4
    lowest, highest = weight_range(bits)
    levels = weight_levels(weight, scales, bits)
    assert lowest <= levels.min()
    assert levels.max() <= highest
    ours = weight_values(levels.to(torch.int8), scales)
    assert torch.equal(ours, fake_quantize_weight(weight, scales, bits))
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    theirs = torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, lowest, highest)
    assert torch.equal(ours, theirs)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**31), bits=st.integers(2, 8))
def test_levels_equal_float64_away_from_boundaries(seed, bits):
    generator = torch.Generator().manual_seed(seed)
    lowest, highest = activation_range(bits)
    x = torch.randn(4000, generator=generator)
    scale = torch.rand(1, generator=generator) * 0.2 + 0.01
    zero_point = int(torch.randint(lowest, highest + 1, (1,), generator=generator))
    exact = x.double() / scale.double()
    levels = quantize(x, scale, zero_point, lowest, highest).double()
    expected = (exact.round() + zero_point).clamp(lowest, highest)
    to_boundary = ((exact - exact.floor()) - 0.5).abs()
    away = to_boundary > 1e-4
    assert torch.equal(levels[away], expected[away])
    assert (levels - expected).abs().max() <= 1


def test_zero_is_exact():
    for bits in range(2, 9):
        lowest, highest = activation_range(bits)
        for zero_point in range(lowest, highest + 1):
            scale = torch.tensor([0.0371])
            levels = quantize(torch.zeros(3), scale, zero_point, lowest, highest)
            assert torch.equal(dequantize(levels, scale, zero_point), torch.zeros(3))


def test_inputs_are_not_changed():
    x = torch.randn(100)
    before = x.clone()
    scale = torch.tensor([0.1])
    levels = quantize(x, scale, 3, 0, 15)
    kept = levels.clone()
    dequantize(levels, scale, 3)
    fake_quantize_activation(x, 0.1, 3, 4)
    fake_quantize_weight(x.reshape(10, 10), torch.full((10,), 0.1), 4)
    assert torch.equal(x, before)
    assert torch.equal(levels, kept)


def test_ranges_of_levels():
    assert weight_range(2) == (-2, 1)
    assert weight_range(8) == (-128, 127)
    assert activation_range(2) == (0, 3)
    assert activation_range(8) == (0, 255)


def test_values_far_outside_the_range_go_to_its_ends():
    x = torch.tensor([-3e38, -1e20, -1.0, 0.0, 1.0, 1e20, 3e38])
    assert centered_levels(x, 0.5, 3, 4).tolist() == [-3, -3, -2, 0, 2, 12, 12]
    assert fake_quantize_activation(x, 0.5, 3, 4).tolist() == [-1.5, -1.5, -1, 0, 1, 6, 6]


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**31), bits=st.integers(2, 8), step=st.floats(1e-6, 1e3), spread=st.floats(1e-3, 1e6))
def test_biases_are_whole_multiples_of_their_step_in_float64(seed, bits, step, spread):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.rand(50, generator=generator) + 1e-3
    step = torch.tensor(step, dtype=torch.float32).item()
    steps = bias_scales(scales, step, bits)
    torch.testing.assert_close(steps.double(), scales.double() * step / 2 ** max(0, 7 - bits), rtol=1e-6, atol=0)
    bias = torch.randn(50, generator=generator) * steps * spread
    levels, moved = bias_levels(bias, steps), quantize_bias(bias, steps)
    assert levels.dtype == torch.int32
    assert ((levels.double() * steps - bias).abs() <= steps.double() * (0.5 + 1e-6)).all()
    torch.testing.assert_close(moved.double(), levels.double() * steps.double(), rtol=1e-7, atol=0)
    # Moved once is moved for good, also where float32 cannot hold every level.
    assert torch.equal(quantize_bias(moved, steps), moved)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), bits=st.integers(2, 8), step=st.floats(1e-4, 10), small=st.floats(1e-24, 1))
def test_the_least_weight_scale_is_the_one_with_which_a_bias_just_fits(seed, bits, step, small):
    bias = torch.randn(20, generator=torch.Generator().manual_seed(seed)) * small
    bias[3] = 0
    least = least_weight_scales(bias, step, bits)
    assert least[3] == 0
    steps = bias_scales(least.clamp_min(1e-38), step, bits).double()
    assert (bias.double().abs() / steps <= LARGEST_BIAS * (1 + 1e-5)).all()
