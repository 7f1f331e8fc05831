"""EvoPress: a (1 + lambda) evolution strategy whose mutation keeps a budget.

Sieberling, Kuznedelev, Kurtic, Alistarh: "EvoPress: Accurate Dynamic Model Compression via Evolutionary Search"
(ICML 2025). Its units have equal sizes, so one level up pays for one level down; layers here have not, so one gene goes
up and as many go down as the budget asks for (our choice).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pymoo.core.algorithm import Algorithm
from pymoo.core.population import Population

from evoq_moo.algorithms._switch import costly_genes, switch_levels, uniform_start
from evoq_moo.baselines import even_limits, exact_limits
from evoq_moo.costs import Cost, as_cost, gene_tables
from evoq_moo.errors import ArgumentError, InfeasibleBudgetError, check_count
from evoq_moo.problems import PolicyProblem, cost_limits, policy_problem
from evoq_moo.space import IntArray

_REDRAWS = 20
"""Draws for each child wanted, before a policy counts as having fewer new ones."""


class LevelSwitch(Algorithm):  # type: ignore[misc]
    """(1 + lambda) search with budget-preserving level switches, at one budget or swept over several.

    For each limit there is one policy. In turn, each has `offspring` children by level switches, all within its limit;
    the best of them takes its place if its difference is not larger (our choice: a tie moves on), and so at every other
    limit that it is within (our choice: what one limit finds no other pays for again). The search starts
    with the widest uniform policy within each limit. Children that were already asked for are drawn again, 20 times
    `offspring` draws in all, and a policy that has no new ones is passed over, so that no evaluation is wasted; only
    where nothing new is left at any limit are known policies asked for, until the search ends by its termination.

    EvoPress evaluates offspring on growing numbers of samples; here every evaluation is a full one (our choice), as for
    every other algorithm.

    Args:
        cost: A cost, or the name of one that needs no table; None: that of the problem's one cost budget.
        limits: Limits of that cost in its unit, one policy for each; None: the problem's one cost budget, or those of
            `sweep`.
        sweep: Instead of `limits`: how many to spread evenly between the smallest and the largest cost.
        offspring: Children a generation (lambda).
        start: Vectors to start from instead, one for each limit and within it, `(limits, n_var)`.
        **options: What pymoo's `Algorithm` takes.

    Raises:
        ArgumentError: An argument is not allowed; some are only known with the problem, and raise in `setup`.
        InfeasibleBudgetError: No policy is within a limit (in `setup`).
    """

    def __init__(
        self,
        *,
        cost: str | Cost | None = None,
        limits: Sequence[float] | npt.NDArray[np.float64] | None = None,
        sweep: int | None = None,
        offspring: int = 8,
        start: npt.ArrayLike | None = None,
        **options: Any,
    ) -> None:
        if sweep is not None and limits is not None:
            raise ArgumentError(f"sweep: given {sweep!r} with limits={limits!r}; allowed: one of them")
        if (cost is None) != (limits is None and sweep is None):
            raise ArgumentError(
                f"cost, limits: given {cost!r} and {limits!r}; allowed: a cost with limits or a sweep, or none of them"
            )
        super().__init__(**options)
        self.cost = None if cost is None else as_cost(cost)
        self.limits = limits
        self.sweep = None if sweep is None else check_count("sweep", sweep)
        self.offspring = check_count("offspring", offspring)
        self.start = start

    def _setup(self, problem: PolicyProblem, **_kwargs: Any) -> None:
        """Check what depends on the problem, before anything is evaluated."""
        problem = policy_problem(problem)
        space, objectives = problem.space, problem.objectives
        if "difference" not in objectives:
            raise ArgumentError(f"problem: has the objectives {objectives}; allowed: with 'difference' among them")
        self._objective = objectives.index("difference")
        self._tables = gene_tables(space)
        cost, limits = self._cost_and_limits(problem)
        self._cost = cost
        self._limits = exact_limits(space, cost, limits)
        self._costly = costly_genes(self._tables, cost)
        self._start = self._checked_start()
        self._turn = 0
        self._asked: set[bytes] = set()
        self._exhausted: set[tuple[int, bytes]] = set()

    def _cost_and_limits(self, problem: PolicyProblem) -> tuple[Cost, Any]:
        if self.cost is not None and self.sweep is not None:
            return self.cost, even_limits(problem.space, cost=self.cost, n=self.sweep)
        if self.cost is not None:
            return self.cost, self.limits
        limits = cost_limits(problem)
        if len(limits) != 1:
            raise ArgumentError(
                f"limits: given none, and the problem has the budgets {dict(problem.budgets)}; allowed: cost and "
                "limits, or a problem with one budget of a cost"
            )
        return next((cost, [limits[cost.name]]) for cost in problem.costs if cost.name in limits)

    def _checked_start(self) -> IntArray:
        """Return the first policy of each limit, int64 `(limits, n_var)`."""
        if self.start is None:
            return np.stack([uniform_start(self._tables, self._cost, limit) for limit in self._limits.tolist()])
        space = self._tables.space
        X = space.check(self.start)
        if len(X) != len(self._limits):
            raise ArgumentError(f"start: given {len(X)} vectors; allowed: one for each of {len(self._limits)} limits")
        above = np.flatnonzero(self._cost.count(space.layers, space.decode(X)) > self._limits)
        if len(above):
            limit = self._limits[above[0]] / self._cost.scale
            raise InfeasibleBudgetError(f"start: vector {above[0]} is above its limit of {limit:g} {self._cost.unit}")
        return X

    def _initialize_infill(self) -> Population:
        self._asked.update(x.tobytes() for x in self._start)
        return Population.new(X=self._start)

    def _initialize_advance(self, infills: Population, **_kwargs: Any) -> None:
        self.pop = Population.create(*infills)  # one policy for each limit, from now on
        self._compete(infills)

    def _infill(self) -> Population:
        """Return the new children of the policy whose turn it is, or of the next one that has any."""
        for _ in range(len(self.pop)):
            x = np.asarray(self.pop[self._turn].X, dtype=np.int64)
            if (self._turn, x.tobytes()) not in self._exhausted:
                children = self._children(x)
                if children:
                    return Population.new(X=np.stack(children))
                self._exhausted.add((self._turn, x.tobytes()))
            self._turn = (self._turn + 1) % len(self.pop)
        return Population.new(X=self.pop[[self._turn]].get("X").astype(np.int64))  # nothing new: known, so free

    def _children(self, x: IntArray) -> list[IntArray]:
        """Return up to `offspring` children, int64 `(n_var,)` each, that were never asked for."""
        children: list[IntArray] = []
        for _ in range(self.offspring * _REDRAWS):
            child = switch_levels(
                self._tables,
                x,
                cost=self._cost,
                limit=int(self._limits[self._turn]),
                costly=self._costly,
                random_state=self.random_state,
            )
            if child.tobytes() not in self._asked:
                self._asked.add(child.tobytes())
                children.append(child)
            if len(children) == self.offspring:
                break
        return children

    def _advance(self, infills: Population, **_kwargs: Any) -> None:
        self._compete(infills)
        self._turn = (self._turn + 1) % len(self.pop)

    def _compete(self, infills: Population) -> None:
        """Let the best of some policies take the place at every limit: least violation, then least difference."""
        space = self._tables.space
        costs = self._cost.count(space.layers, space.decode(infills.get("X").astype(np.int64)))
        for i, limit in enumerate(self._limits.tolist()):
            family = Population.merge(infills[costs <= limit], self.pop[[i]])
            CV = family.get("CV").astype(np.float64).reshape(-1)
            F = family.get("F").astype(np.float64)[:, self._objective]
            self.pop[i] = family[int(np.lexsort((F, CV))[0])]
