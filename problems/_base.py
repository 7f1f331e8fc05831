"""What every problem over bit-width vectors shares: named objectives, budgets as constraints, exact costs."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from pymoo.core.problem import Problem

from evoq_moo.costs import (
    BoolArray,
    Cost,
    checked_budgets,
    chosen_costs,
    cost_matrix,
    known_costs,
    name_of,
    objective_names,
)
from evoq_moo.errors import ArgumentError, InfeasibleBudgetError
from evoq_moo.space import FloatArray, IntArray, SearchSpace

UNDEFINED = 1e30
"""What pymoo sees as the difference of a policy that has none: finite, since NaN and infinity corrupt its rankings."""


class BitWidthProblem(Problem):  # type: ignore[misc]
    """A problem whose vectors hold one int64 bit-width for each gene of a search space.

    Args:
        space: The search space.
        objectives: ``"difference"`` and names of costs, all minimized, in this order in `F`.
        budgets: Limits by the same names, each in its unit. Each gives one inequality `value / limit - 1 <= 0` in `G`.
        costs: Costs beside size and bit operations, e.g. a :class:`LatencyTable`.

    Attributes:
        space: The search space.
        objectives: Names of the objectives.
        budgets: The limits.
        costs: All costs that it knows.
        on_result: Called after every policy that had to be computed; for progress displays.

    Raises:
        ArgumentError: An argument is not allowed, or the space has no gene.
        UnknownNameError: An objective or budget is unknown.
        InfeasibleBudgetError: No policy meets a budget on a cost; the message states the smallest reachable value.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        objectives: Sequence[str],
        budgets: Mapping[str, float] | None,
        costs: Sequence[Cost] = (),
    ) -> None:
        if isinstance(objectives, str) or not objectives:
            raise ArgumentError(f"objectives: given {objectives!r}; allowed: different names of {objective_names()}")
        self.space = space
        if space.n_var == 0:
            raise ArgumentError("network: its search space has no gene; allow more than one bit-width somewhere")
        self.objectives = tuple(name_of(name, "objectives") for name in objectives)
        if len(set(self.objectives)) != len(objectives):
            raise ArgumentError(f"objectives: given {objectives!r}; allowed: different names of {objective_names()}")
        self.budgets = checked_budgets(budgets or {})
        self.costs = known_costs(costs)
        chosen_costs(self.objectives, self.costs, "objectives")
        chosen_costs(tuple(self.budgets), self.costs, "budgets")
        for cost in self.costs:
            low = cost.bounds(space)[0]
            if self.budgets.get(cost.name, np.inf) < low:
                raise InfeasibleBudgetError(
                    f"budgets[{cost.name!r}]: given {self.budgets[cost.name]:g}; the smallest reachable is "
                    f"{low:.6g} {cost.unit}"
                )
        self.on_result: Callable[[], None] | None = None
        super().__init__(
            n_var=space.n_var,
            n_obj=len(self.objectives),
            n_ieq_constr=len(self.budgets),
            xl=space.lower,
            xu=space.upper,
            vtype=int,
        )

    def _check_difference_budget(self) -> None:
        """Raise unless the widest policy meets the budget on the difference; evaluates it if there is one.

        Raises:
            InfeasibleBudgetError: It does not.
        """
        if "difference" not in self.budgets:
            return
        widest = float(self.values(self.space.upper[None], all_values=True)["difference"][0])
        if np.isfinite(widest) and self.budgets["difference"] < widest:
            raise InfeasibleBudgetError(
                f"budgets['difference']: given {self.budgets['difference']:g}; the smallest known to be reachable, "
                f"with every gene at its widest, is {widest:.6g}"
            )

    def values(self, X: IntArray, *, all_values: bool = False) -> dict[str, FloatArray]:
        """Return the named values of vectors.

        Args:
            X: Vectors `(n, n_var)`.
            all_values: Give the difference even where neither an objective nor a budget needs it.

        Returns:
            For each known cost, and ``"difference"`` where it is needed, float64 `(n,)`. The difference is infinite
            where a policy has none.

        Raises:
            BitWidthError: A value is not an allowed bit-width of its gene.
        """
        needed = all_values or "difference" in self.objectives or "difference" in self.budgets
        return self._values(X, difference=needed)

    def _costs(self, X: IntArray) -> dict[str, FloatArray]:
        """Return every known cost of vectors, float64 `(n,)` each."""
        found = cost_matrix(self.space.layers, self.space.decode(X), self.costs)
        return {cost.name: found[:, k] for k, cost in enumerate(self.costs)}

    @abstractmethod
    def _values(self, X: IntArray, *, difference: bool) -> dict[str, FloatArray]:
        """Return the costs of vectors, and their differences where asked for, float64 `(n,)` each."""

    def known(self, X: IntArray) -> BoolArray:
        """Return for which vectors `(n, n_var)` all values are known without computing any, bool `(n,)`."""
        return np.zeros(len(X), dtype=bool)

    @property
    def provenance(self) -> dict[str, Any]:
        """What a front says of the problem it is of: plain JSON data."""
        return {}

    def _evaluate(self, X: IntArray, out: dict[str, Any], *_args: Any, **_kwargs: Any) -> None:
        values = self.values(X)
        F = np.stack([values[name] for name in self.objectives], axis=1)
        G = np.stack([values[name] / limit - 1 for name, limit in self.budgets.items()] or [np.empty(len(X))], axis=1)
        # A policy without a difference violates every budget and is worse than any other in every objective.
        undefined = ~np.isfinite(values.get("difference", np.zeros(len(X))))
        if undefined.any():
            F[undefined] = [UNDEFINED if name == "difference" else self._highest(name) for name in self.objectives]
            G[undefined] = UNDEFINED
        out["F"] = F
        if self.budgets:
            out["G"] = G

    def _highest(self, name: str) -> float:
        """Return the largest value of a cost on the space."""
        return chosen_costs((name,), self.costs, "objectives")[0].bounds(self.space)[1]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # pymoo copies the problem once a generation with save_history=True; ours may hold a network and do not
        # change as they are used.
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "on_result": None}
