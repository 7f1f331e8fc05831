"""What a surrogate search knows: evaluated policies on the scales it works with."""

import moocore
import numpy as np

from evoq_moo.algorithms.surrogate._gain import Cells, cut
from evoq_moo.costs import BoolArray, chosen_costs, cost_matrix
from evoq_moo.errors import ArgumentError
from evoq_moo.indicators import logarithm
from evoq_moo.problems import UNDEFINED, PolicyProblem, cost_limits, policy_problem
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import FloatArray, IntArray

MOST_COSTS = 2
"""Costs that a search can trade against the difference: their space is cut into cells."""


def supports(objectives: tuple[str, ...]) -> bool:
    """Return whether objectives are the difference and one or two costs."""
    return "difference" in objectives and 1 <= len(objectives) - 1 <= MOST_COSTS


class PolicyScale:
    """Costs, predictions and values of policies as a search for one problem sees them.

    A cost that is the same for every policy of the space, or of those within its budget, is left out.

    Args:
        problem: The problem.
        sensitivity: Table of its space.

    Attributes:
        space: The search space.
        sensitivity: The table.
        difference: Column of the difference among the objectives.
        log: Whether differences are on a log10 scale; those that may be negative (decibels) stay as they are.
        low: Smallest value of each cost, float64 `(costs,)`.
        high: Largest value that counts, the same.
        worst: Largest difference that counts, on the scale of values.

    Raises:
        ArgumentError: The objectives are not the difference and one or two costs.
    """

    def __init__(self, problem: PolicyProblem, sensitivity: SensitivityTable) -> None:
        objectives = policy_problem(problem).objectives
        if not supports(objectives):
            raise ArgumentError(
                f"problem: has the objectives {objectives}; allowed: 'difference' with one or two costs"
            )
        self.space = problem.space
        self.sensitivity = sensitivity
        self.difference = objectives.index("difference")
        self.log = bool((sensitivity.values[sensitivity.allowed] >= 0).all())
        limits = cost_limits(problem)
        self._limited = chosen_costs(tuple(limits), problem.costs, "budgets")
        self._limits = np.array([limits[cost.name] for cost in self._limited])
        costs = chosen_costs(objectives, problem.costs, "objectives")
        ends = [(low, min(high, limits.get(c.name, np.inf))) for c in costs for low, high in [c.bounds(self.space)]]
        self._costs = tuple(cost for cost, (low, high) in zip(costs, ends, strict=True) if low < high)
        self.low, self.high = np.array([end for end in ends if end[0] < end[1]]).reshape(-1, 2).T
        self.worst = float(self.values(np.array([problem.budgets.get("difference", np.inf)]))[0])

    def costs(self, X: IntArray) -> FloatArray:
        """Return the costs that are objectives, float64 `(n, costs)`, each in its unit."""
        return cost_matrix(self.space.layers, self.space.decode(X), self._costs)

    def within(self, X: IntArray) -> BoolArray:
        """Return which vectors are within the budgets of costs, bool `(n,)`."""
        return np.asarray(
            (cost_matrix(self.space.layers, self.space.decode(X), self._limited) <= self._limits).all(axis=1)
        )

    def predicted(self, X: IntArray) -> FloatArray:
        """Return the table's predictions of vectors on the scale of values, float64 `(n,)`."""
        return self.values(self.sensitivity.predict(X))

    def values(self, differences: FloatArray) -> FloatArray:
        """Return differences on the scale that the search works with, float64 of the same shape."""
        return logarithm(differences) if self.log else differences


class Archive:
    """Evaluated policies.

    Attributes:
        X: Int64 `(n, n_var)`.
        values: (Log) differences, float64 `(n,)`.
        unit: A fifth of the range of the first policies' values.
    """

    def __init__(self, scale: PolicyScale) -> None:
        self._scale = scale
        self.X = np.empty((0, scale.space.n_var), dtype=np.int64)
        self.values = np.empty(0)
        self._feasible = np.empty(0, dtype=bool)
        self._costs = np.empty((0, len(scale.low)))
        self.unit = 1.0
        self._worst = scale.worst

    def add(self, X: IntArray, F: FloatArray, feasible: BoolArray) -> None:
        """Take in evaluated vectors, their objectives, and whether they are within all budgets.

        Policies without a difference are infeasible, and count as no better than the worst that is known.
        """
        first = not len(self.X)
        differences = F[:, self._scale.difference]
        defined = differences < UNDEFINED
        values = np.concatenate([self.values, self._scale.values(differences)])
        known = np.concatenate([np.ones(len(self.X), dtype=bool), defined])
        self.X = np.concatenate([self.X, X])
        self.values = np.where(known, values, values[known].max(initial=-np.inf) if known.any() else 0.0)
        self._costs = np.concatenate([self._costs, self._scale.costs(X)])
        self._feasible = np.concatenate([self._feasible, feasible.astype(bool) & defined])
        if first:
            self.unit = max(float(np.ptp(self.values)), 1e-6) / 5
            # A tenth of the range above the largest value, so that the cheapest policies count as well.
            self._worst = min(self._scale.worst, float(self.values.max()) + self.unit / 2)

    @property
    def any_feasible(self) -> bool:
        """Whether any policy is within the budgets."""
        return bool(self._feasible.any())

    def cells(self, costs: FloatArray | None = None, values: FloatArray | None = None) -> Cells:
        """Return the cells that the feasible policies leave, some more counted in.

        Args:
            costs: Costs of more policies `(n, costs)`.
            values: Their (log) differences `(n,)`.
        """
        known, seen = self._costs[self._feasible], self.values[self._feasible]
        if costs is not None and values is not None:
            known, seen = np.concatenate([known, costs]), np.concatenate([seen, values])
        return cut(known, seen, self._scale.low, self._scale.high, self._worst)

    def front_rows(self) -> IntArray:
        """Return the rows of the feasible nondominated policies, int64."""
        rows = np.flatnonzero(self._feasible)
        points = np.column_stack([self._costs, self.values])[rows]
        return np.asarray(rows[moocore.is_nondominated(points)])
