"""Moves that keep a budget: some genes go up, others pay for them."""

import numpy as np

from evoq_moo._genes import BoolArray, gene_tables
from evoq_moo.cost import COSTS, cost_matrix
from evoq_moo.space import FloatArray, IntArray, SearchSpace

from ._moves import GuidedMoves, draw_moves


def cost_of(space: SearchSpace, X: IntArray, cost: str) -> FloatArray:
    """Return one cost of vectors `(n, n_var)`, float64 `(n,)` (MiB or GBOPs)."""
    return np.asarray(cost_matrix(space.layers, space.decode(X))[:, COSTS.index(cost)])


def exchange(
    moves: GuidedMoves, X: IntArray, counts: IntArray, cost: str, random_state: np.random.Generator
) -> tuple[IntArray, BoolArray]:
    """Widen some genes of vectors and narrow others until they cost no more than before.

    Args:
        moves: The moves to draw from.
        X: Vectors of allowed bit-widths `(n, n_var)`.
        counts: How many genes to widen, `(n,)`; fewer where fewer can be.
        cost: ``"size_mib"`` or ``"gbops"``.
        random_state: Source of all randomness.

    Returns:
        The vectors, int64 `(n, n_var)`, and for which it was possible, bool `(n,)`; the others are not to be used.
    """
    space = moves.sensitivity.space
    bits = gene_tables(space).bits
    limit = cost_of(space, X, cost)
    moved = X.copy()
    going = np.arange(len(X))
    for m in range(int(counts.max(initial=0))):
        going = going[counts[going] > m]
        going = _step(moves, moved, going, cost, moved == X, bits, random_state, up=True)
    done = (moved != X).any(axis=1)
    widened = moved != X
    paying = np.flatnonzero(done & (cost_of(space, moved, cost) > limit))
    while len(paying):
        able = _step(moves, moved, paying, cost, ~widened, bits, random_state, up=False)
        done[np.setdiff1d(paying, able)] = False
        paying = able[cost_of(space, moved[able], cost) > limit[able]]
    return moved, done


def _step(
    moves: GuidedMoves,
    X: IntArray,
    rows: IntArray,
    cost: str,
    genes: BoolArray,
    bits: IntArray,
    random_state: np.random.Generator,
    *,
    up: bool,
) -> IntArray:
    """Make one move in one direction in some rows, in place; return the rows in which there was one."""
    if not len(rows):
        return rows
    probabilities = moves.one_way(X[rows], cost=cost, up=up, genes=genes[rows])
    able = probabilities.any(axis=(1, 2))
    rows = rows[able]
    if len(rows):
        X[rows] = draw_moves(X[rows], probabilities[able], bits, random_state.random(len(rows)))
    return rows
