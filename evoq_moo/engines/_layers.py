"""The quantizable layers of an engine: their weights as levels or float32 values, kept within a memory bound."""

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evoq_moo.arithmetic import dequantize, per_channel, quantize, weight_range
from evoq_moo.engines._kernels import (
    Geometry,
    PackedFloat,
    PackedWeight,
    Quantizer,
    accumulator_fits,
    float_packable,
    pack_conv,
    pack_float_conv,
    pack_linear,
    products_fit,
)
from evoq_moo.layers import channel_dim
from evoq_moo.ranges import LayerRanges

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
    """

    quantizer: Quantizer | None
    packed: PackedWeight | None
    weight: Tensor | PackedFloat | None
    bias: Tensor | None


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

    def __init__(self, index: int, name: str, module: nn.Module, ranges: LayerRanges, cache: WeightCache) -> None:
        self.index = index
        self.name = name
        self.module = module
        weight: Tensor = module.weight  # type: ignore[assignment]
        self.weight = weight.detach()
        self.bias: Tensor | None = None if getattr(module, "bias", None) is None else module.bias.detach()  # type: ignore[operator]
        self._ranges = ranges
        self._cache = cache
        self._dim = channel_dim(module)
        self._geometry: Geometry | None = None
        self._shape: tuple[int, ...] | None = None
        self.quantizers = {bits: Quantizer(r.scale, r.zero_point, bits) for bits, r in ranges.activation.items()}
        self.refusal = self._refusal()
        if self.refusal:
            logger.info("%s computes in float32, fake-quantized: %s", name, self.refusal)

    def _refusal(self) -> str:
        if self.weight.dtype != torch.float32:
            return f"its weight is {self.weight.dtype}"
        if isinstance(self.module, nn.ConvTranspose2d):
            return "there is no integer kernel for transposed convolutions"
        if not isinstance(self.module, nn.Linear | nn.Conv1d | nn.Conv2d):
            return f"there is no integer kernel for {type(self.module).__name__}"
        fan_in = self.weight[0].numel()
        if not accumulator_fits(fan_in):
            return f"sums of {fan_in} products of levels can overflow int32"
        return ""

    def is_integer(self, weight_bits: int, activation_bits: int) -> bool:
        """Return whether the layer computes in integers at these bit-widths."""
        quantized = weight_bits in self._ranges.weight_scales and activation_bits in self.quantizers
        return not self.refusal and quantized and products_fit(weight_bits, activation_bits)

    def place(self, geometry: Geometry | None, input_shape: tuple[int, ...] | None) -> None:
        """Say where the layer's kernel is put (None for a matrix product) and, where known, on which input."""
        self._geometry = geometry
        self._shape = input_shape

    def bind(self, weight_bits: int, activation_bits: int) -> BoundLayer:
        """Return the layer at these bit-widths; 16 and 32 mean float."""
        quantizer = self.quantizers.get(activation_bits)
        if self.is_integer(weight_bits, activation_bits):
            packed = self._cache.get((self.index, weight_bits, True), lambda: self._pack(weight_bits))
            return BoundLayer(quantizer, packed, None, self.bias)  # type: ignore[arg-type]
        known = isinstance(self.module, nn.Conv2d) and self._shape is not None
        packable = known and float_packable(self.weight, self._geometry)
        if weight_bits not in self._ranges.weight_scales and not packable:
            return BoundLayer(quantizer, None, self.weight, self.bias)
        weight = self._cache.get((self.index, weight_bits, False), lambda: self._float(weight_bits, packable))
        return BoundLayer(quantizer, None, weight, self.bias)  # type: ignore[arg-type]

    def _levels(self, bits: int) -> tuple[Tensor, Tensor]:
        scales = self._ranges.weight_scales[bits]
        scale = per_channel(scales, self.weight, self._dim)
        return quantize(self.weight, scale, 0, *weight_range(bits)), scale

    def _float(self, bits: int, packable: bool) -> Tensor | PackedFloat:
        weight = self.weight
        if bits in self._ranges.weight_scales:
            levels, scale = self._levels(bits)
            weight = dequantize(levels, scale, 0)
        if packable and self._geometry is not None and self._shape is not None:
            return pack_float_conv(weight, self._geometry, self._shape)
        return weight

    def _pack(self, bits: int) -> PackedWeight:
        levels = self._levels(bits)[0].to(torch.int8)
        scales = self._ranges.weight_scales[bits]
        if self._geometry is None:
            rows = 1 if self._shape is None else math.prod(self._shape) // levels.shape[1]
            return pack_linear(levels.flatten(1), scales, rows)
        levels = levels.unsqueeze(2) if levels.dim() == 3 else levels
        shape = self._shape if self._shape is not None and len(self._shape) == 4 else None
        return pack_conv(levels, scales, self._geometry, shape)


def integer_layers(network: nn.Module, ranges: Mapping[str, LayerRanges]) -> list[IntegerLayer]:
    """Return the quantizable layers of a network, in policy order, with one cache for all their weights."""
    modules = dict(network.named_modules(remove_duplicate=False))
    cache = WeightCache()
    return [IntegerLayer(i, name, modules[name], found, cache) for i, (name, found) in enumerate(ranges.items())]
