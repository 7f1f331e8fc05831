"""The quantizable layers of an engine: their weights as levels or float32 values, kept within a memory bound."""

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evoq_moo.engines._kernels import (
    PackedFloat,
    PackedWeight,
    Quantizer,
    accumulator_fits,
    float_packable,
    kernel_geometry,
    pack_conv,
    pack_float_conv,
    pack_linear,
    products_fit,
)
from evoq_moo.graph import Geometry, GraphNetwork, Grid, Product
from evoq_moo.quantizer import LayerRanges, bias_scales, fake_quantize_weight, quantize_bias, weight_levels

logger = logging.getLogger("evoq_moo")

WEIGHT_MEMORY = 2**30
"""Packed and float weights kept between evaluations (bytes)."""


Held = PackedWeight | PackedFloat | Tensor
Key = tuple[int, int, bool]


class WeightCache:
    """Least recently used weights leave first once the bound is passed.

    Args:
        bound: Memory it may hold (bytes).
    """

    def __init__(self, bound: int = WEIGHT_MEMORY) -> None:
        self._bound = bound
        self._held: OrderedDict[Key, Held] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Key, make: Callable[[], Held]) -> Held:
        """Return what is held under (layer, bits, packed), made on first use."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        made = make()
        with self._lock:
            if key not in self._held:
                self._held[key] = made
                self._bytes += made.nbytes
                while self._bytes > self._bound and len(self._held) > 1:
                    self._bytes -= self._held.popitem(last=False)[1].nbytes
        return made


@dataclass(frozen=True)
class BoundLayer:
    """One layer under one policy.

    Attributes:
        quantizer: Of its input; None where the input stays float.
        packed: Weight levels, where the layer computes in integers.
        weight: Float32 weights moved to their levels (or as they are), where it computes in float; in the kernel's
            layout where there is one for the layer.
        bias: Float32 `(out,)` or None.
        kernel: Where a kernel of two dimensions is put; None for a matrix product.
    """

    quantizer: Quantizer | None
    packed: PackedWeight | None
    weight: Tensor | PackedFloat | None
    bias: Tensor | None
    kernel: Geometry | None


@dataclass(frozen=True)
class BoundNetwork:
    """A network under one policy.

    Attributes:
        layers: Its layers, in policy order.
        results: Of the results that are quantized, in the order of the plan.
    """

    layers: Sequence[BoundLayer]
    results: Sequence[Quantizer] = ()


class IntegerLayer:
    """One quantizable layer: what its weights are at any bit-width.

    Args:
        index: Position in policy order.
        name: Module name.
        module: The float layer; its weight is read at construction.
        ranges: Its ranges.
        cache: Where weights are kept.

    Attributes:
        refusal: Why the layer can't compute in integers; empty if it can.
    """

    def __init__(self, index: int, name: str, module: Product, ranges: LayerRanges, cache: WeightCache) -> None:
        self.index = index
        self.name = name
        self.geometry = module.geometry
        self.weight = module.weight.detach()
        self.bias = None if module.bias is None else module.bias.detach()
        self._ranges = ranges
        self._cache = cache
        self._kernel = kernel_geometry(self.geometry, self.weight)
        self._shape: tuple[int, ...] | None = None
        self.quantizers = {bits: Quantizer(r.scale, r.zero_point, bits) for bits, r in ranges.activation.items()}
        self.refusal = self._refusal()
        if self.refusal:
            logger.info("%s computes in float32, fake-quantized: %s", name, self.refusal)

    def _refusal(self) -> str:
        if self.geometry.transposed or self.geometry.dims == 3:
            return f"there is no integer kernel for {self.geometry.kind}"
        fan_in = self.weight[0].numel()
        if not accumulator_fits(fan_in):
            return f"sums of {fan_in} products of levels can overflow int32"
        return ""

    def is_quantized(self, weight_bits: int, activation_bits: int) -> bool:
        """Return whether the layer is a product of integers at these bit-widths, however it is computed."""
        return weight_bits in self._ranges.weight_scales and activation_bits in self.quantizers

    def grid(self, activation_bits: int) -> Grid | None:
        """Return the levels of its input; None where it stays float."""
        found = self._ranges.activation.get(activation_bits)
        return None if found is None else Grid(found.scale, found.zero_point, activation_bits)

    def is_integer(self, weight_bits: int, activation_bits: int) -> bool:
        """Return whether the layer computes in integers at these bit-widths."""
        quantized = self.is_quantized(weight_bits, activation_bits)
        return not self.refusal and quantized and products_fit(weight_bits, activation_bits)

    def _bias(self, weight_bits: int, activation_bits: int) -> Tensor | None:
        if self.bias is None or not self.is_quantized(weight_bits, activation_bits):
            return self.bias
        step = self._ranges.activation[activation_bits].scale
        return quantize_bias(self.bias, bias_scales(self._ranges.weight_scales[weight_bits], step, weight_bits))

    def place(self, input_shape: tuple[int, ...] | None) -> None:
        """Say, where known, the shape of the input that weights are packed for."""
        self._shape = input_shape

    def bind(self, weight_bits: int, activation_bits: int) -> BoundLayer:
        """Return the layer at these bit-widths; 16 and 32 mean float."""
        quantizer = self.quantizers.get(activation_bits)
        bias = self._bias(weight_bits, activation_bits)
        if self.is_integer(weight_bits, activation_bits):
            packed = self._cache.get((self.index, weight_bits, True), lambda: self._pack(weight_bits))
            return BoundLayer(quantizer, packed, None, bias, self._kernel)  # type: ignore[arg-type]
        known = self.geometry.dims == 2 and self._shape is not None
        packable = known and float_packable(self.weight, self._kernel)
        if weight_bits not in self._ranges.weight_scales and not packable:
            return BoundLayer(quantizer, None, self.weight, bias, self._kernel)
        weight = self._cache.get((self.index, weight_bits, False), lambda: self._float(weight_bits, packable))
        return BoundLayer(quantizer, None, weight, bias, self._kernel)  # type: ignore[arg-type]

    def _float(self, bits: int, packable: bool) -> Tensor | PackedFloat:
        weight = self.weight
        if bits in self._ranges.weight_scales:
            weight = fake_quantize_weight(weight, self._ranges.weight_scales[bits], bits)
        if packable and self._kernel is not None and self._shape is not None:
            return pack_float_conv(weight, self._kernel, self._shape)
        return weight

    def _pack(self, bits: int) -> PackedWeight:
        scales = self._ranges.weight_scales[bits]
        levels = weight_levels(self.weight, scales, bits).to(torch.int8)
        if self._kernel is None:
            rows = 1 if self._shape is None else math.prod(self._shape) // levels.shape[1]
            return pack_linear(levels.flatten(1), scales, rows)
        levels = levels.unsqueeze(2) if levels.dim() == 3 else levels
        shape = self._shape if self._shape is not None and len(self._shape) == 4 else None
        return pack_conv(levels, scales, self._kernel, shape)


def integer_layers(network: GraphNetwork, ranges: Mapping[str, LayerRanges]) -> list[IntegerLayer]:
    """Return the layers of a network, in policy order, with one cache for all their weights."""
    cache = WeightCache()
    modules = [module for module in network.products if isinstance(module, Product)]
    names = network.graph.layers
    return [IntegerLayer(i, name, modules[i], ranges[name], cache) for i, name in enumerate(names)]
