"""The level switch: bits move from some genes to others under a limit of a cost."""

import numpy as np

from evoq_moo.costs import BoolArray, Cost, GeneTables, layer_choices
from evoq_moo.space import IntArray

MOST_SWITCHES = 3
"""Switches of one mutation: the smaller of two draws from 1..3, as in EvoPress."""


def uniform_start(tables: GeneTables, cost: Cost, limit: int) -> IntArray:
    """Return the widest uniform vector within a limit, or the cheapest vector where none is, int64 `(n_var,)`.

    Args:
        tables: The space's arrays.
        cost: The cost.
        limit: The limit in counts, which the cheapest policy meets.
    """
    space = tables.space
    candidates = np.array([cost.cheapest(space), space.lower, *(space.uniform(b) for b in tables.bits.tolist())])
    within = cost.count(space.layers, space.decode(candidates)) <= limit
    return np.asarray(candidates[np.flatnonzero(within)[-1]])


def costly_genes(tables: GeneTables, cost: Cost) -> BoolArray:
    """Return which genes may change a cost, bool `(n_var,)`."""
    costly = np.zeros(len(tables.layer), dtype=bool)
    for choices, counts in zip(layer_choices(tables.space), cost.options(tables.space), strict=True):
        sizes = [int(tables.counts[j]) for j in choices.genes]
        for k, j in enumerate(choices.genes):
            costly[j] = np.ptp(counts.reshape(sizes), axis=k).any()
    return costly


def switch_levels(
    tables: GeneTables, x: IntArray, *, cost: Cost, limit: int, costly: BoolArray, random_state: np.random.Generator
) -> IntArray:
    """Return a vector with some genes wider and others cheaper, within the limit, int64 `(n_var,)`.

    Each switch sets a random gene to its next wider choice, then random other genes, one after the other, to their
    nearest choice that saves until the cost is within the limit. A switch that can't get there is left out. Genes that
    were widened by this mutation do not pay for another.

    Args:
        tables: The space's arrays.
        x: A vector within the limit, int64 `(n_var,)`.
        cost: The cost.
        limit: The limit in counts.
        costly: Which genes may change the cost, bool `(n_var,)`; the others are switched freely: as often narrower as
            wider, since nothing else would ever make them narrower.
        random_state: Source of all randomness.
    """
    genes = np.arange(len(x))
    switches = int(random_state.integers(1, MOST_SWITCHES + 1, size=2).min())
    widened = np.zeros(len(x), dtype=bool)
    for _ in range(switches):
        position = tables.rank[genes, np.searchsorted(tables.bits, x)]
        free = np.flatnonzero(np.where(costly, position < tables.counts - 1, True))
        if not len(free):
            break
        gene = int(random_state.choice(free))
        tried = x.copy()
        if costly[gene]:
            tried[gene] = tables.choices[gene, position[gene] + 1]
            paid = _paid(tables, tried, cost, limit, ~widened & (genes != gene), random_state)
            if paid is None:
                continue
            tried = paid
            widened[gene] = True
        else:
            steps = [s for s in (-1, 1) if 0 <= position[gene] + s < tables.counts[gene]]
            tried[gene] = tables.choices[gene, position[gene] + int(random_state.choice(steps))]
        x = tried
    return np.asarray(x)


def _paid(
    tables: GeneTables, x: IntArray, cost: Cost, limit: int, allowed: BoolArray, random_state: np.random.Generator
) -> IntArray | None:
    """Return a vector with random genes cheaper, one after the other, until it is within the limit; None if it can't.

    Args:
        tables: The space's arrays.
        x: The vector, int64 `(n_var,)`.
        cost: The cost.
        limit: The limit in counts.
        allowed: The genes that may change, bool `(n_var,)`.
        random_state: Source of all randomness.
    """
    x = x.copy()
    while True:
        changes = cost.change(tables, x[None])
        bits = np.stack(tables.bit_widths(x[None]), axis=-1)
        if cost.count(tables.space.layers, bits)[0] <= limit:
            return x
        cheaper = tables.nearest(x[None], changes < 0)[0]
        free = np.flatnonzero(allowed & (cheaper > 0))
        if not len(free):
            return None
        gene = random_state.choice(free)
        x[gene] = cheaper[gene]
