"""Measuring quantization sensitivity: at every bit-width of each gene, or at two of them."""

import math
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from evoq_moo.errors import ArgumentError, NonFiniteError, check_name
from evoq_moo.evaluation import EvaluationStore, Evaluator
from evoq_moo.network import EvaluatedNetwork
from evoq_moo.progress import track
from evoq_moo.sensitivity.table import SensitivityTable
from evoq_moo.space import FLOAT_BITS, FloatArray, IntArray, SearchSpace

Method = Literal["full", "sparse"]

SPARSE_BITS = (2, 6)
"""Our choice: a sparse scan measures the choices nearest to these (the lower of two as near)."""

FEW_CHOICES = 3
"""Our choice: of genes with so many choices or fewer, a sparse scan measures each."""

DECIBELS = 20 * math.log10(2)
"""What one bit changes in a ratio of signal to rounding error (dB)."""


def scan_policies(
    space: SearchSpace, method: Method = "full", *, near: tuple[int, int] = SPARSE_BITS
) -> tuple[list[tuple[int, int]], IntArray]:
    """Return the policies of a sensitivity scan: one gene at one bit-width, everything else float.

    Args:
        space: The search space.
        method: ``"full"``: every choice of every gene. ``"sparse"``: two choices of each gene, all where there are
            three or fewer.
        near: Of more choices, a sparse scan measures those nearest to these.

    Returns:
        `(gene, bit-width)` of each policy, and bit-widths int64 `(n, layers, 2)`. Choices of 16 and 32 bits are
        float by definition and left out.

    Raises:
        UnknownNameError: `method` is unknown.
    """
    check_name("method", method, get_args(Method))
    choices = [[b for b in gene.choices if b not in FLOAT_BITS] for gene in space.genes]
    if method == "sparse":
        choices = [
            quantized
            if len(quantized) <= FEW_CHOICES
            else sorted({min(quantized, key=lambda b: (abs(b - wanted), b)) for wanted in near})
            for quantized in choices
        ]
    entries = [(j, b) for j, quantized in enumerate(choices) for b in quantized]
    bits = np.full((len(entries), len(space.layers), 2), max(FLOAT_BITS), dtype=np.int64)
    for i, (j, b) in enumerate(entries):
        bits[i, space.genes[j].layer, list(space.genes[j].columns)] = b
    return entries, bits


def measure_sensitivity(
    network: EvaluatedNetwork,
    *,
    store: EvaluationStore | str | Path | None = None,
    evaluator: Evaluator | None = None,
    method: Method = "full",
    progress: bool = True,
) -> SensitivityTable:
    """Measure every gene's sensitivity: the output difference with that gene alone quantized.

    Costs one evaluation for each (gene, bit-width); results go to the store, so an interrupted scan goes on where it
    was and a later one is free.

    A sparse scan costs two evaluations for each gene: it measures the choices nearest to 2 and 6 bits, and every one of
    a gene that has three or fewer. Choices between them it takes from the straight line through both logarithms,
    choices beyond with a slope halfway between that of the line and that of the rounding error, whose power falls by
    four with each bit. Differences that may be negative (decibels) are on lines themselves; there the rounding error
    falls by `20 log10(2)` dB a bit. Where one of both is without any difference, the slope is the rounding error's. Our
    choice: a smooth table starts a search better than single entries, whose luck the additive front picks out, and
    beyond 6 bits neither slope alone suits small and large networks (`docs/measurements.md`).

    A choice whose policy has no difference (NaN or infinity) counts as the worst that was measured (our choice).

    Args:
        network: The network.
        store: Where results are kept: a path, an open store, or None for memory.
        evaluator: Instead of `store`: evaluate through this, e.g. a problem's, with its workers.
        method: ``"full"`` measures every choice of every gene, ``"sparse"`` two of each, three where there
            are no more.
        progress: Show progress on a terminal.

    Returns:
        The table.

    Raises:
        ArgumentError: Both `store` and `evaluator` are given.
        UnknownNameError: `method` is unknown.
        StoreError: The store can't be used or belongs to another network.
        NonFiniteError: No policy of the scan has a difference.
    """
    if store is not None and evaluator is not None:
        raise ArgumentError("store, evaluator: given both; allowed: one of them")
    space = network.space
    entries, policies = scan_policies(space, method)
    own = evaluator is None
    used = Evaluator(network, store=store) if evaluator is None else evaluator
    try:
        missing = len(policies) - int(used.known(policies).sum())
        with track(missing, "measuring sensitivity", enabled=progress and missing > 0) as bar:
            differences = used.differences(policies, on_result=bar.advance, scan=True)
    finally:
        if own:
            used.close()
    finite = np.isfinite(differences)
    if len(differences) and not finite.any():
        raise NonFiniteError("network: the difference of every policy of the scan is NaN or infinite")
    differences = np.where(finite, differences, differences[finite].max(initial=-math.inf))
    return _table(
        space,
        entries,
        differences,
        sparse=method == "sparse",
        metric=network.metric,
        unquantized=network.float_difference,
    )


def sparse_table(table: SensitivityTable, *, near: tuple[int, int] = SPARSE_BITS) -> SensitivityTable:
    """Return the table that a sparse scan of the same network would have given.

    Args:
        table: One of a full scan.
        near: Bit-widths whose nearest choices it would have measured.
    """
    entries, _ = scan_policies(table.space, "sparse", near=near)
    differences = np.array([table.values[j, table.bits.index(b)] for j, b in entries])
    floats = table.values[:, [b in FLOAT_BITS for b in table.bits]]
    known = floats[~np.isnan(floats)]
    unquantized = float(known[0]) if len(known) else 0.0  # unused where no gene may stay float
    return _table(table.space, entries, differences, sparse=True, metric=table.metric, unquantized=unquantized)


def _table(
    space: SearchSpace,
    entries: list[tuple[int, int]],
    differences: FloatArray,
    *,
    sparse: bool,
    metric: str,
    unquantized: float,
) -> SensitivityTable:
    """Return the table of what a scan found, with the choices that it left out filled in.

    Args:
        space: The search space.
        entries: `(gene, bit-width)` of each difference.
        differences: What was measured.
        sparse: Whether choices were left out.
        metric: Name of the difference.
        unquantized: The difference of the float network to itself: that of 16 and 32 bits.
    """
    bits = tuple(sorted({b for gene in space.genes for b in gene.choices}))
    values = np.full((space.n_var, len(bits)), np.nan)
    for j, gene in enumerate(space.genes):
        for b in set(gene.choices) & set(FLOAT_BITS):
            values[j, bits.index(b)] = unquantized
    decibels = bool((differences < 0).any())
    measured: dict[int, dict[int, float]] = {}
    for (j, b), difference in zip(entries, differences.tolist(), strict=True):
        values[j, bits.index(b)] = difference
        measured.setdefault(j, {})[b] = difference
    for j, known in measured.items() if sparse else ():
        for b in set(space.genes[j].choices) - set(FLOAT_BITS) - set(known):
            values[j, bits.index(b)] = _filled_in(known, b, decibels=decibels)
    return SensitivityTable(space=space, bits=bits, values=values, metric=metric)


def _filled_in(known: dict[int, float], b: int, *, decibels: bool) -> float:
    """Return a gene's difference at a bit-width that was not measured."""
    if not decibels and min(known.values()) <= 0:  # which have no logarithm
        near = min(known, key=lambda k: abs(k - b))
        return known[near] * 4.0 ** (near - b)
    low, high = min(known), max(known)
    first, last = (known[low], known[high]) if decibels else (math.log(known[low]), math.log(known[high]))
    rounding = DECIBELS if decibels else math.log(4)
    own = (first - last) / (high - low) if low < high else rounding
    value = last + (own if b < high else (own + rounding) / 2) * (high - b)
    return value if decibels else math.exp(value)
