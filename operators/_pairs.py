"""Moves that keep a budget: some genes go up, others pay for them."""

import numpy as np

from evoq_moo.costs import BoolArray, Cost, gene_tables
from evoq_moo.space import IntArray

from ._moves import GuidedMoves, draw_moves


def exchange(
    moves: GuidedMoves, X: IntArray, counts: IntArray, cost: Cost, random_state: np.random.Generator
) -> tuple[IntArray, BoolArray]:
    """Widen some genes of vectors, then let others save until they cost no more than before.

    Args:
        moves: The moves to draw from.
        X: Vectors of allowed bit-widths `(n, n_var)`.
        counts: How many genes to widen, `(n,)`; fewer where fewer can be.
        cost: The cost.
        random_state: Source of all randomness.

    Returns:
        The vectors, int64 `(n, n_var)`, and for which it was possible, bool `(n,)`; the others are not to be used.
    """
    space = moves.sensitivity.space
    bits = gene_tables(space).bits

    def spent(X: IntArray) -> IntArray:
        return cost.count(space.layers, space.decode(X))

    limit = spent(X)
    moved = X.copy()
    going = np.arange(len(X))
    for m in range(int(counts.max(initial=0))):
        going = going[counts[going] > m]
        going = _step(moves, moved, going, cost, moved == X, bits, random_state, widen=True)
    widened = moved != X
    done = widened.any(axis=1)
    paying = np.flatnonzero(done & (spent(moved) > limit))
    while len(paying):
        able = _step(moves, moved, paying, cost, ~widened, bits, random_state, widen=False)
        done[np.setdiff1d(paying, able)] = False
        paying = able[spent(moved[able]) > limit[able]]
    return moved, done


def _step(
    moves: GuidedMoves,
    X: IntArray,
    rows: IntArray,
    cost: Cost,
    genes: BoolArray,
    bits: IntArray,
    random_state: np.random.Generator,
    *,
    widen: bool,
) -> IntArray:
    """Make one move that widens or saves in some rows, in place; return the rows in which there was one."""
    if not len(rows):
        return rows
    probabilities = moves.one_way(X[rows], cost=cost, widen=widen, genes=genes[rows])
    able = probabilities.any(axis=(1, 2))
    rows = rows[able]
    if len(rows):
        X[rows] = draw_moves(X[rows], probabilities[able], bits, random_state.random(len(rows)))
    return rows
