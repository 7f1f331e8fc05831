"""The exact form: products of integers, which float32 sums without rounding, so that every runtime gets the same bits.

A layer of it computes `y = product(qx - zx, levels) * (weight_scales * sx) + bias`: the layer's own product on
integers held in float32, then one multiplication and one addition. Sums of integers below 2^24 are exact in float32 in
any order. Where a layer's could grow larger, its weights are split into digits, each with a product of its own.

Fake quantization, `product((qx - zx) * sx, levels * weight_scales) + bias`, is the same but for the rounding of its
sums, which every runtime orders in its own way.
"""

from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from evoq_moo.arithmetic import activation_range, per_channel
from evoq_moo.calibration._parameters import LayerParameters
from evoq_moo.engines.reference import WrappedLayer
from evoq_moo.errors import ArgumentError
from evoq_moo.export._shipment import Shipment, shipment_of
from evoq_moo.export._whole import Whole, replaced
from evoq_moo.layers import channel_repeats, weight_of

EXACT, QDQ = "exact", "qdq"
FORMS = (EXACT, QDQ)
"""Of a file: the exact one, and the usual one of QuantizeLinear and DequantizeLinear around float products."""
LARGEST = 2**24
"""Up to here float32 holds every integer."""
_SAME = 1e-4
"""How far, of the largest value, two ways to compute a layer may be apart; float32 sums are closer, others are not."""


def check_form(form: str) -> str:
    """Return a form.

    Raises:
        ArgumentError: There is no such form.
    """
    if form not in FORMS:
        raise ArgumentError(f"form: given {form!r}; allowed: {' or '.join(map(repr, FORMS))}")
    return form


def is_exact(p: LayerParameters, layer: nn.Module) -> bool:
    """Return whether a layer can compute in the exact form.

    Both of its sides must be integers, and it must be a product: a subclass that changes its weights before it
    multiplies, say, is not. A forward pass on random levels tells.
    """
    if p.weight_levels is None or p.weight_scales is None or p.activation_scale is None:
        return False
    x = _probe(p, layer)
    factor = per_output(p, layer, p.weight_scales * _step(p))
    try:
        with torch.no_grad():
            plain = _product(layer, p.value(), x * _step(p))
            exact = _product(layer, p.weight_levels.float(), x) * factor
    except (RuntimeError, TypeError, ValueError, IndexError):  # it takes more than an input
        return False
    return bool((plain - exact).abs().max() <= _SAME * plain.abs().max())


def _probe(p: LayerParameters, layer: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    highest, zero = activation_range(p.activation_bits)[1], int(p.activation_zero_point or 0)
    if isinstance(layer, nn.Linear):
        shape = [2, layer.in_features]
    else:
        reach = [d * (k - 1) + 4 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        shape = [1, layer.in_channels, *reach]
    levels = torch.randint(-zero, highest - zero + 1, shape, generator=generator)
    return levels.to(weight_of(layer).device, torch.float32)


def _product(layer: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    """Return a layer's product of given weights, without its bias."""
    own = {"weight": weight}
    bias: Tensor | None = getattr(layer, "bias", None)
    if bias is not None:
        own["bias"] = torch.zeros_like(bias)
    result: Tensor = functional_call(layer, own, (x,))
    return result


def _step(p: LayerParameters) -> Tensor:
    """Return the input's scale, as float32."""
    return torch.tensor(p.activation_scale, dtype=torch.float32)


def per_output(p: LayerParameters, layer: Any, values: Tensor) -> Tensor:
    """Return values of weight channels `(channels,)` shaped to broadcast over the layer's output."""
    return as_output(p, values.repeat(channel_repeats(layer)))


def as_output(p: LayerParameters, values: Tensor) -> Tensor:
    """Return values of output channels shaped to broadcast over the layer's output."""
    return values.reshape(-1, *[1] * (p.value().dim() - 2))


def digit_plan(p: LayerParameters) -> tuple[int, int]:
    """Return the base and number of digits a layer's weight levels are split into so that no sum passes 2^24.

    Raises:
        ArgumentError: The layer is not of integers, or has so many inputs that no base suffices.
    """
    if p.weight_levels is None or p.activation_zero_point is None:
        raise ArgumentError(f"layer {p.name!r}: given float weights or inputs; allowed: integers")
    levels = p.weight_levels.float()
    zero, highest = p.activation_zero_point, activation_range(p.activation_bits)[1]
    allowed = LARGEST / max(zero, highest - zero)
    for base, count in ((256, 1), (128, 2), (64, 2), (32, 2), (16, 2), (8, 3), (4, 4), (2, 8)):
        if all(_largest_sum(d, p.channel_dim) <= allowed for d in digits(levels, base, count)):
            return base, count
    raise ArgumentError(f"layer {p.name!r}: sums more inputs than float32 adds exactly; allowed: form 'qdq'")


def _largest_sum(levels: Tensor, channel_dim: int) -> float:
    """Return the largest sum of absolute values over all that one output can add up."""
    rows = levels.abs().double().transpose(0, channel_dim).flatten(1)
    return float(rows.sum(dim=1).max())


def digits(levels: Tensor, base: int, count: int) -> list[Tensor]:
    """Return levels as digits `-base/2 .. base/2 - 1`, the lowest first: levels = sum of digit k x base^k.

    The last digit is what is left, however large.
    """
    found = []
    for _ in range(count - 1):
        carried = torch.floor((levels + base // 2) / base)
        found.append(levels - carried * base)
        levels = carried
    return [*found, levels]


class ExactLayer(WrappedLayer):
    """A layer of the exact form that holds int8 levels; every operation is one that torch.export knows.

    A layer that can't compute exactly (:func:`is_exact`) computes fake quantization.

    Args:
        layer: A copy of the layer; its weight and bias are replaced.
        p: What it computes with.
    """

    levels: Tensor
    scales: Tensor
    factor: Tensor
    offset: Tensor | None

    def __init__(self, layer: nn.Module, p: LayerParameters) -> None:
        super().__init__(layer)
        self.exact = is_exact(p, layer)
        self.base, self.digits = digit_plan(p) if self.exact else (1, 1)
        bias = None if p.bias is None else p.bias.clone()
        if p.weight_levels is not None and p.weight_scales is not None:
            self.register_buffer("levels", p.weight_levels.clone())
            self.register_buffer("scales", per_channel(p.weight_scales, p.weight_levels, p.channel_dim).clone())
            # Its place is taken in forward; the float values must not be in the file.
            layer.weight = nn.Parameter(torch.empty(0), requires_grad=False)
        else:
            layer.weight = nn.Parameter(p.value().clone(), requires_grad=False)
        self.quantized = p.weight_levels is not None
        self.zero = p.activation_zero_point or 0
        self.highest = activation_range(p.activation_bits)[1]
        self.scale = p.activation_scale
        if p.activation_scale is not None:
            self.scale, self.inverse = _step(p).item(), _step(p).reciprocal().item()
        if self.exact and p.weight_scales is not None and p.weight_levels is not None:
            self.register_buffer("factor", per_output(p, layer, p.weight_scales * _step(p)))
            self.register_buffer("offset", None if bias is None else as_output(p, bias))
            layer.register_parameter("bias", None)
        elif bias is not None:
            layer.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: A002 - the name torch's layers use
        """Run the layer on its quantized input."""
        if self.scale is not None:
            input = torch.clamp(torch.round(input * self.inverse), -self.zero, self.highest - self.zero)  # noqa: A001
        if self.exact:
            parts = digits(self.levels.float(), self.base, self.digits)
            sums = [functional_call(self.layer, {"weight": part}, (input, *args), kwargs) for part in parts]
            total = reduce(lambda high, low: high * self.base + low, reversed(sums))
            y = total * self.factor
            return y if self.offset is None else y + self.offset
        if self.scale is not None:
            input = input * self.scale  # noqa: A001
        if not self.quantized:
            return self.layer(input, *args, **kwargs)
        return functional_call(self.layer, {"weight": self.levels.float() * self.scales}, (input, *args), kwargs)


def exact_network(network: nn.Module | Shipment) -> Whole:
    """Return a network under its policy that computes in the exact form: bit for bit what an exact file computes.

    The two can differ where float32 sums outside the quantized layers have another order, in means and softmax.

    Args:
        network: A `CalibratedNetwork`, or what `QuantizedNetwork.apply` gives.

    Raises:
        ArgumentError: Another kind of module.
    """
    shipment = network if isinstance(network, Shipment) else shipment_of(network)
    return replaced(shipment, lambda layer, i: ExactLayer(layer, shipment.layers[i]))
