"""Engines: ways to compute a network's heads under given bit-widths. The reference engine is the definition."""

from collections.abc import Iterator
from typing import Literal, Protocol

from torch import Tensor

from evoq_moo.engines.integer import IntegerEngine, has_dot_products, integer_supported
from evoq_moo.engines.reference import QuantizedLayer, ReferenceEngine
from evoq_moo.space import IntArray

__all__ = [
    "Engine",
    "EngineName",
    "IntegerEngine",
    "QuantizedLayer",
    "ReferenceEngine",
    "has_dot_products",
    "integer_supported",
]

EngineName = Literal["auto", "reference", "integer"]


class Engine(Protocol):
    """What a quantized network computes with."""

    name: str

    def heads(self, bits: IntArray) -> list[Tensor]:
        """Return the network's heads under bit-widths `(layers, 2)`, float32 `(samples, ...)` each."""

    def scan(self, bits: IntArray) -> Iterator[list[Tensor]]:
        """Give the heads under each of many bit-widths `(policies, layers, 2)` that leave most layers in float."""
