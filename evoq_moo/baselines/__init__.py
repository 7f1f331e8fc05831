"""Policies found without a search, or by a plain one: what a search has to beat, and what it may start from.

Each gives vectors of a search space, int64 `(n, n_var)`: evaluate them with a problem, plot them by
:meth:`ParetoFront.from_vectors`, or give them to a pymoo algorithm as its `sampling`.
"""

from evoq_moo.baselines._budgets import budget_grid, even_limits, exact_limits
from evoq_moo.baselines.additive import AdditiveFront, additive_front
from evoq_moo.baselines.greedy import greedy_path
from evoq_moo.baselines.hessian import hessian_sensitivity
from evoq_moo.baselines.optimum import SolverError, additive_optimum, optimum_sweep
from evoq_moo.baselines.policies import random_policies, uniform_policies
from evoq_moo.baselines.seeds import spread, spread_rows

__all__ = [
    "AdditiveFront",
    "SolverError",
    "additive_front",
    "additive_optimum",
    "budget_grid",
    "even_limits",
    "exact_limits",
    "greedy_path",
    "hessian_sensitivity",
    "optimum_sweep",
    "random_policies",
    "spread",
    "spread_rows",
    "uniform_policies",
]
