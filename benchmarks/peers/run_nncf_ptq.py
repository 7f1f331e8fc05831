"""NNCF's post-training quantization of one network at given bit-widths, on the same samples and labelled images.

    python benchmarks/peers/run_nncf_ptq.py EXPORT --bits W4A8 --output R/nncf_w4a8.json

`nncf.quantize` with its advanced parameters for other bit-widths than 8, for the one target of its that has any (NPU:
weights of 4 or 2 bits; its activations have 8 bits or more); per-channel symmetric weights, per-tensor asymmetric
activations. It has no bit-width by layer, so first and last layer stay in float: an advantage over the
others, whose first and last have 8 bits. Fast bias correction (its default) and the accurate one.
"""

import copy

import nncf
import torch
from _common import Export
from _ptq import batches, ptq_parser, run_methods
from nncf.common.quantization.structs import QuantizationScheme
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters

METHODS = {"fast bias correction": True, "bias correction": False}


def quantized(export: Export, method: str, weight_bits: int, activation_bits: int) -> torch.nn.Module:
    """Return the network quantized by one method."""
    loader = [batch for batch, _ in batches(export.samples)]
    model: torch.nn.Module = nncf.quantize(
        copy.deepcopy(export.model),
        nncf.Dataset(loader),
        subset_size=len(loader),
        fast_bias_correction=METHODS[method],
        target_device=nncf.TargetDevice.NPU,
        # Names of operations in its graph begin with the module's name.
        ignored_scope=nncf.IgnoredScope(patterns=[f"{name}/.*" for name in export.pinned], validate=True),
        advanced_parameters=AdvancedQuantizationParameters(
            weights_quantization_params=QuantizationParameters(
                num_bits=weight_bits, mode=QuantizationScheme.SYMMETRIC, per_channel=True
            ),
            activations_quantization_params=QuantizationParameters(
                num_bits=activation_bits, mode=QuantizationScheme.ASYMMETRIC, per_channel=False
            ),
        ),
    )
    return model


if __name__ == "__main__":
    torch.manual_seed(0)
    run_methods(
        ptq_parser(__doc__, tuple(METHODS)).parse_args(),
        package="nncf",
        settings={"first_last": "float", "weights": "per channel", "activations": "per tensor"},
        quantize=quantized,
        unsupported=(nncf.InternalError, nncf.ParameterNotSupportedError, ValueError),  # bits it does not have
    )
