"""What bit-widths do to a network: the parameters of layers and results, and the layer that computes with them."""

from evoq_moo.quantizer import arithmetic
from evoq_moo.quantizer.arithmetic import (
    activation_range,
    bias_scales,
    centered_levels,
    dequantize,
    fake_quantize_activation,
    fake_quantize_weight,
    quantize_bias,
    weight_levels,
    weight_range,
)
from evoq_moo.quantizer.layer import QuantizedLayer, quantize_results, quantized_copy
from evoq_moo.quantizer.parameters import LayerParameters, parameters_of
from evoq_moo.quantizer.ranges import (
    ActivationHistogram,
    ActivationRange,
    LayerRanges,
    activation_range_of,
    layer_weight_scales,
    outlier_note,
    result_range,
    weight_scales,
)
from evoq_moo.quantizer.results import FLOAT_RESULTS, ResultParameters, ResultQuantizer, ResultRanges

__all__ = [
    "FLOAT_RESULTS",
    "ActivationHistogram",
    "ActivationRange",
    "LayerParameters",
    "LayerRanges",
    "QuantizedLayer",
    "ResultParameters",
    "ResultQuantizer",
    "ResultRanges",
    "activation_range",
    "activation_range_of",
    "arithmetic",
    "bias_scales",
    "centered_levels",
    "dequantize",
    "fake_quantize_activation",
    "fake_quantize_weight",
    "layer_weight_scales",
    "outlier_note",
    "parameters_of",
    "quantize_bias",
    "quantize_results",
    "quantized_copy",
    "result_range",
    "weight_levels",
    "weight_range",
    "weight_scales",
]
