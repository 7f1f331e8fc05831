"""Greedy descent on the additive sensitivity table: the policies a table alone would choose, without any search."""

import numpy as np

from evoq_moo.costs import Cost, as_cost, gene_tables
from evoq_moo.sensitivity import SensitivityTable, check_sensitivity
from evoq_moo.space import IntArray


def greedy_path(sensitivity: SensitivityTable, cost: str | Cost) -> IntArray:
    """Return the greedy path from the widest to the narrowest policy.

    Starts with every gene at its largest choice and repeatedly takes, of all genes' moves to their next smaller
    choice, the one that adds the least difference per cost saved; the first gene in vector order wins ties, and moves
    that save nothing come last. Our choice; on the additive prediction with a convex table and the size as the cost
    the path is exact: no policy of a path point's size has a smaller predicted difference.

    Args:
        sensitivity: The sensitivity table.
        cost: A cost, or the name of one that needs no table.

    Returns:
        Int64 `(1 + sum of (choices - 1) over genes, n_var)`: each row one move further than the one above.

    Raises:
        ArgumentError: The table has no genes or lacks a bit-width.
        UnknownNameError: `cost` is not a cost.
    """
    cost = as_cost(cost)
    tables = gene_tables(check_sensitivity(sensitivity).space)
    n_var = len(tables.layer)
    genes = np.arange(n_var)
    by_choice = np.searchsorted(sensitivity.bits, tables.choices)
    values = np.take_along_axis(sensitivity.values, by_choice, axis=1)
    added = -np.diff(values, axis=1)  # (n_var, most - 1): difference added from choice r + 1 to choice r

    position = tables.counts - 1
    path = np.empty((1 + int(position.sum()), n_var), dtype=np.int64)
    path[0] = tables.choices[genes, position]
    for step in range(1, len(path)):
        below = np.maximum(position - 1, 0)
        target = np.searchsorted(tables.bits, tables.choices[genes, below])
        saved = -cost.change(tables, path[step - 1 : step])[0, genes, target] / cost.scale
        open_ = position > 0
        saving = open_ & (saved > 0)
        if saving.any():
            merit = np.where(saving, added[genes, below] / np.where(saving, saved, 1.0), np.inf)
        else:
            merit = np.where(open_, added[genes, below], np.inf)
        j = int(np.argmin(merit))
        position[j] -= 1
        path[step] = path[step - 1]
        path[step, j] = tables.choices[j, position[j]]
    return path
