"""Run Sony's model-compression-toolkit: its mixed-precision integer program, swept over budgets on the weights' size.

Runs in an environment of its own (`python benchmarks/peers/make_env.py mct`), without evoq_moo:

    /tmp/peers/mct/bin/python benchmarks/peers/run_mct.py /tmp/peers/exports/cifar10_resnet20 \
        --weight-bits 2,4,8 --output /tmp/peers/results/cifar10_resnet20/mct.json

What it can express: the bit-widths of a target platform's description, 8, 4 and 2 bits for weights at 8-bit activations
in the one it comes with (`--weight-bits 2-8` describes a platform with all of them); pinned layers; budgets on weights
(bytes), activations and bit operations. Its activation bit-widths are those of a layer's *output*, ours of a layer's
*input*, so mixed activations of the two can't be compared: activations are held at 8 bits here.

Its call answers one budget, with all set-up and scoring again at each. To its advantage, this script calls it once and
then lets the same search manager solve (and refine, as the call does) for the other budgets with the scores it has:
`one_call` is what a user pays for one budget, `sweep` what the other budgets add.
"""

import json
import logging
from collections.abc import Iterator
from typing import Any
from unittest import mock

import model_compression_toolkit as mct
import numpy as np
import torch
from _common import Clock, Export, bit_set, float_forward_seconds, load_export, parser, write_result
from model_compression_toolkit.core import CoreConfig, MixedPrecisionQuantizationConfig, ResourceUtilization
from model_compression_toolkit.core.common.matchers.node_matcher import BaseNodeMatcher
from model_compression_toolkit.core.common.mixed_precision import mixed_precision_search_facade as facade
from model_compression_toolkit.core.common.mixed_precision.resource_utilization_tools.resource_utilization import (
    RUTarget,
)
from model_compression_toolkit.core.common.mixed_precision.sensitivity_eval.sensitivity_evaluation import (
    SensitivityEvaluation,
)
from model_compression_toolkit.target_platform_capabilities.constants import KERNEL_ATTR, WEIGHTS_N_BITS
from model_compression_toolkit.target_platform_capabilities.tpc_models.imx500_tpc.v1_0 import tpc as imx500

ACTIVATION_BITS = 8
FOLDED_SUFFIX = "_bn"
KERNEL = "weight"


class RememberingManager(facade.MixedPrecisionSearchManager):
    """MCT's search manager, which keeps its scores for the next budget and counts evaluations."""

    last: "RememberingManager"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._scores: dict[Any, Any] | None = None
        type(self).last = self

    def _build_sensitivity_mapping(self) -> dict[Any, Any]:
        if self._scores is None:
            self._scores = super()._build_sensitivity_mapping()
        return self._scores

    def solve(self, budget: float) -> dict[Any, int]:
        """Return the candidate of every node under a budget on the weights (bytes)."""
        target = ResourceUtilization(weights_memory=budget)
        self.target_resource_utilization = target
        self.original_graph.skip_validation_check = True
        found = self.search()
        self.original_graph.skip_validation_check = False
        return facade.greedy_solution_refinement_procedure(found, self, target)


def platform(weight_bits: list[int]) -> Any:
    """Return the description of the platform that MCT comes with, with these bit-widths for weights."""
    linear, _, default = imx500.get_op_quantization_configs()
    configs = [
        linear.clone_and_edit(attr_to_edit={KERNEL_ATTR: {WEIGHTS_N_BITS: bits}})
        for bits in sorted(weight_bits, reverse=True)
    ]
    return imx500.generate_tpc(
        default_config=default, base_config=configs[0], mixed_precision_cfg_list=configs, name="imx500_tpc"
    )


def layer_of(node_name: str, export: Export) -> str | None:
    """Return a node's layer, or None; MCT names nodes after modules, with a suffix where BatchNorm was folded in."""
    names = {name.replace(".", "_"): name for name in export.layers}
    return names.get(node_name, names.get(node_name.removesuffix(FOLDED_SUFFIX)))


class LayerMatcher(BaseNodeMatcher):
    """Matches the node of a layer."""

    def __init__(self, layer: str, export: Export) -> None:
        self._layer = layer
        self._export = export

    def apply(self, input_object: Any) -> bool:
        """Return whether a node of MCT's graph is the layer's."""
        return layer_of(input_object.name, self._export) == self._layer


def core_config(export: Export) -> CoreConfig:
    """Return MCT's configuration: all samples, and the pinned layers."""
    config = CoreConfig(
        mixed_precision_config=MixedPrecisionQuantizationConfig(num_of_images=len(export.samples)),
    )
    for name, bits in export.pinned.items():
        config.bit_width_config.set_manual_weights_bit_width(LayerMatcher(name, export), bits, KERNEL)
    return config


def policy_of(found: dict[Any, int], export: Export, budget: float) -> dict[str, Any]:
    """Return the bit-widths that MCT's solution gives to our layers."""
    bits = dict(export.pinned)
    for node, index in found.items():
        layer = layer_of(node.name, export)
        if layer is None:
            raise SystemExit(f"MCT's node {node.name} is none of the layers {export.layers}")
        weights = node.candidates_quantization_cfg[index].weights_quantization_cfg
        kernel = next(attr for attr in node.weights if KERNEL in str(attr))
        bits[layer] = weights.get_attr_config(kernel).weights_n_bits
    missing = [name for name in export.layers if name not in bits]
    if missing:
        raise SystemExit(f"MCT's solution says nothing of {missing}; it is of {[n.name for n in found]}")
    return {
        "budget": {"weights_bytes": round(budget, 1)},
        "weight_bits": [bits[name] for name in export.layers],
        "activation_bits": [ACTIVATION_BITS] * len(export.layers),
    }


def main() -> None:
    """Run one call, solve for the other budgets and write the different policies."""
    made = parser(__doc__)
    made.add_argument("--weight-bits", default="2,4,8", help="e.g. 2,4,8 (its own) or 2-8")
    made.add_argument("--budgets", type=int, default=40, help="budgets, evenly over the reachable sizes")
    made.add_argument("--batch-size", type=int, default=10)
    arguments = made.parse_args()
    export = load_export(arguments.export, threads=arguments.threads)
    widths = bit_set(arguments.weight_bits)
    clock = Clock(forward_before=float_forward_seconds(export.model, export.samples))

    def batches() -> Iterator[list[Any]]:
        for batch in export.samples.split(arguments.batch_size):
            yield [batch.numpy()]

    def size(bits: int) -> float:
        return sum(p * export.pinned.get(n, bits) for n, p in zip(export.layers, export.params, strict=True)) / 8

    evaluated = 0
    compute_metric = SensitivityEvaluation.compute_metric

    def counted(self: SensitivityEvaluation, *args: Any, **kwargs: Any) -> float:
        nonlocal evaluated
        evaluated += 1
        return compute_metric(self, *args, **kwargs)

    found: dict[str, dict[str, Any]] = {}
    with (
        mock.patch.object(facade, "MixedPrecisionSearchManager", RememberingManager),
        mock.patch.object(SensitivityEvaluation, "compute_metric", counted),
    ):
        with clock.part("one_call"):
            mct.ptq.pytorch_post_training_quantization(
                export.model,
                batches,
                ResourceUtilization(weights_memory=(size(min(widths)) + size(max(widths))) / 2),
                core_config(export),
                platform(widths),
            )
        manager = RememberingManager.last
        with clock.part("sweep"):
            least = float(np.sum(manager.min_ru[RUTarget.WEIGHTS]))
            for budget in np.linspace(least, max(least, size(max(widths))), arguments.budgets):
                policy = policy_of(manager.solve(float(budget)), export, float(budget))
                found.setdefault(json.dumps(policy["weight_bits"]), policy)
    fresh = load_export(arguments.export)
    clock.forward_after = float_forward_seconds(fresh.model, fresh.samples)
    write_result(
        arguments.output,
        package="model-compression-toolkit",
        label="MCT",
        export=export,
        settings={
            "weight_bits": widths,
            "activation_bits": ACTIVATION_BITS,
            "cost": "size",
            "budgets": arguments.budgets,
            "labels": False,
        },
        policies=list(found.values()),
        clock=clock,
        evaluations=evaluated,
        evaluations_mean="sensitivity metrics, each over all samples, of one layer at one bit-width",
    )


if __name__ == "__main__":
    logging.getLogger().setLevel(logging.WARNING)
    torch.manual_seed(0)
    main()
