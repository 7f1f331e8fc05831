"""The level switch: bits move from some genes to others under a limit of a cost."""

import numpy as np

from evoq_moo._genes import BoolArray, GeneTables
from evoq_moo.space import IntArray

from ._options import integer_costs

MOST_SWITCHES = 3
"""Switches of one mutation: the smaller of two draws from 1..3, as in EvoPress."""


def uniform_start(tables: GeneTables, cost: str, limit: int) -> IntArray:
    """Return the widest uniform vector within a limit, or the narrowest vector where none is, int64 `(n_var,)`.

    Args:
        tables: The space's arrays.
        cost: ``"size_mib"`` or ``"gbops"``.
        limit: The limit (weight bits or BOPs).
    """
    space = tables.space
    candidates = np.array([space.lower, *(space.uniform(b) for b in tables.bits.tolist())])
    within = integer_costs(space, space.decode(candidates), cost) <= limit
    return np.asarray(candidates[np.flatnonzero(within)[-1]])


def switch_levels(
    tables: GeneTables, x: IntArray, *, cost: str, limit: int, costly: BoolArray, random_state: np.random.Generator
) -> IntArray:
    """Return a vector with some genes wider and others narrower, within the limit, int64 `(n_var,)`.

    Each switch sets a random gene to its next wider choice, then random other genes, one choice at a time, to
    narrower ones until the cost is within the limit. A switch that can't get there is left out. Genes that were
    widened by this mutation are not narrowed again by it.

    Args:
        tables: The space's arrays.
        x: A vector within the limit, int64 `(n_var,)`.
        cost: ``"size_mib"`` or ``"gbops"``.
        limit: The limit (weight bits or BOPs).
        costly: Which genes change the cost, bool `(n_var,)`; the others are switched freely: as often narrower as
            wider, since nothing else would ever make them narrower.
        random_state: Source of all randomness.
    """
    switches = int(random_state.integers(1, MOST_SWITCHES + 1, size=2).min())
    position = tables.rank[np.arange(len(x)), np.searchsorted(tables.bits, x)].copy()
    widened = np.zeros(len(x), dtype=bool)
    for _ in range(switches):
        free = np.flatnonzero(np.where(costly, position < tables.counts - 1, True))
        if not len(free):
            break
        gene = int(random_state.choice(free))
        tried = position.copy()
        if costly[gene]:
            tried[gene] += 1
            if not _narrow(tables, tried, cost, limit, costly & ~widened & (np.arange(len(x)) != gene), random_state):
                continue
            widened[gene] = True
        else:
            steps = [s for s in (-1, 1) if 0 <= tried[gene] + s < tables.counts[gene]]
            tried[gene] += int(random_state.choice(steps))
        position = tried
    return np.asarray(tables.choices[np.arange(len(x)), position])


def _narrow(
    tables: GeneTables,
    position: IntArray,
    cost: str,
    limit: int,
    allowed: BoolArray,
    random_state: np.random.Generator,
) -> bool:
    """Narrow random genes of one policy, in place, until its cost is within the limit; return whether it is.

    Args:
        tables: The space's arrays.
        position: Position of each gene among its choices, int64 `(n_var,)`.
        cost: ``"size_mib"`` or ``"gbops"``.
        limit: The limit (weight bits or BOPs).
        allowed: The genes that may be narrowed, bool `(n_var,)`.
        random_state: Source of all randomness.
    """
    genes = np.arange(len(position))
    while True:
        bits = np.stack(tables.bit_widths(tables.choices[genes, position][None]), axis=-1)
        if integer_costs(tables.space, bits, cost)[0] <= limit:
            return True
        free = np.flatnonzero(allowed & (position > 0))
        if not len(free):
            return False
        position[random_state.choice(free)] -= 1
