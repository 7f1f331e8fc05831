"""One step of the dynamic program: a front of (cost, difference) combined with the options of one more layer."""

import numpy as np
import numpy.typing as npt

from evoq_moo.space import IntArray

_CELLS = 2**25
"""Most cells of a table over costs: 300 MB."""
_SPARSE = 8
"""A table over costs is used where it has at most so many cells for each sum."""
_WORST = np.iinfo(np.int64).max

Merged = tuple[IntArray, IntArray, npt.NDArray[np.uint8], npt.NDArray[np.int32]]


def merge(costs: IntArray, differences: IntArray, option_costs: IntArray, option_differences: IntArray) -> Merged:
    """Return the nondominated sums of the states of a front and the options of a layer.

    Of equal sums, the one of the first option is kept.

    Args:
        costs: Int64 `(n,)`: costs of the states, increasing.
        differences: Int64 `(n,)`: their differences, decreasing.
        option_costs: Int64 `(k,)`: costs of the options, from 0; at most 255 options.
        option_differences: Int64 `(k,)`: their differences.

    Returns:
        Costs and differences of the new states in the same order, the option of each, and the state it came from.
    """
    cells = int(costs[-1] - costs[0] + option_costs.max()) + 1
    dense = cells <= min(_CELLS, _SPARSE * len(costs) * len(option_costs))
    found = _by_table if dense else _by_sorting
    new_costs, new_differences, option = found(costs, differences, option_costs, option_differences)
    parent = np.searchsorted(costs, new_costs - option_costs[option]).astype(np.int32)
    return new_costs, new_differences, option, parent


def falling(differences: IntArray) -> npt.NDArray[np.bool_]:
    """Return which of some differences, in order of cost, are smaller than all before them."""
    kept = np.ones(len(differences), dtype=bool)
    np.less(differences[1:], np.minimum.accumulate(differences)[:-1], out=kept[1:])
    return kept


def _by_table(
    costs: IntArray, differences: IntArray, option_costs: IntArray, option_differences: IntArray
) -> tuple[IntArray, IntArray, npt.NDArray[np.uint8]]:
    """Find the nondominated sums by a table of the smallest difference for every cost."""
    lowest = int(costs[0])
    cells = int(costs[-1]) - lowest + int(option_costs.max()) + 1
    best = np.full(cells, _WORST, dtype=np.int64)
    chosen = np.zeros(cells, dtype=np.uint8)
    places = costs - lowest
    for k, (cost, difference) in enumerate(zip(option_costs.tolist(), option_differences.tolist(), strict=True)):
        at = places + cost
        sums = differences + difference
        better = sums < best[at]
        at = at[better]
        best[at] = sums[better]
        chosen[at] = k
    filled = np.flatnonzero(best < _WORST)
    kept = filled[falling(best[filled])]
    return kept + lowest, best[kept], chosen[kept]


def _by_sorting(
    costs: IntArray, differences: IntArray, option_costs: IntArray, option_differences: IntArray
) -> tuple[IntArray, IntArray, npt.NDArray[np.uint8]]:
    """Find the nondominated sums by merging the sorted sums of one option after the other."""
    n = len(costs)
    front = (costs + option_costs[0], differences + option_differences[0], np.zeros(n, dtype=np.uint8))
    for k in range(1, len(option_costs)):
        all_costs = np.concatenate([front[0], costs + option_costs[k]])
        all_differences = np.concatenate([front[1], differences + option_differences[k]])
        options = np.concatenate([front[2], np.full(n, k, dtype=np.uint8)])
        order = np.argsort(all_costs, kind="stable")  # merges the two sorted runs
        # Of two sums with one cost the larger may come first: it is kept by `falling` and dropped here.
        order = order[falling(all_differences[order])]
        last = np.append(np.diff(all_costs[order]) > 0, True)
        order = order[last]
        front = (all_costs[order], all_differences[order], options[order])
    return front
