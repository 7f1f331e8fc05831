"""What bit-widths do to a layer: its parameters, and the layer that computes with them."""

from evoq_moo.quantizer import arithmetic
from evoq_moo.quantizer.arithmetic import (
    activation_range,
    centered_levels,
    fake_quantize_activation,
    fake_quantize_weight,
    weight_levels,
    weight_range,
)
from evoq_moo.quantizer.layer import QuantizedLayer, quantized_copy
from evoq_moo.quantizer.parameters import LayerParameters, parameters_of
from evoq_moo.quantizer.ranges import (
    ActivationHistogram,
    ActivationRange,
    LayerRanges,
    activation_range_of,
    outlier_note,
    weight_scales,
)

__all__ = [
    "ActivationHistogram",
    "ActivationRange",
    "LayerParameters",
    "LayerRanges",
    "QuantizedLayer",
    "activation_range",
    "activation_range_of",
    "arithmetic",
    "centered_levels",
    "fake_quantize_activation",
    "fake_quantize_weight",
    "outlier_note",
    "parameters_of",
    "quantized_copy",
    "weight_levels",
    "weight_range",
    "weight_scales",
]
