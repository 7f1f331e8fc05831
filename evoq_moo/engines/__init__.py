"""Engines: ways to compute a network's outputs under given bit-widths. The reference engine is the definition."""

from evoq_moo.engines.reference import QuantizedLayer, ReferenceEngine

__all__ = ["QuantizedLayer", "ReferenceEngine"]
