"""Folding what stands behind a layer into it: BatchNorm, and scales and shifts of its channels."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from evoq_moo.graph.finding import arguments_of
from evoq_moo.graph.ops import Const, Geometry, Op, Ref, aten
from evoq_moo.graph.products import per_channel


def norm_terms(
    op: Op, geometry: Geometry, made: tuple[Any, ...] | None, constants: Mapping[str, Any]
) -> tuple[Tensor, Tensor] | None:
    """Return the gain and shift of a BatchNorm behind a layer; None where it can't be folded.

    `g = gamma / sqrt(variance + eps)` and `beta - mean * g`. It can't be folded where it takes its moments from the
    batch, or scales another axis than the layer's channels.

    Args:
        op: The BatchNorm.
        geometry: Of the layer.
        made: Shape of the layer's result.
        constants: Constants by name.

    Returns:
        Float64 `(out,)` each.
    """
    x, weight, bias, mean, variance, training, _, eps, _ = arguments_of(op)
    constant = all(value is None or isinstance(value, Const) for value in (weight, bias, mean, variance))
    fits = bool(geometry.dims) or (made is not None and len(made) == 2)
    if training or mean is None or variance is None or not constant or not fits or not isinstance(x, Ref):
        return None

    def double(constant: Const) -> Tensor:
        tensor: Tensor = constants[constant.name]
        return tensor.double()

    mu, gain = double(mean), torch.rsqrt(double(variance) + float(eps))
    if weight is not None:
        gain = gain * double(weight)
    return gain, (torch.zeros_like(mu) if bias is None else double(bias)) - mu * gain


def affine_terms(
    op: Op, channels: int, geometry: Geometry, constants: Mapping[str, Any]
) -> tuple[Tensor, Tensor] | None:
    """Return the gain and shift of an operation that scales or shifts a layer's channels by constants, else None.

    Args:
        op: The operation.
        channels: The layer's output channels.
        geometry: Of the layer.
        constants: Constants by name.

    Returns:
        Float64 `(out,)` each.
    """
    known = (aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor)
    if op.target not in known or op.kwargs or len(op.args) != 2:
        return None
    first, second = op.args
    if isinstance(first, Const) and op.target in (aten.mul.Tensor, aten.add.Tensor):
        first, second = second, first
    if not isinstance(first, Ref) or not isinstance(second, Const):
        return None
    values = _per_channel(constants[second.name], channels, geometry)
    if values is None:
        return None
    gain = {aten.mul.Tensor: values, aten.div.Tensor: 1 / values}.get(op.target, torch.ones_like(values))
    shift = {aten.add.Tensor: values, aten.sub.Tensor: -values}.get(op.target, torch.zeros_like(values))
    return gain, shift


def _per_channel(values: Any, channels: int, geometry: Geometry) -> Tensor | None:
    """Return a constant as float64 `(out,)` if it has one value for each output channel, else None."""
    if not isinstance(values, Tensor) or values.dtype != torch.float32 or values.numel() != channels:
        return None
    shape = tuple(values.shape)
    expected = (channels, *(1,) * geometry.dims)
    if shape[-len(expected) :] != expected or any(side != 1 for side in shape[: -len(expected)]):
        return None
    return values.detach().double().reshape(channels)


def folded(weight: Tensor, bias: Tensor | None, gain: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Return the float32 weight and bias of a layer whose result is multiplied by a gain and shifted.

    Args:
        weight: `(out, ...)`.
        bias: `(out,)` or None.
        gain: Float64 `(out,)`.
        shift: Float64 `(out,)`.
    """
    scaled = weight.double() * per_channel(gain, weight)
    old = torch.zeros_like(gain) if bias is None else bias.double()
    return scaled.float(), (shift + old * gain).float()
