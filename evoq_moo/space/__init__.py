"""Which bit-widths there are: policies, layers and the search space."""

from evoq_moo.space.space import (
    ACTIVATION,
    ALLOWED_BITS,
    FLOAT_BITS,
    QUANTIZED_BITS,
    WEIGHT,
    FloatArray,
    Gene,
    IntArray,
    LayerInfo,
    Policy,
    SearchSpace,
    SpaceData,
    check_bits,
    whole_bits,
)

__all__ = [
    "ACTIVATION",
    "ALLOWED_BITS",
    "FLOAT_BITS",
    "QUANTIZED_BITS",
    "WEIGHT",
    "FloatArray",
    "Gene",
    "IntArray",
    "LayerInfo",
    "Policy",
    "SearchSpace",
    "SpaceData",
    "check_bits",
    "whole_bits",
]
