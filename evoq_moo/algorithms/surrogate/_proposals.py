"""Candidates of a surrogate search: small changes of policies on the front or just above it."""

import numpy as np

from evoq_moo.costs import GeneTables
from evoq_moo.space import IntArray

KINDS = (0.4, 0.3, 0.3)
"""Our choice: shares of one move, a pair of moves (one gene wider, one narrower), and two to four moves.

Lucky roundings are only kept where little changes, so no candidate is far from its parent."""


def propose(
    tables: GeneTables, parents: IntArray, n: int, seen: set[bytes], random_state: np.random.Generator
) -> IntArray:
    """Return up to `n` different vectors that were not seen, int64 `(m, n_var)`.

    Args:
        tables: The space's arrays.
        parents: Vectors to start from, `(p, n_var)`.
        n: Number of draws; those seen or drawn twice are left out.
        seen: Vectors already known, as bytes.
        random_state: Source of all randomness.
    """
    n_var = parents.shape[1]
    genes = np.arange(n_var)
    chosen = parents[random_state.integers(len(parents), size=n)]
    position = tables.rank[genes, tables.columns(chosen)]
    kind = random_state.choice(len(KINDS), size=n, p=KINDS)
    counts = np.where(kind == 2, random_state.integers(2, 5, size=n), kind + 1)
    order = random_state.permuted(np.tile(genes, (n, 1)), axis=1)
    sign = random_state.choice([-1, 1], size=(n, 4))
    sign[kind == 1, :2] = (1, -1)
    for m in range(min(4, n_var)):
        moving = np.flatnonzero(counts > m)
        gene = order[moving, m]
        position[moving, gene] = np.clip(position[moving, gene] + sign[moving, m], 0, tables.counts[gene] - 1)
    new = {x.tobytes(): x for x in tables.choices[genes, position]}
    fresh = [x for key, x in new.items() if key not in seen]
    return np.array(fresh, dtype=np.int64).reshape(-1, n_var)
