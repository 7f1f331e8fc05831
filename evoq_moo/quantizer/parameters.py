"""What a quantized layer computes with, as plain data: what ranges give, calibration changes and export writes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evoq_moo.errors import ArgumentError
from evoq_moo.graph import per_channel
from evoq_moo.quantizer.arithmetic import (
    bias_levels,
    bias_scales,
    fake_quantize_activation,
    least_weight_scales,
    quantize_bias,
    weight_levels,
    weight_values,
)
from evoq_moo.quantizer.ranges import LayerRanges
from evoq_moo.space import LayerInfo

SPARE_BIAS = 2**12
"""A channel without weights gets a scale with which its bias has 2^18 levels at least: no product needs the scale."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerParameters:
    """Everything one layer of a quantized network computes with.

    The layer computes `y = product((qx - zx) * sx, levels * weight_scales) + bias`, with `qx` the unsigned levels of
    its input. A side at 16 or 32 bits is not quantized: `weight` then holds float32 weights, or the activation's
    scale and zero point are None.

    Where both sides are quantized the bias is moved to its levels, whoever makes the parameters: see
    :func:`evoq_moo.quantizer.bias_scales`. A channel whose bias would need more than 30 bits gets a larger weight
    scale, and its weights the nearest levels of that.

    Attributes:
        name: The layer's name.
        kind: Name of torch's layer that computes so, e.g. ``"Conv2d"``.
        weight_bits: Weight bit-width (bits).
        activation_bits: Bit-width of the input (bits).
        weight: Float32 weights `(out, in / groups, kernel...)` where they are not quantized, else None.
        weight_levels: Int8 levels, `-2^(bits-1) .. 2^(bits-1) - 1`, in the same shape; None where not quantized.
        weight_scales: Float32 `(out,)`, positive; None where not quantized.
        bias: Float32 `(out,)`, or None.
        activation_scale: Step of the input (float32 value); None where not quantized.
        activation_zero_point: Level of zero, `0 .. 2^bits - 1`; None where not quantized.
    """

    name: str
    kind: str
    weight_bits: int
    activation_bits: int
    weight: Tensor | None
    weight_levels: Tensor | None
    weight_scales: Tensor | None
    bias: Tensor | None
    activation_scale: float | None
    activation_zero_point: int | None

    def __post_init__(self) -> None:
        if self.weight_levels is None or self.weight_scales is None or self.bias is None:
            return
        if self.activation_scale is None or self.weight_levels.dim() == 0:
            return
        scales, levels = self.weight_scales, self.weight_levels
        least = least_weight_scales(self.bias, self.activation_scale, self.weight_bits)
        empty = (levels.flatten(1) == 0).all(dim=1) & (least > 0)
        fitting = torch.where(empty, scales.minimum(least * SPARE_BIAS), scales).maximum(least)
        if not torch.equal(fitting, scales):
            values = weight_values(levels, scales)
            object.__setattr__(self, "weight_levels", weight_levels(values, fitting, self.weight_bits).to(torch.int8))
            object.__setattr__(self, "weight_scales", fitting)
        steps = bias_scales(fitting, self.activation_scale, self.weight_bits)
        object.__setattr__(self, "bias", quantize_bias(self.bias, steps))

    @property
    def is_integer(self) -> bool:
        """Whether both sides are quantized, so that the layer is a product of integers."""
        return self.quantized_weight and self.quantized_activation

    @property
    def bias_scales(self) -> Tensor | None:
        """Float32 step of each output channel's bias, `(out,)`; None unless both sides are quantized."""
        if self.weight_scales is None or self.activation_scale is None:
            return None
        return bias_scales(self.weight_scales, self.activation_scale, self.weight_bits)

    @property
    def bias_levels(self) -> Tensor | None:
        """Int32 levels of the bias, `(out,)`; None unless there is one and both sides are quantized."""
        steps = self.bias_scales
        return None if steps is None or self.bias is None else bias_levels(self.bias, steps)

    @property
    def quantized_weight(self) -> bool:
        """Whether the weights are levels."""
        return self.weight_levels is not None

    @property
    def quantized_activation(self) -> bool:
        """Whether the input is quantized."""
        return self.activation_scale is not None

    def value(self) -> Tensor:
        """Return the weights that the layer multiplies by, float32."""
        if self.weight is not None:
            return self.weight
        if self.weight_levels is None or self.weight_scales is None:
            raise ArgumentError(
                f"layer {self.name!r}: given neither weights nor levels and scales; allowed: one of them"
            )
        return weight_values(self.weight_levels, self.weight_scales)

    def quantize_input(self, x: Tensor) -> Tensor:
        """Return an input moved to its levels; as it is where it is not quantized."""
        if self.activation_scale is None or self.activation_zero_point is None:
            return x
        return fake_quantize_activation(x, self.activation_scale, self.activation_zero_point, self.activation_bits)

    def with_levels(self, weight: Tensor, scales: Tensor) -> "LayerParameters":
        """Return the layer with weights moved to the nearest levels of given scales."""
        levels = weight_levels(weight, scales, self.weight_bits).to(torch.int8)
        return replace(self, weight_levels=levels, weight_scales=scales)

    def scaled(self, gain: Tensor, bias: Tensor | None) -> "LayerParameters":
        """Return the layer with its products multiplied by a positive gain per output channel, and another bias.

        Args:
            gain: Float32 `(channels,)`, as many as weight scales.
            bias: The new bias.
        """
        if self.weight_scales is None:
            weight = self.value()
            return replace(self, weight=weight * per_channel(gain, weight), bias=bias)
        return replace(self, weight_scales=self.weight_scales * gain, bias=bias)


def parameters_of(
    info: LayerInfo, weight: Tensor, bias: Tensor | None, ranges: LayerRanges, bits: Sequence[int]
) -> LayerParameters:
    """Return what a layer computes with before calibration: nearest levels, tabulated ranges.

    Args:
        info: The layer.
        weight: Its float32 weight `(out, in / groups, kernel...)`.
        bias: Its bias `(out,)` or None.
        ranges: Its tabulated ranges.
        bits: Weight and activation bit-width.
    """
    weight_bits, activation_bits = (int(b) for b in bits)
    found = ranges.activation.get(activation_bits)
    start = LayerParameters(
        name=info.name,
        kind=info.kind,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        weight=None if weight_bits in ranges.weight_scales else weight,
        weight_levels=None,
        weight_scales=None,
        bias=bias,
        activation_scale=None if found is None else found.scale,
        activation_zero_point=None if found is None else found.zero_point,
    )
    if weight_bits not in ranges.weight_scales:
        return start
    return start.with_levels(weight, ranges.weight_scales[weight_bits].to(weight.device))
