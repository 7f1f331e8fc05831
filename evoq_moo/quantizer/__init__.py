"""What bit-widths do to a network: the parameters of layers and results, and the layer that computes with them."""

from evoq_moo.quantizer.layer import QuantizedLayer, quantize_results, quantized_copy
from evoq_moo.quantizer.parameters import LayerParameters, parameters_of
from evoq_moo.quantizer.results import FLOAT_RESULTS, ResultParameters, ResultQuantizer, ResultRanges

__all__ = [
    "FLOAT_RESULTS",
    "LayerParameters",
    "QuantizedLayer",
    "ResultParameters",
    "ResultQuantizer",
    "ResultRanges",
    "parameters_of",
    "quantize_results",
    "quantized_copy",
]
