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


def per_channel(scale: Tensor, weight: Tensor) -> Tensor:
    """Return scales `(out,)` shaped to broadcast over a weight `(out, ...)`."""
    return scale.reshape(-1, *(1,) * (weight.dim() - 1))


def fake_quantize_weight(weight: Tensor, scale: Tensor, bits: int, channel_dim: int = 0) -> Tensor:
    """Return float32 weights moved to their levels.

    Args:
        weight: Float32 weights.
        scale: Float32 step of each output channel, `(channels,)`.
        bits: Bit-width, 2..8 (bits).
        channel_dim: The dimension of `weight` that runs over output channels.
    """
    lowest, highest = weight_range(bits)
    return torch.fake_quantize_per_channel_affine(
        weight, scale, torch.zeros(len(scale), dtype=torch.int32, device=scale.device), channel_dim, lowest, highest
    )


def fake_quantize_activation(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Return float32 activations moved to their levels.

    Args:
        x: Float32 values of any shape.
        scale: Float32 step, one element.
        zero_point: Int32 level of zero, one element.
        bits: Bit-width, 2..8 (bits).
    """
    lowest, highest = activation_range(bits)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, lowest, highest)
