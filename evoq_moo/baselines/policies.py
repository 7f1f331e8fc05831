"""Policies without any measurement: uniform bits, and random ones matched to budgets."""

from collections.abc import Sequence

import numpy as np

from evoq_moo._genes import BoolArray, GeneTables, gene_tables
from evoq_moo.errors import ArgumentError, check_count
from evoq_moo.space import IntArray, SearchSpace

from ._budgets import even_limits, exact_limits
from ._options import integer_costs


def uniform_policies(space: SearchSpace) -> IntArray:
    """Return one vector for each bit-width that some gene allows, int64 `(n, n_var)`, narrow to wide.

    Genes that don't allow it take their nearest choice; a vector that comes out twice is given once.

    Args:
        space: The search space, with at least one gene.

    Raises:
        ArgumentError: The space has no gene.
    """
    bits = sorted({b for gene in _with_genes(space).genes for b in gene.choices})
    return np.array(list({x.tobytes(): x for x in map(space.uniform, bits)}.values()), dtype=np.int64)


def random_policies(
    space: SearchSpace, n: int, seed: int, *, cost: str = "gbops", limits: Sequence[float] | None = None
) -> IntArray:
    """Return random vectors, one just within each of `n` limits of a cost, int64 `(n, n_var)`.

    Genes drawn independently give costs that crowd around their mean. Instead (our choice), each vector is drawn so,
    then led to its own limit by a random walk: where it costs too much, a random gene that can save cost goes to its
    next narrower choice until it doesn't; where there is room, a random gene goes to its next wider choice as long
    as the result is within the limit. A vector is never above its limit, and less than one move below it unless it
    came from above. Genes that don't change the cost (activations when it is the size) stay as drawn.

    Args:
        space: The search space, with at least one gene.
        n: Number of vectors.
        seed: Seed of all randomness.
        cost: ``"size_mib"`` or ``"gbops"``.
        limits: One limit for each vector (MiB or GBOPs); None spreads them evenly between the narrowest and the
            widest policy's cost.

    Raises:
        ArgumentError: An argument is not of its allowed values.
        UnknownNameError: `cost` is not a cost.
        InfeasibleBudgetError: No policy is within a limit.
    """
    tables = gene_tables(_with_genes(space))
    targets = exact_limits(space, cost, even_limits(space, cost=cost, n=n) if limits is None else limits)
    if len(targets) != n:
        raise ArgumentError(f"limits: given {len(targets)}; allowed: one for each of n = {n} vectors")
    check_count("seed", seed, lowest=0)
    random_state = np.random.default_rng(seed)
    X = space.sample(n, random_state)
    position = np.take_along_axis(tables.rank, np.searchsorted(tables.bits, X).T, axis=1).T
    costly = costly_genes(tables, cost)
    above = _costs(tables, position, cost) > targets
    down, up = np.flatnonzero(above), np.flatnonzero(~above)
    while len(down):
        moved = _step(position[down], costly & (position[down] > 0), -1, random_state)
        position[down] = moved
        down = down[_costs(tables, moved, cost) > targets[down]]
    while len(up):
        free = costly & (position[up] < tables.counts - 1)
        up, free = up[free.any(axis=1)], free[free.any(axis=1)]
        moved = _step(position[up], free, 1, random_state)
        within = _costs(tables, moved, cost) <= targets[up]
        up = up[within]
        position[up] = moved[within]
    return _vectors(tables, position)


def costly_genes(tables: GeneTables, cost: str) -> BoolArray:
    """Return which genes change a cost, bool `(n_var,)`."""
    return np.asarray((tables.mib_per_bit if cost == "size_mib" else tables.gmacs) > 0)


def _with_genes(space: SearchSpace) -> SearchSpace:
    if not isinstance(space, SearchSpace) or not space.genes:
        raise ArgumentError(f"space: given {type(space).__name__} without genes; allowed: a SearchSpace with genes")
    return space


def _step(position: IntArray, free: BoolArray, by: int, random_state: np.random.Generator) -> IntArray:
    """Return positions `(n, n_var)` with one random gene of each row, among its free ones, moved by one choice."""
    keys = np.where(free, random_state.random(free.shape), -1.0)
    moved = position.copy()
    moved[np.arange(len(moved)), keys.argmax(axis=1)] += by
    return moved


def _vectors(tables: GeneTables, position: IntArray) -> IntArray:
    """Return the vectors of positions among each gene's choices, int64 `(n, n_var)`."""
    return np.asarray(tables.choices[np.arange(position.shape[1]), position])


def _costs(tables: GeneTables, position: IntArray, cost: str) -> IntArray:
    """Return the exact costs of positions, int64 `(n,)` (weight bits or BOPs)."""
    return integer_costs(tables.space, tables.space.decode(_vectors(tables, position)), cost)
