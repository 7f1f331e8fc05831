"""A layer whose rounding, input step and bias are learned by gradient: AdaRound, LSQ and QDrop."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from evoq_moo.arithmetic import activation_range, per_channel, weight_range
from evoq_moo.calibration._parameters import LayerParameters

STRETCH = (-0.1, 1.1)
"""AdaRound's gamma and zeta: the sigmoid is stretched to reach 0 and 1 (Nagel et al. 2020, section 3.2)."""
_EDGE = 0.02
_PLACES = 2**16


class _QuantizedInput(torch.autograd.Function):
    """Fake quantization with the straight-through estimator, and LSQ's gradient of the step (Esser et al. 2020)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        ratio = x * scale.reciprocal()
        levels = ratio.round().clamp_(low, high)
        ctx.save_for_backward(ratio, levels)
        ctx.bounds = low, high
        return levels * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        ratio, levels = ctx.saved_tensors
        low, high = ctx.bounds
        passed = grads[0] * ((ratio >= low) & (ratio <= high))
        # The derivative of s * round(x / s) by s is level - x / s inside the range, and the level at its ends.
        step = (grads[0] * levels).sum() - (passed * ratio).sum()
        return passed, step.reshape(1), None, None


class DropMask:
    """Random masks of any shape, cut from one buffer at random places: a fresh draw costs as much as the layer.

    Args:
        generator: Of the draws.
        probability: Of a True.
    """

    def __init__(self, generator: torch.Generator, probability: float) -> None:
        self._generator = generator
        self._probability = probability
        self._buffer = torch.zeros(0, dtype=torch.bool)

    def reserve(self, count: int) -> None:
        """Make the buffer large enough for masks of `count` elements."""
        if len(self._buffer) < count + _PLACES:
            self._buffer = torch.rand(count + _PLACES, generator=self._generator) < self._probability

    def places(self, count: int) -> list[int]:
        """Return random places to cut masks from."""
        return torch.randint(_PLACES, (count,), generator=self._generator).tolist()

    def at(self, place: int, like: Tensor) -> Tensor:
        """Return the mask at a place, in the shape of a tensor."""
        return self._buffer[place : place + like.numel()].reshape(like.shape)


class LearnableLayer:
    """What is learned of one layer, around its parameters as they are.

    Weights: levels `floor + h(v)` with `h` AdaRound's stretched sigmoid, begun where the float weight lies between two
    levels, so that rounding `h` at the start gives the levels the layer has. Input: the logarithm of the factor on its
    step. Bias: a shift in units of the standard deviation of each output channel.

    Args:
        parameters: The layer.
        weight: Its float weight.
        spread: Standard deviation of each channel of its output in the float network.

    Attributes:
        parameters: As given.
        rounding: `v`, or None where weights are not quantized.
        step: Logarithm of the factor on the input's step, or None where the input is not quantized.
        shift: Of the bias.
    """

    def __init__(self, parameters: LayerParameters, weight: Tensor, spread: Tensor) -> None:
        self.parameters = parameters
        self._spread = spread
        self.shift = torch.zeros_like(spread)
        self.step = torch.zeros(1) if parameters.quantized_activation else None
        self.rounding: Tensor | None = None
        self._weight = parameters.value()
        if parameters.weight_levels is not None and parameters.weight_scales is not None:
            self._scale = per_channel(parameters.weight_scales, weight, parameters.channel_dim)
            levels = parameters.weight_levels.float()
            place = levels + (weight / self._scale - levels).clamp(_EDGE - 0.5, 0.5 - _EDGE)
            self._floor = place.floor()
            low, high = STRETCH
            part = ((place - self._floor) - low) / (high - low)
            self.rounding = torch.log(part / (1 - part))

    def variables(self) -> list[Tensor]:
        """Return what is learned, in a fixed order."""
        return [v for v in (self.rounding, self.step, self.shift) if v is not None]

    def up(self, rounding: Tensor) -> Tensor:
        """Return how far each weight is rounded up, 0..1."""
        low, high = STRETCH
        return (torch.sigmoid(rounding) * (high - low) + low).clamp(0, 1)

    def value(self) -> Tensor:
        """Return the weights as they are while learned."""
        if self.rounding is None:
            return self._weight
        lowest, highest = weight_range(self.parameters.weight_bits)
        return (self._floor + self.up(self.rounding)).clamp(lowest, highest) * self._scale

    def penalty(self, beta: float) -> Tensor | None:
        """Return AdaRound's penalty, mean over weights: 1 - |2 h - 1|^beta, which is 0 at whole levels."""
        if self.rounding is None:
            return None
        return (1 - (2 * self.up(self.rounding) - 1).abs().pow(beta)).mean()

    def bias(self) -> Tensor:
        """Return the bias."""
        old = self.parameters.bias
        shift = self.shift * self._spread
        return shift if old is None else old + shift

    def quantize_input(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """Return the quantized input; where `keep` holds, left in float (QDrop)."""
        p = self.parameters
        if self.step is None or p.activation_scale is None or p.activation_zero_point is None:
            return x
        zero, highest = p.activation_zero_point, activation_range(p.activation_bits)[1]
        scale = self.step.exp() * p.activation_scale
        result: Tensor = _QuantizedInput.apply(x, scale, -zero, highest - zero)
        return result if keep is None else torch.where(keep, x, result)

    def result(self) -> LayerParameters:
        """Return the layer with what was learned, weights at whole levels within their bits."""
        p = replace(self.parameters, bias=self.bias().detach().clone())
        if self.step is not None and p.activation_scale is not None:
            p = replace(p, activation_scale=float((self.step.exp() * p.activation_scale).detach()))
        if self.rounding is not None:
            lowest, highest = weight_range(p.weight_bits)
            levels = (self._floor + (self.up(self.rounding) >= 0.5)).clamp(lowest, highest)
            p = replace(p, weight_levels=levels.detach().to(torch.int8))
        return p


def annealed_beta(progress: float, *, warm: float = 0.2, start: float = 20.0, end: float = 2.0) -> float | None:
    """Return the penalty's exponent at a point 0..1 of the optimization: AdaRound's schedule; None while warming up."""
    if progress < warm:
        return None
    relative = (progress - warm) / (1 - warm)
    return end + (start - end) * 0.5 * (1 + math.cos(relative * math.pi))
