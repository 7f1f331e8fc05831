"""The additive model's best policy under any number of budgets, by integer linear programming."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import block_diag, csr_array, vstack

from evoq_moo.baselines._options import Options, integer_limit, layer_options
from evoq_moo.costs import Cost, checked_budgets, chosen_costs, known_costs
from evoq_moo.errors import ArgumentError, EvoqError, InfeasibleBudgetError, check_number
from evoq_moo.progress import track
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import FloatArray, IntArray

_SCALE = 1e6
"""Sum of the objective's coefficients: HiGHS stops within 1e-6 of the optimum, so within 1e-12 of the largest sum."""


class SolverError(EvoqError, RuntimeError):
    """The solver of integer linear programs gave up; the message is its own."""


def additive_optimum(
    sensitivity: SensitivityTable,
    *,
    budgets: Mapping[str, float],
    costs: Sequence[Cost] = (),
    time_limit: float | None = None,
) -> IntArray:
    """Return the policy of the smallest predicted difference within budgets.

    One binary variable for each layer and option (bit-widths of its genes), one option for each layer, one inequality
    for each budget: the integer linear program of Sony's model-compression-toolkit and of HAWQ-V3, solved by HiGHS to
    a gap of zero. Costs are exact integers and the result is checked against the budgets in integers.
    The optimum is exact to 1e-12 of the sum of all layers' largest differences, the solver's tolerance; with one
    budget :meth:`AdditiveFront.best` gives it without that.

    Args:
        sensitivity: The sensitivity table, or any table in its form.
        budgets: Limits of costs by their names, each in its unit, as problems take them.
        costs: The costs among them that are read from a table.
        time_limit: Most seconds for the solver; None for no limit. A run that ends by it raises.

    Returns:
        Int64 `(n_var,)`.

    Raises:
        ArgumentError: An argument is not of its allowed values.
        UnknownNameError: A budget is unknown.
        InfeasibleBudgetError: No policy is within the budgets.
        SolverError: The solver gave up.
    """
    limits = checked_budgets(budgets, difference=False)
    if not limits:
        raise ArgumentError(f"budgets: given {dict(budgets)}; allowed: one limit of a cost or more")
    if time_limit is not None:
        check_number("time_limit", time_limit, 0, math.inf, open_low=True)
    chosen_by = chosen_costs(tuple(limits), known_costs(costs), "budgets")
    options = layer_options(sensitivity, chosen_by)
    room = [integer_limit(cost, limit) for cost, limit in zip(chosen_by, limits.values(), strict=True)]
    chosen = _solve(options, np.array(room, dtype=np.int64) - options.fixed, chosen_by, limits, time_limit)
    x = np.empty(sensitivity.space.n_var, dtype=np.int64)
    for layer, k in zip(options.layers, chosen, strict=True):
        x[list(layer.genes)] = layer.bits[k]
    return x


def optimum_sweep(
    sensitivity: SensitivityTable,
    *,
    budgets: Sequence[Mapping[str, float]],
    costs: Sequence[Cost] = (),
    progress: bool = True,
) -> IntArray:
    """Return the optimum under each of several budgets, int64 `(n, n_var)`, in the order given.

    Args:
        sensitivity: The sensitivity table.
        budgets: Each as :func:`additive_optimum` takes them; :func:`budget_grid` spreads them over a cost.
        costs: The costs among them that are read from a table.
        progress: Show progress on a terminal.

    Raises:
        ArgumentError: As :func:`additive_optimum`.
        InfeasibleBudgetError: No policy is within some of the budgets.
    """
    with track(len(budgets), "additive optima", enabled=progress) as bar:
        found = []
        for each in budgets:
            found.append(additive_optimum(sensitivity, budgets=each, costs=costs))
            bar.advance()
    return np.array(found, dtype=np.int64).reshape(len(found), sensitivity.space.n_var)


def _solve(
    options: Options, room: IntArray, costs: Sequence[Cost], budgets: Mapping[str, float], time_limit: float | None
) -> IntArray:
    """Return the option of each layer, int64 `(layers,)`.

    Args:
        options: The layers' options.
        room: Int64 `(budgets,)`: what the layers may cost together, in counts.
        costs: The costs that are limited.
        budgets: The limits, for messages.
        time_limit: Most seconds; None for no limit.

    Raises:
        InfeasibleBudgetError: Nothing is within the budgets.
        SolverError: The solver gave up.
    """
    spent = np.concatenate([layer.costs for layer in options.layers])
    smallest = np.sum([layer.costs.min(axis=0) for layer in options.layers], axis=0)
    for cost, least, most, fixed in zip(costs, smallest, room, options.fixed, strict=True):
        if least > most:
            raise InfeasibleBudgetError(
                f"budgets[{cost.name!r}]: given {budgets[cost.name]:g}; the smallest reachable is "
                f"{(least + fixed) / cost.scale:.6g}"
            )
    # Above each layer's smallest and divided by the greatest common divisor, the numbers are small and still exact.
    above = np.concatenate([layer.costs - layer.costs.min(axis=0) for layer in options.layers])
    divisor = np.maximum(np.gcd.reduce(above, axis=0), 1)
    objective = _objective(options)
    sizes = [len(layer.differences) for layer in options.layers]
    one_each: csr_array = csr_array(block_diag([np.ones((1, size)) for size in sizes]))
    rows = [one_each, csr_array((above // divisor).T.astype(np.float64))]
    upper = np.concatenate([np.ones(len(sizes)), (room - smallest) // divisor])
    lower = np.concatenate([np.ones(len(sizes)), np.zeros(len(divisor))])
    starts = np.cumsum([0, *sizes[:-1]])
    while True:
        result = milp(
            objective,
            integrality=np.ones(len(objective), dtype=np.int64),
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(vstack(rows, format="csr"), lower, upper),
            options={"mip_rel_gap": 0.0} if time_limit is None else {"mip_rel_gap": 0.0, "time_limit": time_limit},
        )
        if result.status == 2:
            raise InfeasibleBudgetError(f"budgets: given {dict(budgets)}; each can be met, but no policy meets all")
        if result.status != 0:
            raise SolverError(f"the solver gave up under budgets {dict(budgets)}: {result.message}")
        parts = np.split(result.x, starts[1:])
        chosen = np.array([int(np.argmax(part)) for part in parts], dtype=np.int64)
        if (spent[starts + chosen].sum(axis=0) <= room).all():
            return chosen
        # Within the solver's tolerance but not within the budget: this one choice is excluded.
        cut = np.zeros((1, len(objective)))
        cut[0, starts + chosen] = 1
        rows.append(csr_array(cut))
        lower, upper = np.append(lower, 0), np.append(upper, len(sizes) - 1)


def _objective(options: Options) -> FloatArray:
    """Return the difference of every option above its layer's smallest, scaled, float64 `(options,)`."""
    above = np.concatenate([layer.differences - layer.differences.min() for layer in options.layers])
    largest = sum(float(layer.differences.max() - layer.differences.min()) for layer in options.layers)
    return np.asarray(above * (_SCALE / largest) if largest > 0 else np.zeros(len(above)))
