"""Measuring quantization sensitivity: one evaluation for each gene and bit-width."""

from pathlib import Path

import numpy as np

from evoq_moo.errors import ArgumentError
from evoq_moo.evaluation import Evaluator
from evoq_moo.network import QuantizedNetwork
from evoq_moo.progress import track
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import FLOAT_BITS, IntArray, SearchSpace
from evoq_moo.store import EvaluationStore, policy_key


def scan_policies(space: SearchSpace) -> tuple[list[tuple[int, int]], IntArray]:
    """Return the policies of a sensitivity scan: one gene at one bit-width, everything else float.

    Args:
        space: The search space.

    Returns:
        `(gene, bit-width)` of each policy, and bit-widths int64 `(n, layers, 2)`. Choices of 16 and 32 bits are
        float by definition and left out.
    """
    entries = [(j, b) for j, gene in enumerate(space.genes) for b in gene.choices if b not in FLOAT_BITS]
    bits = np.full((len(entries), len(space.layers), 2), max(FLOAT_BITS), dtype=np.int64)
    for i, (j, b) in enumerate(entries):
        bits[i, space.genes[j].layer, list(space.genes[j].columns)] = b
    return entries, bits


def measure_sensitivity(
    network: QuantizedNetwork,
    *,
    store: EvaluationStore | str | Path | None = None,
    evaluator: Evaluator | None = None,
    progress: bool = True,
) -> SensitivityTable:
    """Measure every gene's sensitivity: the output difference with that gene alone quantized.

    Costs one evaluation for each (gene, bit-width); results go to the store, so an interrupted scan goes on where it
    was and a later one is free.

    Args:
        network: The network.
        store: Where results are kept: a path, an open store, or None for memory.
        evaluator: Instead of `store`: evaluate through this, e.g. a problem's, with its workers.
        progress: Show progress on a terminal.

    Returns:
        The table.

    Raises:
        ArgumentError: Both `store` and `evaluator` are given.
        StoreError: The store can't be used or belongs to another network.
        NonFiniteError: A quantized network computes NaN or infinity.
    """
    if store is not None and evaluator is not None:
        raise ArgumentError("store, evaluator: given both; allowed: one of them")
    own = evaluator is None
    used = Evaluator(network, store=store) if evaluator is None else evaluator
    try:
        space = network.space
        entries, policies = scan_policies(space)
        keys = [policy_key(p) for p in policies]
        missing = len(keys) - len(used.store.get(network.fingerprint, keys))
        with track(missing, "measuring sensitivity", enabled=progress and missing > 0) as bar:
            differences = used.differences(policies, on_result=bar.advance, scan=True)
    finally:
        if own:
            used.close()
    bits = tuple(sorted({b for gene in space.genes for b in gene.choices}))
    values = np.full((space.n_var, len(bits)), np.nan)
    for j, gene in enumerate(space.genes):
        for b in set(gene.choices) & set(FLOAT_BITS):
            values[j, bits.index(b)] = 0.0
    for (j, b), difference in zip(entries, differences, strict=True):
        values[j, bits.index(b)] = difference
    return SensitivityTable(space=space, bits=bits, values=values, metric=network.metric)
