"""What every problem over bit-width vectors shares: named objectives, budgets as constraints, exact costs."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from pymoo.core.problem import Problem

from evoq_moo.cost import COSTS, cost_matrix
from evoq_moo.errors import ArgumentError, InfeasibleBudgetError, check_name
from evoq_moo.latency import LatencyTable
from evoq_moo.space import FloatArray, IntArray, SearchSpace

OBJECTIVES = ("difference", "size", "bops", "latency")
"""Names of the objectives: output difference, weight size (MiB), bit operations (10^9 BOPs), latency (ms)."""
BUDGETS = {"difference": "difference", "size_mib": "size", "bops": "bops", "latency_ms": "latency"}
"""For each budget, the objective it limits."""
_UNITS = {"difference": "", "size_mib": " MiB", "bops": " GBOPs", "latency_ms": " ms"}


class BitWidthProblem(Problem):  # type: ignore[misc]
    """A problem whose vectors hold one int64 bit-width for each gene of a search space.

    Args:
        space: The search space.
        objectives: Any of ``"difference"``, ``"size"``, ``"bops"`` and ``"latency"``, all minimized, in this order in
            `F`.
        budgets: Limits as constraints: ``"difference"``, ``"size_mib"`` (MiB), ``"bops"`` (10^9 BOPs),
            ``"latency_ms"`` (ms). Each gives one inequality `value / limit - 1 <= 0` in `G`.
        latency: Times of the layers; needed where latency is an objective or has a budget.

    Attributes:
        space: The search space.
        objectives: Names of the objectives.
        budgets: The limits.
        latency: Times of the layers, or None.

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
        latency: LatencyTable | None = None,
    ) -> None:
        if isinstance(objectives, str) or not objectives or len(set(objectives)) != len(objectives):
            raise ArgumentError(f"objectives: given {objectives!r}; allowed: different names among {OBJECTIVES}")
        for objective in objectives:
            check_name("objectives", objective, OBJECTIVES)
        self.space = space
        if space.n_var == 0:
            raise ArgumentError("network: its search space has no gene; allow more than one bit-width somewhere")
        self.objectives = tuple(objectives)
        self.latency = self._checked_latency(latency, (*objectives, *(budgets or {})))
        self.budgets = self._checked_budgets(budgets or {})
        super().__init__(
            n_var=space.n_var,
            n_obj=len(self.objectives),
            n_ieq_constr=len(self.budgets),
            xl=space.lower,
            xu=space.upper,
            vtype=int,
        )

    def _checked_latency(self, latency: LatencyTable | None, names: Sequence[str]) -> LatencyTable | None:
        if latency is None:
            if "latency" in names or "latency_ms" in names:
                raise ArgumentError(
                    "latency: given no table; allowed: a LatencyTable (evoq profile makes one, or LatencyTable.load "
                    "reads a device's)"
                )
            return None
        if not isinstance(latency, LatencyTable):
            raise ArgumentError(f"latency: given {type(latency).__name__}; allowed: a LatencyTable or None")
        # The widest pair has no wider one to stand in for it.
        latency.check(self.space.layers, self.space.decode(self.space.upper))
        return latency

    def _checked_budgets(self, budgets: Mapping[str, float]) -> dict[str, float]:
        smallest = dict(zip(COSTS, cost_matrix(self.space.layers, self.space.decode(self.space.lower))[0], strict=True))
        reachable = {"size_mib": float(smallest["size_mib"]), "bops": float(smallest["gbops"])}
        if self.latency is not None:
            narrowest = self.space.decode(self.space.lower)[0]
            reachable["latency_ms"] = self.latency.smallest(self.space.layers, narrowest)
        for name, limit in budgets.items():
            check_name("budgets", name, BUDGETS)
            if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < float("inf"):
                raise ArgumentError(f"budgets[{name!r}]: given {limit!r}; allowed: a positive number")
            if name in reachable and limit < reachable[name]:
                raise InfeasibleBudgetError(
                    f"budgets[{name!r}]: given {limit:g}; the smallest reachable is {reachable[name]:.6g}{_UNITS[name]}"
                )
        return {name: float(limit) for name, limit in budgets.items()}

    def _check_difference_budget(self) -> None:
        """Raise unless the widest policy meets the budget on the difference; evaluates it if there is one.

        Raises:
            InfeasibleBudgetError: It does not.
        """
        if "difference" not in self.budgets:
            return
        widest = float(self.values(self.space.upper[None], all_values=True)["difference"][0])
        if self.budgets["difference"] < widest:
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
            For each of ``"difference"``, ``"size"``, ``"bops"`` and, with a table, ``"latency"``, float64 `(n,)`.

        Raises:
            BitWidthError: A value is not an allowed bit-width of its gene.
        """
        needed = "difference" in self.objectives or "difference" in self.budgets
        values = self._values(X, difference=all_values or needed)
        if self.latency is not None:
            values["latency"] = self.latency.of(self.space.layers, self.space.decode(X))
        return values

    @abstractmethod
    def _values(self, X: IntArray, *, difference: bool) -> dict[str, FloatArray]:
        """Return sizes and bit operations of vectors, and their differences where asked for, float64 `(n,)` each."""

    def _evaluate(self, X: IntArray, out: dict[str, Any], *_args: Any, **_kwargs: Any) -> None:
        values = self.values(X)
        out["F"] = np.stack([values[name] for name in self.objectives], axis=1)
        if self.budgets:
            limits = [values[BUDGETS[name]] / limit - 1 for name, limit in self.budgets.items()]
            out["G"] = np.stack(limits, axis=1)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # pymoo copies the problem once a generation with save_history=True; ours may hold a network and do not
        # change as they are used.
        return self
