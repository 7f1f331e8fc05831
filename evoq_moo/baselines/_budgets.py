"""Limits of one cost, checked and spread evenly: what budget-matched baselines are matched to."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evoq_moo.cost import COSTS
from evoq_moo.errors import ArgumentError, InfeasibleBudgetError, check_count, check_name, check_number
from evoq_moo.space import FloatArray, IntArray, SearchSpace

from ._options import UNITS, integer_costs, integer_limit

BUDGET_COSTS = {"size_mib": "size_mib", "bops": "gbops"}
"""For each budget, named as in :class:`MixedPrecisionProblem`, the cost that it limits."""


def cost_range(space: SearchSpace, cost: str) -> tuple[int, int]:
    """Return the exact costs of the narrowest and the widest policy (weight bits or BOPs)."""
    low, high = integer_costs(space, space.decode(np.stack([space.lower, space.upper])), cost).tolist()
    return low, high


def even_limits(space: SearchSpace, *, cost: str, n: int) -> FloatArray:
    """Return `n` limits of a cost, evenly from the narrowest to the widest policy's, float64 `(n,)`.

    Args:
        space: The search space.
        cost: ``"size_mib"`` or ``"gbops"``.
        n: Number of limits; one alone is the widest policy's.

    Raises:
        ArgumentError: `n` is not a positive integer.
        UnknownNameError: `cost` is not a cost.
    """
    check_name("cost", cost, COSTS)
    check_count("n", n)
    low, high = (value / UNITS[cost] for value in cost_range(space, cost))
    return np.linspace(low, high, n) if n > 1 else np.array([high])


def budget_grid(space: SearchSpace, *, cost: str, n: int) -> list[dict[str, float]]:
    """Return `n` budgets of one cost, evenly spread, as :func:`additive_optimum` and problems take them.

    Args:
        space: The search space.
        cost: ``"size_mib"`` or ``"gbops"``.
        n: Number of budgets.

    Raises:
        ArgumentError: `n` is not a positive integer.
        UnknownNameError: `cost` is not a cost.
    """
    name = next((name for name, limited in BUDGET_COSTS.items() if limited == cost), "")
    return [{name: float(limit)} for limit in even_limits(space, cost=cost, n=n)]


def exact_limits(space: SearchSpace, cost: str, limits: Sequence[float] | npt.NDArray[np.float64]) -> IntArray:
    """Return limits of a cost as exact integers (weight bits or BOPs), int64 `(n,)`.

    Args:
        space: The search space.
        cost: ``"size_mib"`` or ``"gbops"``.
        limits: The limits (MiB or GBOPs).

    Raises:
        ArgumentError: There are none, or one is not a positive number.
        InfeasibleBudgetError: No policy is within one of them.
    """
    check_name("cost", cost, COSTS)
    given = np.asarray(limits)
    if given.ndim != 1 or not len(given) or given.dtype == object:
        raise ArgumentError(f"limits: given {limits!r}; allowed: one or more limits of {cost}")
    low = cost_range(space, cost)[0]
    exact = []
    for i, limit in enumerate(given.tolist()):
        exact.append(integer_limit(cost, check_number(f"limits[{i}]", limit, 0, math.inf, open_low=True)))
        if exact[-1] < low:
            raise InfeasibleBudgetError(
                f"limits[{i}]: given {limit:g}; the smallest reachable {cost} is {low / UNITS[cost]:.6g}"
            )
    return np.array(exact, dtype=np.int64)
