"""Policies without any measurement: uniform bits, and random ones matched to budgets."""

from collections.abc import Sequence

import numpy as np

from evoq_moo.baselines._budgets import even_limits, exact_limits
from evoq_moo.costs import BoolArray, Cost, GeneTables, as_cost, gene_tables
from evoq_moo.errors import ArgumentError, check_count
from evoq_moo.space import IntArray, SearchSpace


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
    space: SearchSpace, n: int, seed: int, *, cost: str | Cost = "bops", limits: Sequence[float] | None = None
) -> IntArray:
    """Return random vectors, one just within each of `n` limits of a cost, int64 `(n, n_var)`.

    Genes drawn independently give costs that crowd around their mean. Instead (our choice), each vector is drawn so,
    then led to its own limit by a random walk: where it costs too much, a random gene that can save cost goes to its
    nearest choice that does until it doesn't; where there is room, a random gene goes to its nearest choice that costs
    more as long as the result is within the limit. A vector is never above its limit, and less than one move below it
    unless it came from above. Genes that don't change the cost (activations when it is the size) stay as drawn. Where
    a vector costs too much and no gene alone can save (a device with 8-bit kernels only for W8A8), it goes to the
    cheapest policy.

    Args:
        space: The search space, with at least one gene.
        n: Number of vectors.
        seed: Seed of all randomness.
        cost: A cost, or the name of one that needs no table.
        limits: One limit for each vector in the cost's unit; None spreads them evenly between the smallest and the
            largest cost.

    Raises:
        ArgumentError: An argument is not of its allowed values.
        UnknownNameError: `cost` is not a cost.
        InfeasibleBudgetError: No policy is within a limit.
    """
    tables = gene_tables(_with_genes(space))
    cost = as_cost(cost)
    targets = exact_limits(space, cost, even_limits(space, cost=cost, n=n) if limits is None else limits)
    if len(targets) != n:
        raise ArgumentError(f"limits: given {len(targets)}; allowed: one for each of n = {n} vectors")
    check_count("seed", seed, lowest=0)
    random_state = np.random.default_rng(seed)
    X = space.sample(n, random_state)
    above = _counts(tables, X, cost) > targets
    down, up = np.flatnonzero(above), np.flatnonzero(~above)
    while len(down):
        X[down], moved = _step(tables, X[down], cost, -1, random_state)
        X[down[~moved]] = cost.cheapest(space)
        down = down[_counts(tables, X[down], cost) > targets[down]]
    while len(up):
        stepped, moved = _step(tables, X[up], cost, 1, random_state)
        within = moved & (_counts(tables, stepped, cost) <= targets[up])
        up = up[within]
        X[up] = stepped[within]
    return X


def _with_genes(space: SearchSpace) -> SearchSpace:
    if not isinstance(space, SearchSpace) or not space.genes:
        raise ArgumentError(f"space: given {type(space).__name__} without genes; allowed: a SearchSpace with genes")
    return space


def _step(
    tables: GeneTables, X: IntArray, cost: Cost, sign: int, random_state: np.random.Generator
) -> tuple[IntArray, BoolArray]:
    """Return vectors `(n, n_var)` with one random gene at its nearest choice that changes the cost with a sign.

    Returns:
        The vectors, and in which there was such a gene, bool `(n,)`; the others are as they were.
    """
    target = tables.nearest(X, np.sign(cost.change(tables, X)) == sign)
    able: BoolArray = np.asarray((target > 0).any(axis=1))
    rows = np.flatnonzero(able)
    free = target[rows] > 0
    gene = np.where(free, random_state.random(free.shape), -1.0).argmax(axis=1)
    moved = X.copy()
    moved[rows, gene] = target[rows, gene]
    return moved, able


def _counts(tables: GeneTables, X: IntArray, cost: Cost) -> IntArray:
    """Return the exact costs of vectors in counts, int64 `(n,)`."""
    return cost.count(tables.space.layers, tables.space.decode(X))
