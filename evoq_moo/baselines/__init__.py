"""Policies found without a search, or by a plain one: what a search has to beat, and what it may start from.

Each gives vectors of a search space, int64 `(n, n_var)`: evaluate them with a problem, plot them by
:meth:`ParetoFront.from_vectors`, or give them to a pymoo algorithm as its `sampling`.
"""

from ._budgets import budget_grid
from .additive import AdditiveFront, additive_front
from .greedy import greedy_path
from .hessian import hessian_sensitivity
from .level_switch import LevelSwitch
from .optimum import SolverError, additive_optimum, optimum_sweep
from .policies import random_policies, uniform_policies
from .seeds import spread, spread_rows

__all__ = [
    "AdditiveFront",
    "LevelSwitch",
    "SolverError",
    "additive_front",
    "additive_optimum",
    "budget_grid",
    "greedy_path",
    "hessian_sensitivity",
    "optimum_sweep",
    "random_policies",
    "spread",
    "spread_rows",
    "uniform_policies",
]
