"""What bit-widths do to a layer: its parameters, and the layer that computes with them."""

from evoq_moo.quantizer.layer import QuantizedLayer, quantized_copy
from evoq_moo.quantizer.parameters import LayerParameters, parameters_of

__all__ = ["LayerParameters", "QuantizedLayer", "parameters_of", "quantized_copy"]
