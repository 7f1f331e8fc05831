"""Run nvidia-modelopt's `auto_quantize`: score once, then solve again for every budget.

Runs in an environment of its own (`python benchmarks/peers/make_env.py modelopt`), without evoq_moo:

    /tmp/peers/modelopt/bin/python benchmarks/peers/run_modelopt.py /tmp/peers/exports/cifar10_resnet20 \
        --weight-bits 2-8 --activation-bits 8 --method gradient \
        --output /tmp/peers/results/cifar10_resnet20/modelopt_28.json

What it can express: any set of (weight bits, activation bits) pairs, one format each, per layer; pinned layers; a
budget on the weights' size only (`effective_bits`: mean bits of a weight). Bit operations can't be limited, so
activations are held at one bit-width (`--activation-bits 8`) or tied to the weights' (`--activation-bits tied`): with
both free and a budget on size, the widest activation always wins.

`--method gradient` (its default: squared gradient times output change, an integer program) uses the samples' labels,
`--method kl_div` needs none (output KL of one layer at a time; one threshold for all layers).
"""

import argparse
import json
import warnings
from typing import Any

import modelopt.torch.quantization as mtq
import numpy as np
import torch
from _common import Clock, Export, ForwardCounter, bit_set, float_forward_seconds, load_export, parser, write_result
from torch import Tensor, nn

# Said at every one of the solutions, of calibration that we don't use.
warnings.filterwarnings("ignore", message="get_auto_quantize_config")


def int_format(weight_bits: int, activation_bits: int, algorithm: str) -> dict[str, Any]:
    """Return modelopt's format of integer weights (per output channel) and integer inputs (per tensor)."""
    return {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": weight_bits, "axis": 0}},
            {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": activation_bits, "axis": None}},
        ],
        "algorithm": algorithm,
        # Else the smaller of the two bit-widths would count as a weight's.
        "effective_bits": float(weight_bits),
    }


def formats_of(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the formats of the bit sets asked for."""
    tied = arguments.activation_bits == "tied"
    pairs = [(w, w if tied else int(arguments.activation_bits)) for w in bit_set(arguments.weight_bits)]
    return [int_format(w, a, arguments.algorithm) for w, a in pairs]


def search_spaces(export: Export, formats: list[Any], algorithm: str) -> list[dict[str, Any]]:
    """Return each layer's allowed formats: one for a pinned layer, all for the others, float for none."""
    free = [name for name in export.layers if name not in export.pinned]
    spaces = [{"module_name_patterns": free, "quantization_formats": formats, "allow_no_quant": False}]
    for name, bits in export.pinned.items():
        fixed = [int_format(bits, bits, algorithm)]
        spaces.append({"module_name_patterns": [name], "quantization_formats": fixed, "allow_no_quant": False})
    return spaces


def score(export: Export, arguments: argparse.Namespace) -> tuple[dict[str, Any], float, list[float]]:
    """Calibrate and score every layer and format.

    Returns:
        modelopt's search state, forwards of all samples, and the reachable effective bits (smallest, largest).
    """
    formats = formats_of(arguments)
    size = arguments.batch_size
    batches = list(zip(export.samples.split(size), export.labels.split(size), strict=True))
    counter = ForwardCounter(export.model, len(export.samples))
    widths = bit_set(arguments.weight_bits)
    total = sum(export.params)
    held = sum(p * export.pinned[n] for n, p in zip(export.layers, export.params, strict=True) if n in export.pinned)
    free = sum(p for n, p in zip(export.layers, export.params, strict=True) if n not in export.pinned)
    reachable = [(held + free * b) / total for b in (min(widths), max(widths))]

    def forward_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return model(batch[0])

    def loss_func(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(output, batch[1])

    _, state = mtq.auto_quantize(
        export.model,
        constraints={"effective_bits": reachable[1]},
        quantization_formats=formats,
        module_search_spaces=search_spaces(export, formats, arguments.algorithm),
        data_loader=batches,
        forward_step=forward_step,
        loss_func=loss_func if arguments.method == "gradient" else None,
        num_calib_steps=len(batches),
        num_score_steps=len(batches),
        method=arguments.method,
    )
    return state, counter.forwards, reachable


def without_inplace(model: nn.Module) -> None:
    """Let no activation work in place: modelopt's gradient scores hook every layer, and torch forbids the two together.

    Its message is "Output 0 of BackwardHookFunction is a view and is being modified inplace".
    """
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False


def policy_of(export: Export, config: dict[str, Any], budget: float) -> dict[str, Any]:
    """Return the bit-widths that a configuration of modelopt's gives to our layers."""
    bits: dict[str, dict[str, int]] = {"weight_quantizer": {}, "input_quantizer": {}}
    for entry in config["quant_cfg"]:
        module, _, quantizer = entry["quantizer_name"].rpartition(".")
        if quantizer in bits and entry["enable"]:
            bits[quantizer][module] = entry["cfg"]["num_bits"]
    return {
        "budget": {"effective_bits": round(budget, 4)},
        "weight_bits": [bits["weight_quantizer"][name] for name in export.layers],
        "activation_bits": [bits["input_quantizer"][name] for name in export.layers],
    }


def main() -> None:
    """Score, solve for every budget and write the different policies."""
    made = parser(__doc__)
    made.add_argument("--weight-bits", default="2-8", help="e.g. 2-8 or 2,4,8")
    made.add_argument("--activation-bits", default="8", help="one bit-width, or 'tied' to the weights'")
    made.add_argument("--method", choices=("gradient", "kl_div"), default="gradient")
    made.add_argument("--algorithm", choices=("max", "mse"), default="max", help="modelopt's calibration")
    made.add_argument("--budgets", type=int, default=40, help="budgets, evenly over the reachable effective bits")
    made.add_argument("--batch-size", type=int, default=10)
    arguments = made.parse_args()
    export = load_export(arguments.export, threads=arguments.threads)
    without_inplace(export.model)
    clock = Clock(forward_before=float_forward_seconds(export.model, export.samples))
    with clock.part("score"):
        state, forwards, reachable = score(export, arguments)
    found: dict[str, dict[str, Any]] = {}
    with clock.part("solve"):
        for budget in np.linspace(*reachable, arguments.budgets) + 1e-6:
            config = mtq.get_auto_quantize_config(state, {"effective_bits": float(budget)})
            policy = policy_of(export, config, float(budget))
            found.setdefault(json.dumps([policy["weight_bits"], policy["activation_bits"]]), policy)
    fresh = load_export(arguments.export)
    clock.forward_after = float_forward_seconds(fresh.model, fresh.samples)
    gradient = arguments.method == "gradient"
    write_result(
        arguments.output,
        package="nvidia-modelopt",
        label=f"modelopt {arguments.method} {arguments.algorithm}",
        export=export,
        settings={
            "weight_bits": bit_set(arguments.weight_bits),
            "activation_bits": arguments.activation_bits,
            "cost": "size",
            "method": arguments.method,
            "algorithm": arguments.algorithm,
            "budgets": arguments.budgets,
            "labels": gradient,
        },
        policies=list(found.values()),
        clock=clock,
        evaluations=round(forwards),
        evaluations_mean="forwards of all samples in calibration and scoring"
        + (
            " (in scoring each layer runs once for each format, then backward)"
            if arguments.method == "gradient"
            else ""
        ),
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
