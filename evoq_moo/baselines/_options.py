"""What the additive model may choose for each layer: bit-widths with their exact integer costs and differences.

In the additive model a policy's difference is the sum of the sensitivity table's entries, and its cost the sum over
layers. A layer's weight and activation bits multiply in its bit operations, so a layer with both genes is one group
of combined options.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from evoq_moo.costs import Cost, layer_choices
from evoq_moo.errors import ArgumentError
from evoq_moo.sensitivity import SensitivityTable, check_sensitivity
from evoq_moo.space import FloatArray, IntArray

_DIFFERENCE_BITS = 62
_LARGEST = 1e300


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerOptions:
    """The options of one layer that are worth choosing.

    Attributes:
        genes: Positions of the layer's genes in a vector.
        bits: Int64 `(k, genes)`: bit-width of each gene.
        costs: Int64 `(k, costs)`: what each option costs, in counts.
        differences: Int64 `(k,)`: sum of the genes' differences in fixed point.
    """

    genes: tuple[int, ...]
    bits: IntArray = field(repr=False)
    costs: IntArray = field(repr=False)
    differences: IntArray = field(repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """The options of every layer that has a gene.

    Attributes:
        layers: The layers' options.
        fixed: Int64 `(costs,)`: what does not depend on a gene costs, in counts.
        shift: A difference of `d` in fixed point is `d / 2^shift`.
    """

    layers: tuple[LayerOptions, ...]
    fixed: IntArray
    shift: int

    def to_float(self, differences: IntArray) -> FloatArray:
        """Return differences in fixed point as float64 of the same shape."""
        return np.asarray(np.ldexp(differences.astype(np.float64), -self.shift))


def integer_limit(cost: Cost, limit: float) -> int:
    """Return the largest number of counts of a cost whose value in its unit is at most a limit.

    Args:
        cost: The cost.
        limit: The limit in its unit, finite.
    """
    largest = math.floor(limit * cost.scale)
    while (largest + 1) / cost.scale <= limit:
        largest += 1
    while largest / cost.scale > limit:
        largest -= 1
    return largest


def layer_options(sensitivity: SensitivityTable, costs: tuple[Cost, ...]) -> Options:
    """Return what the additive model may choose for each layer.

    Differences become whole multiples of `2^-shift`, with as many bits as leave room for the largest sum in an int64:
    sums are then exact and don't depend on their order. An entry is moved by at most 2^-62 (2e-19) of the sum of all
    genes' largest entries, and not at all where the table spans no more than that.

    Options that are dominated within their layer are left out: no policy with one is on a front that the same policy
    without it isn't. Of options that are equal in difference and all costs the widest is kept (our choice: the table
    says that it does no harm).

    Args:
        sensitivity: The sensitivity table.
        costs: One cost or more.

    Raises:
        ArgumentError: The table has no genes, is not a table, or has an entry above 1e300.
    """
    space = check_sensitivity(sensitivity).space
    values = np.where(sensitivity.allowed, sensitivity.values, 0.0)
    largest = np.abs(values).max(axis=1)
    if largest.max() > _LARGEST:
        raise ArgumentError(f"sensitivity: holds a difference of {largest.max():g}; allowed: at most {_LARGEST:g}")
    total = math.fsum(largest)
    shift = _DIFFERENCE_BITS - math.frexp(total)[1]
    entries = np.rint(np.ldexp(values, shift)).astype(np.int64)

    counts = [cost.options(space) for cost in costs]
    fixed = np.array([cost.fixed for cost in costs], dtype=np.int64)
    layers = []
    for choices in layer_choices(space):
        spent = np.stack([of_cost[choices.layer] for of_cost in counts], axis=1)
        if not choices.genes:
            fixed += spent[0]
            continue
        genes = list(choices.genes)
        differences = entries[genes, np.searchsorted(sensitivity.bits, choices.bits)].sum(axis=1)
        kept = _nondominated(np.column_stack([spent, differences]))
        layers.append(
            LayerOptions(genes=choices.genes, bits=choices.bits[kept], costs=spent[kept], differences=differences[kept])
        )
    return Options(layers=tuple(layers), fixed=fixed, shift=shift)


def _nondominated(values: IntArray) -> IntArray:
    """Return the rows of `(k, objectives)` that no other row dominates, ascending; of equal rows the first.

    In integers, exactly: moocore compares float64.
    """
    no_worse = (values[:, None] <= values[None]).all(axis=2)  # [i, j]: i is no worse than j
    equal = no_worse & no_worse.T
    beats = no_worse & (~equal | np.triu(np.ones_like(equal), k=1))
    return np.flatnonzero(~beats.any(axis=0))
