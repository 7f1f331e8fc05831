"""The arithmetic every engine must agree with: integer levels of weights and activations.

Weights are symmetric, per output channel, signed `b`-bit integers; activations are affine, per tensor, unsigned
`b`-bit integers:

    q = clamp(round(x / scale) + zero_point, lowest, highest),    x' = (q - zero_point) * scale

in float32, rounding half to even and multiplying by the float32 reciprocal of the scale, as `torch.ao`'s fake-quantize
kernels do. A layer computes `conv((qx - zx) * sx, qw * sw) + bias`, and everything between layers is float32.

Our choice (the abstract does not fix it): signed weights use the full range, -2^(b-1) .. 2^(b-1) - 1.
"""

import torch
from torch import Tensor

from evoq_moo.graph import per_channel

VERSION = 1
"""Changes whenever a result could change: it is part of every evaluation's fingerprint."""


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


def dequantize(levels: Tensor, scale: Tensor, zero_point: Tensor | int) -> Tensor:
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
