"""HAWQ-V2's sensitivity: the average Hessian trace times the squared perturbation, from the samples alone.

Dong, Yao, Arfeen, Gholami, Mahoney, Keutzer: "HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks"
(NeurIPS 2020): Omega_i(b) = Tr(H_i) / n_i * |Q_b(W_i) - W_i|^2, H_i the Hessian of the loss in layer i's n_i weights.
"""

from typing import Literal

import numpy as np

from evoq_moo.baselines._roots import Root, kl_root, nmse_root, rademacher
from evoq_moo.baselines._traces import Traces, hessian_traces
from evoq_moo.errors import ArgumentError, check_count, check_name
from evoq_moo.graph import count, weight_of
from evoq_moo.network import QuantizedNetwork
from evoq_moo.progress import track
from evoq_moo.quantizer import fake_quantize_weight
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import ACTIVATION, FLOAT_BITS, WEIGHT

LOSSES = ("kl", "nmse")


def hessian_sensitivity(
    network: QuantizedNetwork,
    *,
    loss: Literal["kl", "nmse"] | None = None,
    probes: int = 50,
    seed: int = 0,
    progress: bool = True,
) -> SensitivityTable:
    """Return HAWQ-V2's sensitivities as a table, for use wherever a measured one is.

    HAWQ-V2 takes the Hessian of the training loss and needs labels. Our choice: the Hessian of the difference between
    the float network and itself, either the KL divergence of its softmax or its normalized MSE. It needs no labels, it
    is what the search minimizes, and it is never negative: the float network is the minimum, where the
    Hessian of the KL divergence is the Fisher information of the network's own distribution.

    - Weights: `1/2 * Tr(H_w) / n_w * |Q_b(w) - w|^2`, with HAWQ-V2's average trace. The factor 1/2 of the Taylor
      expansion is ours: entries then have the unit of the difference and predict it for errors of no preferred
      direction.
    - Activations (our choice): the same for a layer's input, sample by sample, as inputs differ:
      `1/2 * sum over samples of Tr(H_x) / n_x * |Q_b(x) - x|^2`.
    - A gene that sets both has the sum of both. 16 and 32 bits have 0.

    Costs one forward and `probes` backward passes on the samples, whatever the number of genes. Results depend on
    nothing but the network, the samples and the arguments; not on the number of threads.

    Args:
        network: The network.
        loss: ``"kl"`` for outputs that are logits `(samples, ..., classes)`, ``"nmse"`` for any. None: the
            network's own difference where it is one of these; else ``"nmse"``.
        probes: Rademacher vectors of Hutchinson's estimator (HAWQ-V2 needs up to 50).
        seed: Seed of the vectors.
        progress: Show progress on a terminal.

    Returns:
        A table on the network's space; its `metric` is ``"hessian-kl"`` or ``"hessian-nmse"``.

    Raises:
        ArgumentError: An argument is not of its allowed values.
        UnknownNameError: `loss` is unknown.
        NetworkError: The outputs have no gradient.
        NonFiniteError: A gradient is NaN or infinite.
    """
    if not isinstance(network, QuantizedNetwork):
        raise ArgumentError(f"network: given {type(network).__name__}; allowed: a QuantizedNetwork")
    chosen = loss if loss is not None else (network.metric if network.metric in LOSSES else "nmse")
    check_name("loss", chosen, LOSSES)
    check_count("probes", probes)
    check_count("seed", seed, lowest=0)
    roots = _roots(network, chosen)
    batches = network._batches
    with track(len(batches), "Hessian traces", enabled=progress) as bar:
        traces = hessian_traces(
            network.network,
            batches,
            network.ranges,
            roots=roots,
            probe=rademacher(seed),
            probes=probes,
            pool=network._pool,
            on_batch=bar.advance,
        )
    return _table(network, traces, f"hessian-{chosen}")


def _roots(network: QuantizedNetwork, loss: str) -> list[Root]:
    """Return the root of the loss's Hessian in the outputs, for each head.

    Raises:
        ArgumentError: A head holds no logits.
    """
    heads = network.float_heads
    if loss == "nmse":
        return [nmse_root(head.double().square().sum().item(), len(heads)) for head in heads]
    for head in heads:
        if head.dim() < 2 or head.shape[-1] < 2:
            raise ArgumentError(
                f"loss: 'kl' needs heads of logits (samples, ..., classes >= 2), given {tuple(head.shape)}; use 'nmse'"
            )
    return [kl_root(count(network.samples), len(heads))] * len(heads)


def _weight_errors(network: QuantizedNetwork) -> dict[str, dict[int, float]]:
    """Return `|Q_b(w) - w|^2` for each layer's name and bit-width."""
    modules = dict(network.network.named_modules())
    errors: dict[str, dict[int, float]] = {}
    for name, ranges in network.ranges.items():
        weight = weight_of(modules[name])
        errors[name] = {}
        for bits, scales in ranges.weight_scales.items():
            restored = fake_quantize_weight(weight, scales.to(weight.device), bits)
            errors[name][bits] = (restored - weight).double().square().sum().item()
    return errors


def _table(network: QuantizedNetwork, traces: Traces, metric: str) -> SensitivityTable:
    """Return the table of average traces times squared errors.

    Args:
        network: The network.
        traces: Its traces and the errors of its inputs.
        metric: The table's metric.
    """
    space = network.space
    weight_errors = _weight_errors(network)
    bits = tuple(sorted({b for gene in space.genes for b in gene.choices}))
    values = np.full((space.n_var, len(bits)), np.nan)
    for j, gene in enumerate(space.genes):
        info = space.layers[gene.layer]
        name = info.name
        per_weight = traces.weights[name].mean().item() / info.params
        per_input = traces.inputs[name].mean(dim=0) / traces.elements[name]
        for b in gene.choices:
            value = 0.0
            if b not in FLOAT_BITS and WEIGHT in gene.columns:
                value += 0.5 * per_weight * weight_errors[name][b]
            if b not in FLOAT_BITS and ACTIVATION in gene.columns:
                value += 0.5 * (per_input @ traces.input_errors[name][b]).item()
            values[j, bits.index(b)] = value
    return SensitivityTable(space=space, bits=bits, values=values, metric=metric)
