"""AIMET's post-training quantization of one network at given bit-widths, on the same samples and labelled images.

    python benchmarks/peers/run_aimet_ptq.py EXPORT --bits W4A8 --iterations 500 --output R/aimet_w4a8.json

Its documented workflow: functional operations made modules (`prepare_model`), BatchNorm folded and weights equalized
across layers, per-channel symmetric weights and per-tensor asymmetric activations with its own search of ranges
(`tf_enhanced`); then nothing more, or sequential MSE, or AdaRound. AdaRound's default is 15,000 iterations a layer,
hours on one core; `--iterations` says how many here.

The network's input, what the last layer takes and the weights of the first and last layer have 8 bits. It quantizes
what operations give (sums and concatenations too) where we quantize what layers take.
"""

import copy
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _common import Export
from _ptq import batches, ptq_parser, run_methods
from aimet_torch.adaround.adaround_weight import Adaround, AdaroundParameters
from aimet_torch.common.defs import QuantScheme
from aimet_torch.common.quantsim_config.utils import get_path_for_per_channel_config
from aimet_torch.cross_layer_equalization import equalize_model
from aimet_torch.model_preparer import prepare_model
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.seq_mse import apply_seq_mse
from aimet_torch.utils import remove_all_quantizers
from torch import Tensor, nn

METHODS = ("equalization", "equalization, sequential MSE", "equalization, AdaRound")
INPUT_BITS = 8


@torch.no_grad()
def forward(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Run a batch of images with labels."""
    result: Tensor = model(batch[0])
    return result


def simulation(model: nn.Module, export: Export, weight_bits: int, activation_bits: int) -> QuantizationSimModel:
    """Return the quantized network, before its ranges are taken."""
    sim = QuantizationSimModel(
        model,
        dummy_input=export.samples[:1],
        quant_scheme=QuantScheme.post_training_tf_enhanced,
        default_param_bw=weight_bits,
        default_output_bw=activation_bits,
        config_file=get_path_for_per_channel_config(),
    )
    last = sim.model.get_submodule(list(export.pinned)[-1])
    run: list[Any] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: run.append(module))
        for module in sim.model.modules()
        if hasattr(module, "output_quantizers")
    ]
    with remove_all_quantizers(sim.model):  # they have no ranges yet
        sim.model(export.samples[:1])
    for hook in hooks:
        hook.remove()
    for name, bits in export.pinned.items():
        sim.model.get_submodule(name).param_quantizers["weight"].bitwidth = bits
    run[0].input_quantizers[0].bitwidth = INPUT_BITS
    given = [quantizer for module in run[: run.index(last)] for quantizer in module.output_quantizers]
    [quantizer for quantizer in given if quantizer is not None][-1].bitwidth = INPUT_BITS
    return sim


def quantized(export: Export, method: str, weight_bits: int, activation_bits: int, *, iterations: int) -> nn.Module:
    """Return the network quantized by one method; AdaRound's iterations are of each layer."""
    loader = batches(export.samples)
    model = prepare_model(copy.deepcopy(export.model)).eval()
    equalize_model(model, dummy_input=export.samples[:1])
    with tempfile.TemporaryDirectory() as folder:
        if "AdaRound" in method:
            model = Adaround.apply_adaround(
                model,
                export.samples[:1],
                AdaroundParameters(loader, len(loader), default_num_iterations=iterations, forward_fn=forward),
                path=folder,
                filename_prefix="adaround",
                default_param_bw=weight_bits,
                param_bw_override_list=[(model.get_submodule(name), bits) for name, bits in export.pinned.items()],
                default_config_file=get_path_for_per_channel_config(),
            )
        sim = simulation(model, export, weight_bits, activation_bits)
        if "AdaRound" in method:
            sim.set_and_freeze_param_encodings(str(Path(folder) / "adaround.encodings"))
    if "sequential MSE" in method:
        apply_seq_mse(sim, loader, forward_fn=forward)
    sim.compute_encodings(lambda network: [forward(network, batch) for batch in loader])
    result: nn.Module = sim.model
    return result


def main() -> None:
    """Run the methods and write their accuracy and time."""
    made = ptq_parser(__doc__, METHODS)
    made.add_argument("--iterations", type=int, default=500, help="AdaRound's, of each layer")
    arguments = made.parse_args()
    run_methods(
        arguments,
        package="aimet-torch",
        settings={
            "first_last_weight_bits": "those of the export's pinned layers",
            "weights": "per channel",
            "activations": "per tensor",
            "adaround_iterations": arguments.iterations,
        },
        quantize=partial(quantized, iterations=arguments.iterations),
        unsupported=(ValueError, RuntimeError),  # bits it does not have
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
