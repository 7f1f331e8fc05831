"""Engines: ways to compute a network's heads under given bit-widths. The reference engine is the definition."""

from collections.abc import Iterator
from typing import Literal, Protocol

from torch import Tensor

from evoq_moo.engines._kernels import has_dot_products, integer_supported, kernel_geometry
from evoq_moo.engines.integer import IntegerEngine
from evoq_moo.engines.reference import ReferenceEngine
from evoq_moo.space import IntArray

__all__ = [
    "Engine",
    "EngineName",
    "IntegerEngine",
    "ReferenceEngine",
    "arithmetic_of",
    "integer_supported",
    "kernel_geometry",
]

EngineName = Literal["auto", "reference", "integer"]


class Engine(Protocol):
    """What a quantized network computes with."""

    name: str

    def heads(self, bits: IntArray) -> list[Tensor]:
        """Return the network's heads under bit-widths `(layers, 2)`, float32 `(samples, ...)` each."""

    def scan(self, bits: IntArray) -> Iterator[list[Tensor]]:
        """Give the heads under each of many bit-widths `(policies, layers, 2)` that leave most layers in float."""


def arithmetic_of(engine: str) -> str:
    """Name an engine and what of this processor its results depend on, for fingerprints.

    Args:
        engine: The engine's name.
    """
    if engine == IntegerEngine.name and not has_dot_products():
        return f"{engine}, 8 by 8 bits in float32"
    return engine
