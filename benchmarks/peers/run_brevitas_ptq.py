"""Brevitas's post-training quantization of one network at given bit-widths, on the same samples and labelled images.

    python benchmarks/peers/run_brevitas_ptq.py EXPORT --bits W4A4 --output R/brevitas_w4a4.json

Its own recipe for vision (`brevitas_examples.imagenet_classification`): BatchNorm folded and weights equalized across
layers, per-channel symmetric weights and per-tensor activations with ranges of minimum squared error, first and last
layer at 8 bits, then bias correction; and the same with GPTQ before the bias correction.
"""

import copy
from typing import Any

import torch
from _common import Export
from _ptq import batches, ptq_parser, run_methods
from brevitas.graph.quantize import layerwise_quantize, preprocess_for_quantize
from brevitas.inject import value
from brevitas_examples.imagenet_classification.ptq import ptq_common

SETTINGS = {"first_last_bits": 8, "weights": "per channel, MSE", "activations": "per tensor, MSE"}
METHODS = ("bias correction", "GPTQ, bias correction")


def quantized(export: Export, weight_bits: int, activation_bits: int) -> torch.nn.Module:
    """Return the network quantized, before anything is calibrated."""
    model = preprocess_for_quantize(
        copy.deepcopy(export.model),
        trace_model=True,
        equalize_iters=20,
        equalize_merge_bias=True,
        merge_bn=True,
        channel_splitting_ratio=0.0,
    )
    pinned = {id(model.get_submodule(name)): bits for name, bits in export.pinned.items()}

    def width(bits: int) -> Any:
        @value
        def of(module: torch.nn.Module) -> int:
            return pinned.get(id(module), bits)

        return of

    maps = ptq_common.create_quant_maps(
        dtype=torch.float32,
        device="cpu",
        bias_bit_width=None,
        weight_bit_width=width(weight_bits),
        weight_param_method="mse",
        weight_scale_type="float_scale",
        weight_quant_type="sym",
        weight_quant_granularity="per_channel",
        weight_narrow_range=False,
        weight_quant_format="int",
        act_quant_format="int",
        act_bit_width=width(activation_bits),
        act_scale_type="float_scale",
        act_scale_computation_type="static",
        act_param_method="mse",
        act_quant_type="asym",
        act_quant_granularity="per_tensor",
        act_quant_percentile=99.999,
    )
    return layerwise_quantize(model, compute_layer_map=maps[1])


def run(export: Export, method: str, weight_bits: int, activation_bits: int) -> torch.nn.Module:
    """Return the network quantized and calibrated by one method."""
    loader = batches(export.samples)
    model = quantized(export, weight_bits, activation_bits).eval()
    with torch.no_grad():  # its weight quantizers take their ranges in a first pass
        model(export.samples[:1])
    ptq_common.calibrate(loader, model)
    if "GPTQ" in method:
        ptq_common.apply_gptq(loader, model, act_order=True, use_quant_activations=True)
    ptq_common.apply_bias_correction(loader, model)
    return model


if __name__ == "__main__":
    torch.manual_seed(0)
    run_methods(ptq_parser(__doc__, METHODS).parse_args(), package="brevitas", settings=SETTINGS, quantize=run)
