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
from _common import Clock, float_forward_seconds, load_export
from _ptq import batches, bits_of, ptq_parser, row, top1_percent, write_rows
from nncf.common.quantization.structs import QuantizationScheme
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters

METHODS = {"fast bias correction": True, "bias correction": False}


def main() -> None:
    """Run both methods and write their accuracy and time."""
    made = ptq_parser(__doc__, tuple(METHODS))
    arguments = made.parse_args()
    export = load_export(arguments.export, threads=arguments.threads)
    weight_bits, activation_bits = bits_of(arguments.bits)
    exact = top1_percent(export.model, arguments.export)
    # Names of operations in its graph begin with the module's name.
    ignored = [f"{name}/.*" for name in export.pinned]
    rows, failed = [], {}
    for method in arguments.methods:
        clock = Clock(forward_before=float_forward_seconds(export.model, export.samples))
        try:
            with clock.part("quantize"):
                model = nncf.quantize(
                    copy.deepcopy(export.model),
                    nncf.Dataset([batch for batch, _ in batches(export.samples)]),
                    subset_size=len(batches(export.samples)),
                    fast_bias_correction=METHODS[method],
                    target_device=nncf.TargetDevice.NPU,
                    ignored_scope=nncf.IgnoredScope(patterns=ignored, validate=True),
                    advanced_parameters=AdvancedQuantizationParameters(
                        weights_quantization_params=QuantizationParameters(
                            num_bits=weight_bits, mode=QuantizationScheme.SYMMETRIC, per_channel=True
                        ),
                        activations_quantization_params=QuantizationParameters(
                            num_bits=activation_bits, mode=QuantizationScheme.ASYMMETRIC, per_channel=False
                        ),
                    ),
                )
        except (nncf.InternalError, nncf.ParameterNotSupportedError, ValueError) as error:  # bits it does not have
            failed[method] = f"{type(error).__name__}: {error}"
            print(f"nncf: {method}: {failed[method]}")
            continue
        clock.forward_after = float_forward_seconds(export.model, export.samples)
        rows.append(row(method, top1_percent(model.eval(), arguments.export), exact, clock))
    settings = {"first_last": "float", "weights": "per channel", "activations": "per tensor", "failed": failed}
    write_rows(arguments.output, package="nncf", export=export, bits=arguments.bits, settings=settings, rows=rows)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
