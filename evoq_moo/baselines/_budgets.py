"""Limits of one cost, checked and spread evenly: what budget-matched baselines are matched to."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evoq_moo.baselines._options import integer_limit
from evoq_moo.costs import Cost, as_cost
from evoq_moo.errors import ArgumentError, InfeasibleBudgetError, check_count, check_number
from evoq_moo.space import FloatArray, IntArray, SearchSpace


def even_limits(space: SearchSpace, *, cost: str | Cost, n: int) -> FloatArray:
    """Return `n` limits of a cost, evenly from its smallest to its largest on the space, float64 `(n,)`.

    Args:
        space: The search space.
        cost: A cost, or the name of one that needs no table.
        n: Number of limits; one alone is the largest.

    Raises:
        ArgumentError: `n` is not a positive integer.
        UnknownNameError: `cost` is not a cost.
    """
    check_count("n", n)
    low, high = as_cost(cost).bounds(space)
    return np.linspace(low, high, n) if n > 1 else np.array([high])


def budget_grid(space: SearchSpace, *, cost: str | Cost, n: int) -> list[dict[str, float]]:
    """Return `n` budgets of one cost, evenly spread, as :func:`additive_optimum` and problems take them.

    Args:
        space: The search space.
        cost: A cost, or the name of one that needs no table.
        n: Number of budgets.

    Raises:
        ArgumentError: `n` is not a positive integer.
        UnknownNameError: `cost` is not a cost.
    """
    return [{as_cost(cost).name: float(limit)} for limit in even_limits(space, cost=cost, n=n)]


def exact_limits(space: SearchSpace, cost: Cost, limits: Sequence[float] | npt.NDArray[np.float64]) -> IntArray:
    """Return limits of a cost in counts, int64 `(n,)`.

    Args:
        space: The search space.
        cost: The cost.
        limits: The limits in the cost's unit.

    Raises:
        ArgumentError: There are none, or one is not a positive number.
        InfeasibleBudgetError: No policy is within one of them.
    """
    given = np.asarray(limits)
    if given.ndim != 1 or not len(given) or given.dtype == object:
        raise ArgumentError(f"limits: given {limits!r}; allowed: one or more limits of {cost.name}")
    low = cost.bounds(space)[0]
    exact = []
    for i, limit in enumerate(given.tolist()):
        exact.append(integer_limit(cost, check_number(f"limits[{i}]", limit, 0, math.inf, open_low=True)))
        if limit < low:
            raise InfeasibleBudgetError(
                f"limits[{i}]: given {limit:g}; the smallest reachable {cost.name} is {low:.6g} {cost.unit}"
            )
    return np.array(exact, dtype=np.int64)
