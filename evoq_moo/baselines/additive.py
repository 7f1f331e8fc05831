"""The additive model's exact Pareto front of difference and cost, by dynamic programming over layers."""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from evoq_moo.baselines._merge import falling, merge
from evoq_moo.baselines._options import Options, integer_limit, layer_options
from evoq_moo.costs import Cost, as_cost
from evoq_moo.errors import ArgumentError, InfeasibleBudgetError, check_count, check_number
from evoq_moo.progress import track
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import FloatArray, IntArray, SearchSpace

MAX_STATES = 200_000_000
"""Default limit of the states of :func:`additive_front`: 1 GB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Stage:
    """How the states after one layer were reached: indices into the layer's options and the states before it."""

    option: npt.NDArray[np.uint8] = field(repr=False)
    parent: npt.NDArray[np.int32] = field(repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class AdditiveFront:
    """Policies that no other policy dominates in the additive model, ordered by cost from small to large.

    Real fronts have up to millions of points, so vectors are only made of the rows asked for.

    Attributes:
        space: The search space.
        cost: The cost.
        costs: Float64 `(points,)`, increasing, in the cost's unit.
        integer_costs: The same as exact int64, in counts.
        differences: Float64 `(points,)`, decreasing: the predicted difference, in the metric's unit.
        error_bound: 0 where the front is exact. Else, in the cost's unit: for every policy of the space there is a
            point of no larger predicted difference that costs at most so much more.
    """

    space: SearchSpace
    cost: Cost
    costs: FloatArray = field(repr=False)
    integer_costs: IntArray = field(repr=False)
    differences: FloatArray = field(repr=False)
    error_bound: float
    _options: Options = field(repr=False)
    _stages: tuple[_Stage, ...] = field(repr=False)
    _rows: IntArray = field(repr=False)

    def __len__(self) -> int:
        return len(self.costs)

    @property
    def exact(self) -> bool:
        """Whether the front is exact."""
        return self.error_bound == 0

    def vectors(self, rows: npt.ArrayLike | None = None) -> IntArray:
        """Return the policies of some points, int64 `(n, n_var)`.

        Args:
            rows: Indices of points, integers `(n,)`; None for all, which takes `8 * points * n_var` bytes.
        """
        chosen = self._rows if rows is None else self._rows[np.atleast_1d(np.asarray(rows, dtype=np.int64))]
        return _walk(self._options, self._stages, chosen, self.space.n_var)[0]

    def best(self, limit: float) -> IntArray:
        """Return the policy of the smallest predicted difference that costs at most `limit`, int64 `(n_var,)`.

        Args:
            limit: Largest cost (MiB or GBOPs).

        Raises:
            ArgumentError: `limit` is not a positive number.
            InfeasibleBudgetError: No point costs so little.
        """
        largest = integer_limit(self.cost, check_number("limit", limit, 0, math.inf, open_low=True))
        row = int(np.searchsorted(self.integer_costs, largest, side="right")) - 1
        if row < 0:
            raise InfeasibleBudgetError(f"limit: given {limit:g}; the smallest {self.cost.name} is {self.costs[0]:.6g}")
        return np.asarray(self.vectors(row)[0])


def additive_front(
    sensitivity: SensitivityTable,
    *,
    cost: str | Cost,
    resolution: float | None = None,
    max_states: int = MAX_STATES,
    progress: bool = True,
) -> AdditiveFront:
    """Return the Pareto front of the additive prediction and a cost.

    Layer by layer, the front of (cost, difference) of the layers so far is combined with every option of the next
    one, and what is dominated is dropped: the dynamic program of the knapsack problem (Nemhauser and Ullmann 1969).
    Costs are exact integers (their counts), divided by the greatest common divisor of all that can be saved;
    differences are summed in fixed point, exactly, after entries are rounded to 2^-62 (2e-19) of the sum of all genes'
    largest. Entries may be negative or grow with the bit-width. Of several policies with one cost and difference, one
    is kept, always the same.

    Args:
        sensitivity: The sensitivity table, or any table in its form.
        cost: A cost, or the name of one that needs no table.
        resolution: None for the exact front. Else each layer's cost counts as the nearest multiple of this (MiB or
            GBOPs), which bounds the number of states; the points' costs are exact, but some points of the exact front
            are missing. For every policy there is a point of no larger predicted difference that costs at most
            `layers with genes * resolution` more, which the front states as its `error_bound`.
        max_states: Most states to keep, all layers together, at 5 bytes each.
        progress: Show progress on a terminal.

    Raises:
        ArgumentError: An argument is not of its allowed values, or there are more than `max_states` states; the
            message says what to do. Nothing is ever approximated without `resolution`.
        UnknownNameError: `cost` is not a cost.
    """
    cost = as_cost(cost)
    check_count("max_states", max_states)
    options = layer_options(sensitivity, (cost,))
    step = 1.0
    if resolution is not None:
        step = check_number("resolution", resolution, 0, math.inf, open_low=True) * cost.scale
    rounded = [_rounded(layer.costs[:, 0], step) for layer in options.layers]
    divisor = math.gcd(*(int(c - r[0]) for r in rounded for c in r)) or 1
    rounded = [(r - r.min()) // divisor for r in rounded]

    stages: list[_Stage] = []
    order = _order(rounded)
    costs, differences = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    states = 0
    with track(len(order), "additive front", enabled=progress) as bar:
        for done, i in enumerate(order, start=1):
            costs, differences, option, parent = merge(costs, differences, rounded[i], options.layers[i].differences)
            states += len(costs)
            if states > max_states:
                raise ArgumentError(
                    f"max_states: given {max_states}; the exact front has more states after {done} of {len(order)} "
                    f"layers ({len(costs)} in the last); allow more (5 bytes each), or give resolution= (in "
                    f"{cost.unit}) for a front with a stated error bound"
                )
            stages.append(_Stage(option=option, parent=parent))
            bar.advance()
    ordered = Options(layers=tuple(options.layers[i] for i in order), fixed=options.fixed, shift=options.shift)
    space = sensitivity.space
    rows = np.arange(len(costs), dtype=np.int64)
    exact = _walk(ordered, tuple(stages), rows, None)[1] + int(options.fixed[0])
    if resolution is not None:
        by_cost = np.lexsort((differences, exact))
        kept = by_cost[falling(differences[by_cost])]
        rows, exact, differences = rows[kept], exact[kept], differences[kept]
    return AdditiveFront(
        space=space,
        cost=cost,
        costs=exact / cost.scale,
        integer_costs=exact,
        differences=options.to_float(differences),
        error_bound=0.0 if resolution is None else len(order) * float(resolution),
        _options=ordered,
        _stages=tuple(stages),
        _rows=rows,
    )


def _rounded(costs: IntArray, step: float) -> IntArray:
    """Return costs above the layer's smallest in whole steps, to the nearest; exact where the step is 1."""
    above = costs - costs.min()
    return np.asarray(above if step == 1 else np.rint(above / step), dtype=np.int64)


def _order(costs: list[IntArray]) -> list[int]:
    """Return the layers by the range of their costs, small ones first, which keeps the first fronts small."""
    return sorted(range(len(costs)), key=lambda i: (int(costs[i].max()), i))


def _walk(options: Options, stages: tuple[_Stage, ...], rows: IntArray, n_var: int | None) -> tuple[IntArray, IntArray]:
    """Follow states back through all layers.

    Args:
        options: The options of the layers, in the order of the stages.
        stages: The stages.
        rows: States after the last stage, `(n,)`.
        n_var: Number of genes; None makes no vectors.

    Returns:
        Vectors int64 `(n, n_var)` (no columns without `n_var`), and the exact costs of the layers with genes, int64
        `(n,)`, in counts.
    """
    X = np.empty((len(rows), n_var or 0), dtype=np.int64)
    costs = np.zeros(len(rows), dtype=np.int64)
    for layer, stage in zip(reversed(options.layers), reversed(stages), strict=True):
        option = stage.option[rows]
        costs += layer.costs[option, 0]
        if n_var is not None:
            X[:, layer.genes] = layer.bits[option]
        rows = stage.parent[rows].astype(np.int64)
    return X, costs
