"""The exact form: products of integers, which float32 sums without rounding, so that every runtime gets the same bits.

A layer of it computes `y = product(qx - zx, levels) * (weight_scales * sx) + bias`: the layer's own product on
integers held in float32, then one multiplication and one addition. Sums of integers below 2^24 are exact in float32 in
any order. Where a layer's could grow larger, its weights are split into digits, each with a product of its own.

Fake quantization, `product((qx - zx) * sx, levels * weight_scales) + bias`, is the same but for the rounding of its
sums, which every runtime orders in its own way.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from evoq_moo.errors import ArgumentError
from evoq_moo.export._shipment import Shipment, shipment_of
from evoq_moo.export._whole import Whole, replaced
from evoq_moo.graph import Product, per_channel, product
from evoq_moo.quantizer import LayerParameters, ResultQuantizer, activation_range, centered_levels

EXACT, QDQ = "exact", "qdq"
LARGEST = 2**24
"""Up to here float32 holds every integer."""


def is_exact(p: LayerParameters) -> bool:
    """Return whether a layer can compute in the exact form: both of its sides must be integers."""
    return p.weight_levels is not None and p.weight_scales is not None and p.activation_scale is not None


def _step(p: LayerParameters) -> Tensor:
    """Return the input's scale, as float32."""
    return torch.tensor(p.activation_scale, dtype=torch.float32)


def as_output(p: LayerParameters, values: Tensor) -> Tensor:
    """Return values of output channels `(out,)` shaped to broadcast over the layer's output."""
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
        if all(_largest_sum(d) <= allowed for d in digits(levels, base, count)):
            return base, count
    raise ArgumentError(f"layer {p.name!r}: sums more inputs than float32 adds exactly; allowed: form 'qdq'")


def _largest_sum(levels: Tensor) -> float:
    """Return the largest sum of absolute values over all that one output can add up."""
    rows = levels.abs().double().flatten(1)
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


class ExactLayer(Product):
    """A layer of the exact form that holds int8 levels; every operation is one that torch.export knows.

    A layer with a float side computes fake quantization.

    Args:
        layer: The layer.
        p: What it computes with.
    """

    levels: Tensor
    scales: Tensor
    factor: Tensor
    offset: Tensor | None

    def __init__(self, layer: Product, p: LayerParameters) -> None:
        self.exact = is_exact(p)
        self.quantized = p.weight_levels is not None
        # The place of the weight is taken in forward; the float values must not be in the file.
        super().__init__(torch.empty(0) if self.quantized else p.value(), None, layer.geometry)
        self.base, self.digits = digit_plan(p) if self.exact else (1, 1)
        if p.weight_levels is not None and p.weight_scales is not None:
            self.register_buffer("levels", p.weight_levels.clone())
            self.register_buffer("scales", per_channel(p.weight_scales, p.weight_levels).clone())
        self.zero = p.activation_zero_point or 0
        self.bits = p.activation_bits
        self.scale = None if p.activation_scale is None else _step(p).item()
        if self.exact and p.weight_scales is not None:
            self.register_buffer("factor", as_output(p, p.weight_scales * _step(p)))
            self.register_buffer("offset", None if p.bias is None else as_output(p, p.bias.clone()))
        elif p.bias is not None:
            self.bias = nn.Parameter(p.bias.clone(), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name torch's layers use
        """Run the layer on its quantized input."""
        if self.scale is not None:
            input = centered_levels(input, self.scale, self.zero, self.bits)  # noqa: A001
        if self.exact:
            parts = digits(self.levels.float(), self.base, self.digits)
            sums = [product(input, part, None, self.geometry) for part in parts]
            total = reduce(lambda high, low: high * self.base + low, reversed(sums))
            y = total * self.factor
            return y if self.offset is None else y + self.offset
        if self.scale is not None:
            input = input * self.scale  # noqa: A001
        weight = self.levels.float() * self.scales if self.quantized else self.weight
        return product(input, weight, self.bias, self.geometry)


def exact_network(network: nn.Module | Shipment, names: Sequence[str] = ()) -> Whole:
    """Return a network under its policy that computes in the exact form: bit for bit what an exact file computes.

    The two can differ where float32 sums outside the quantized layers have another order, in means and softmax.

    Args:
        network: A `CalibratedNetwork`, or what `QuantizedNetwork.apply` gives.
        names: The network's keyword arguments, in order, where its inputs shall be positional.

    Raises:
        ArgumentError: Another kind of module.
    """
    shipment = network if isinstance(network, Shipment) else shipment_of(network)
    results = {p.name: ResultQuantizer(p) for p in shipment.results}
    return replaced(shipment, lambda layer, i: ExactLayer(layer, shipment.layers[i]), results, names)
