"""What a screened search knows: evaluated policies on the scales it works with."""

from typing import Any

import moocore
import numpy as np

from evoq_moo._genes import COST_OF, BoolArray, problem_space
from evoq_moo.cost import COSTS, cost_matrix
from evoq_moo.errors import ArgumentError
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import FloatArray, IntArray

from ._gain import Cells, cut

SMALLEST = 1e-12
"""Smaller differences count as this on the log10 scale, as in every curve we draw."""


def logarithm(differences: FloatArray) -> FloatArray:
    """Return log10 of differences, at least `SMALLEST`."""
    return np.asarray(np.log10(np.maximum(differences, SMALLEST)))


def supports(problem: Any) -> bool:
    """Return whether a problem's objectives are the difference and one or two costs."""
    objectives = tuple(getattr(problem, "objectives", ()))
    costs = [name for name in objectives if name in COST_OF]
    return "difference" in objectives and 1 <= len(costs) == len(objectives) - 1


class PolicyScale:
    """Costs, predictions and values of policies as a search for one problem sees them.

    Args:
        problem: The problem.
        sensitivity: Table of its space.

    Raises:
        ArgumentError: The objectives are not the difference and one or two costs.
    """

    def __init__(self, problem: Any, sensitivity: SensitivityTable) -> None:
        if not supports(problem):
            raise ArgumentError(
                f"problem: has the objectives {tuple(getattr(problem, 'objectives', ()))}; allowed: 'difference' with "
                "'size', 'bops' or both"
            )
        self.names = [COST_OF[name] for name in problem.objectives if name in COST_OF]
        self.space = problem_space(problem)
        self.sensitivity = sensitivity
        self.difference = problem.objectives.index("difference")
        self.log = bool((sensitivity.values[sensitivity.allowed] >= 0).all())
        """Whether differences are on a log10 scale; those that may be negative (decibels) stay as they are."""
        self._columns = [COSTS.index(name) for name in self.names]
        budgets = dict(getattr(problem, "budgets", None) or {})
        limits = {COST_OF[name]: limit for name, limit in budgets.items() if name in COST_OF}
        self._limits = np.array([limits.get(name, np.inf) for name in COSTS])
        ends = self._all_costs(np.stack([self.space.lower, self.space.upper]))
        self.low = ends[0, self._columns]
        self.high = np.minimum(ends[1], self._limits)[self._columns]
        worst = budgets.get("difference", np.inf)
        self.worst = float(self.values(np.array([worst]))[0])

    def _all_costs(self, X: IntArray) -> FloatArray:
        return cost_matrix(self.space.layers, self.space.decode(X))

    def costs(self, X: IntArray) -> FloatArray:
        """Return the costs that are objectives, float64 `(n, costs)` (MiB, GBOPs)."""
        return self._all_costs(X)[:, self._columns]

    def within(self, X: IntArray) -> BoolArray:
        """Return which vectors are within the budgets of costs, bool `(n,)`."""
        return np.asarray((self._all_costs(X) <= self._limits).all(axis=1))

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
        """Take in evaluated vectors, their objectives, and whether they are within all budgets."""
        first = not len(self.X)
        self.X = np.concatenate([self.X, X])
        self.values = np.concatenate([self.values, self._scale.values(F[:, self._scale.difference])])
        self._costs = np.concatenate([self._costs, self._scale.costs(X)])
        self._feasible = np.concatenate([self._feasible, feasible.astype(bool)])
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
