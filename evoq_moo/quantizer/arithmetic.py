"""The arithmetic every engine must agree with: integer levels of weights and activations.

Weights are symmetric, per output channel, signed `b`-bit integers; activations are affine, per tensor, unsigned
`b`-bit integers:

    q = clamp(round(x / scale) + zero_point, lowest, highest),    x' = (q - zero_point) * scale

in float32, rounding half to even and multiplying by the float32 reciprocal of the scale, as `torch.ao`'s fake-quantize
kernels do. A layer computes `conv((qx - zx) * sx, qw * sw) + bias`, and everything between layers is float32.

Two more roundings are those of integer runtimes, so that what is searched is what runs. The bias of a layer with both
sides quantized is an int32 multiple of `sx * sw * 2^-k`, `k = max(0, 7 - weight bits)`: levels of fewer than 7 bits are
shifted left to 7 there, which is exact and gives the bias a finer step. And results that something else than quantized
layers reads have 8 bits (:mod:`evoq_moo.quantizer.results`).

Our choice (the abstract does not fix it): signed weights use the full range, -2^(b-1) .. 2^(b-1) - 1.
"""

import torch
from torch import Tensor

from evoq_moo.graph import per_channel

VERSION = 2
"""Changes whenever a result could change: it is part of every evaluation's fingerprint."""
SHIFTED_BITS = 7
"""Weights of fewer bits are shifted left to so many in integer runtimes, their scales divided by as much."""
LARGEST_BIAS = 2**30
"""Largest level of a bias: with as much again of products, sums stay within int32."""


def weight_range(bits: int) -> tuple[int, int]:
    """Return the lowest and highest level of signed `bits`-bit weights."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def activation_range(bits: int) -> tuple[int, int]:
    """Return the lowest and highest level of unsigned `bits`-bit activations."""
    return 0, 2**bits - 1


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor | int, lowest: int, highest: int) -> Tensor:
    """Return the integer levels of a tensor, as float32.

    Args:
        x: Float32 values of any shape.
        scale: Float32 step, broadcastable to `x`.
        zero_point: Level of zero, broadcastable to `x`.
        lowest: Lowest level.
        highest: Highest level.
    """
    return x.mul(scale.reciprocal()).round_().add_(zero_point).clamp_(lowest, highest)


def dequantize(levels: Tensor, scale: Tensor | float, zero_point: Tensor | int) -> Tensor:
    """Return the float32 values of integer levels: `(levels - zero_point) * scale`."""
    return levels.sub(zero_point).mul_(scale)


def weight_levels(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Return the integer levels of weights, as float32.

    Args:
        weight: Float32 weights `(out, ...)`.
        scales: Float32 step of each output channel, `(out,)`.
        bits: Bit-width, 2..8 (bits).
    """
    return quantize(weight, per_channel(scales, weight), 0, *weight_range(bits))


def weight_values(levels: Tensor, scales: Tensor) -> Tensor:
    """Return the float32 weights of integer levels of any dtype; the rest as :func:`weight_levels`."""
    return levels * per_channel(scales, levels)


def fake_quantize_weight(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Return float32 weights moved to their levels; arguments as :func:`weight_levels`."""
    return weight_values(weight_levels(weight, scales, bits), scales)


def centered_levels(x: Tensor, scale: float, zero_point: int, bits: int) -> Tensor:
    """Return the integer levels of activations less the level of zero, as float32.

    `clamp(round(x / s) + z, 0, h) - z` equals `clamp(round(x / s), -z, h - z)`: all are integers that float32 holds
    exactly wherever the clamp does not decide.

    Args:
        x: Float32 values of any shape.
        scale: Step (float32 value).
        zero_point: Level of zero.
        bits: Bit-width, 2..8 (bits).
    """
    lowest, highest = activation_range(bits)
    inverse = torch.tensor(scale, dtype=torch.float32).reciprocal().item()
    return x.mul(inverse).round_().clamp_(lowest - zero_point, highest - zero_point)


def fake_quantize_activation(x: Tensor, scale: float, zero_point: int, bits: int) -> Tensor:
    """Return float32 activations moved to their levels; arguments as :func:`centered_levels`."""
    return centered_levels(x, scale, zero_point, bits).mul_(scale)


def bias_scales(weight_scales: Tensor, activation_scale: float, weight_bits: int) -> Tensor:
    """Return the step of each output channel's bias, float32 `(out,)`.

    Args:
        weight_scales: Float32 step of each output channel's weights, `(out,)`.
        activation_scale: Step of the layer's input (float32 value).
        weight_bits: Bit-width of the weights, 2..8 (bits).
    """
    return weight_scales * 2.0 ** -max(0, SHIFTED_BITS - weight_bits) * activation_scale


def bias_levels(bias: Tensor, scales: Tensor) -> Tensor:
    """Return the int32 levels of a bias `(out,)` on the steps that :func:`bias_scales` gives."""
    return (bias.double() / scales.double()).round_().clamp_(-LARGEST_BIAS, LARGEST_BIAS).to(torch.int32)


def quantize_bias(bias: Tensor, scales: Tensor) -> Tensor:
    """Return a float32 bias moved to its levels; arguments as :func:`bias_levels`."""
    return (bias_levels(bias, scales) * scales.double()).float()


def least_weight_scales(bias: Tensor, activation_scale: float, weight_bits: int) -> Tensor:
    """Return the least step of each output channel's weights with which its bias fits, float32 `(out,)`.

    A channel of tiny weights can have a large bias (BatchNorm folded into a channel that never varies). onnxruntime
    raises such weight scales as well (`adjust_weight_scale_for_int32_bias` of its static quantization).

    Args:
        bias: Float32 `(out,)`.
        activation_scale: Step of the layer's input.
        weight_bits: Bit-width of the weights, 2..8 (bits).
    """
    unit = bias_scales(torch.ones_like(bias), activation_scale, weight_bits).double()
    least = (bias.double().abs() / unit / LARGEST_BIAS).float()
    return torch.where(bias != 0, least.clamp_min(torch.finfo(torch.float32).tiny), 0.0)
