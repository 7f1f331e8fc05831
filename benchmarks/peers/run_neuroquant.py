"""Run neuroquant's NSGA-II over 4 or 8 weight bits of each layer.

Runs in an environment of its own (`python benchmarks/peers/make_env.py neuroquant`), without evoq_moo:

    /tmp/peers/neuroquant/bin/python benchmarks/peers/run_neuroquant.py /tmp/peers/exports/cifar10_resnet20 \
        --output /tmp/peers/results/cifar10_resnet20/neuroquant.json

What it can express: 4 or 8 bits for the weights of each layer (one scale for a whole tensor); objectives loss of top-1
accuracy and size. It needs labels: it gets the samples' own. Activations stay in float in its search; its policies are
written with 8 bits. Its genes can't be pinned, so this script takes the pinned layers out of its list of genes and puts
them into its list of fixed bit-widths (private attributes: it has no option for that).
"""

import json
import logging
from typing import Any

import torch
from _common import Clock, Export, float_forward_seconds, load_export, parser, write_result
from neuroquant.config import HyperparameterSet, QuantizationConfig
from neuroquant.quantization.hessian_clustering import HessianComputer, LayerClusterer
from neuroquant.quantization.nsga_ii_search import NSGAIIClusterSearch
from torch.utils.data import DataLoader, TensorDataset

ACTIVATION_BITS = 8


def pin(search: NSGAIIClusterSearch, pinned: dict[str, int]) -> None:
    """Hold layers at fixed bit-widths in a search that was not started."""
    fixed = {f"{name}.weight": bits for name, bits in pinned.items()}
    search._fixed_config = fixed
    search._gene_layers = [name for name in search._gene_layers if name not in fixed]
    search.num_genes = len(search._gene_layers)
    search._gene_mutation_rates = search._build_gene_mutation_rates()


def policy_of(export: Export, assignment: dict[str, int]) -> dict[str, Any]:
    """Return the bit-widths that a solution gives to our layers."""
    return {
        "budget": None,
        "weight_bits": [assignment[f"{name}.weight"] for name in export.layers],
        "activation_bits": [ACTIVATION_BITS] * len(export.layers),
    }


def main() -> None:
    """Search and write the different policies of its Pareto front."""
    made = parser(__doc__)
    made.add_argument("--population", type=int, default=32, help="its default: 32")
    made.add_argument("--generations", type=int, default=30, help="its default: 30, fewer where its front is stable")
    made.add_argument("--batch-size", type=int, default=10)
    made.add_argument("--seed", type=int, default=0)
    arguments = made.parse_args()
    export = load_export(arguments.export, threads=arguments.threads)
    clock = Clock(forward_before=float_forward_seconds(export.model, export.samples))
    parameters = HyperparameterSet(
        device="cpu",
        seed=arguments.seed,
        nsga_population_size=arguments.population,
        nsga_generations=arguments.generations,
    )
    config = QuantizationConfig(hyperparams=parameters, num_classes=int(export.model(export.samples[:1]).shape[1]))
    loader = DataLoader(TensorDataset(export.samples, export.labels), batch_size=arguments.batch_size)
    with clock.part("sensitivity"):
        hessian = HessianComputer(export.model, config).compute_hessian(loader, num_batches=len(loader))
        clusters = LayerClusterer(export.model, hessian, config).create_clusters()["cluster_assignments"]
    with clock.part("search"), torch.no_grad():
        accuracy = 100 * float((export.model(export.samples).argmax(1) == export.labels).double().mean())
        search = NSGAIIClusterSearch(export.model, clusters, config, hessian_diag=hessian)
        pin(search, export.pinned)
        front = search.search(loader, accuracy)
    found: dict[str, dict[str, Any]] = {}
    for solution in front["solutions"]:
        policy = policy_of(export, solution["bitwidth_assignment"])
        found.setdefault(json.dumps(policy["weight_bits"]), policy)
    fresh = load_export(arguments.export)
    clock.forward_after = float_forward_seconds(fresh.model, fresh.samples)
    write_result(
        arguments.output,
        package="neuroquant",
        label="neuroquant",
        export=export,
        settings={
            "weight_bits": list(config.supported_bitwidths),
            "activation_bits": ACTIVATION_BITS,
            "cost": "size",
            "population": arguments.population,
            "generations": front["generation"],
            "stopped": front["convergence_reason"],
            "seed": arguments.seed,
            "labels": True,
        },
        policies=list(found.values()),
        clock=clock,
        evaluations=front["evaluations"],
        evaluations_mean="top-1 accuracies on all samples, repeated policies included",
    )


if __name__ == "__main__":
    logging.getLogger("neuroquant").setLevel(logging.WARNING)
    main()
