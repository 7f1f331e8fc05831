"""Repair of vectors to allowed bit-widths, and to budgets."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pymoo.core.repair import Repair

from evoq_moo.costs import Cost, checked_budgets, chosen_costs, gene_tables, known_costs
from evoq_moo.errors import ArgumentError
from evoq_moo.problems import PolicyProblem, check_same_genes, cost_limits, policy_problem, problem_space
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import FloatArray, IntArray

from ._moves import GuidedMoves


class BitWidthRepair(Repair):  # type: ignore[misc]
    """Move every value to the nearest bit-width its gene allows (the lower of two as near).

    With it any pymoo operator for real or integer vectors works on a space with gaps, e.g.
    ``SBX(vtype=float, repair=BitWidthRepair())``.
    """

    def __init__(self) -> None:
        super().__init__()

    def _do(self, problem: PolicyProblem, X: npt.ArrayLike, **_kwargs: Any) -> IntArray:
        """Return repaired vectors.

        Args:
            problem: A problem with a search space.
            X: Real vectors `(n, n_var)`.

        Returns:
            Int64 `(n, n_var)`.

        Raises:
            ArgumentError: The problem has no search space.
            BitWidthError: A value is NaN.
        """
        return problem_space(problem).snap(X)


class BudgetRepair(Repair):  # type: ignore[misc]
    """Change genes until a vector is within the budgets on its costs.

    Values are first moved to allowed bit-widths as :class:`BitWidthRepair` does. Then, as long as a cost is above its
    budget, one gene goes to its nearest choice that saves: of those that save of the cost that is the most above, the
    one that saves most per difference added (the merit of :class:`SensitivityGuidedMutation`'s saving moves; the first
    in vector order wins ties). Where no gene alone saves but a layer's two together do (a device with 8-bit kernels
    only for W8A8), the layer that can save most goes to its cheapest bit-widths. Vectors within the budgets stay as
    they are, and one that can't get there ends where nothing saves. A budget on the difference is left to the search.
    EvoQ's abstract names no repair; this is our choice.

    Args:
        sensitivity: The sensitivity table, measured on the problem's own space.
        budgets: Limits of costs, as problems take them. None: the problem's.
        costs: With `budgets`: the costs among them that are read from a table.

    Raises:
        ArgumentError: An argument is not of its allowed values.
        UnknownNameError: A budget is not on a cost.
    """

    def __init__(
        self, sensitivity: SensitivityTable, *, budgets: Mapping[str, float] | None = None, costs: Sequence[Cost] = ()
    ) -> None:
        super().__init__()
        self._moves = GuidedMoves(sensitivity, temperature=1.0, epsilon=0.0, max_step=1)
        self.budgets = None if budgets is None else checked_budgets(budgets, difference=False)
        self.costs = chosen_costs(tuple(self.budgets or {}), known_costs(costs), "budgets")

    def _do(self, problem: PolicyProblem, X: npt.ArrayLike, **_kwargs: Any) -> IntArray:
        """Return repaired vectors.

        Args:
            problem: A problem with a search space of the table's genes.
            X: Real vectors `(n, n_var)`.

        Returns:
            Int64 `(n, n_var)`.

        Raises:
            ArgumentError: The problem has no search space or other genes than the table, or no budget is known.
            BitWidthError: A value is NaN.
        """
        space = self._moves.sensitivity.space
        check_same_genes(problem, space)
        limits, costs = self._limits(problem)
        repaired = problem_space(problem).snap(X)
        tables = gene_tables(space)
        rows = np.arange(len(repaired))
        while len(rows):
            excess = self._excess(repaired[rows], costs, limits)
            rows, excess = rows[excess.max(axis=1) > 0], excess[excess.max(axis=1) > 0]
            worst = excess.argmax(axis=1)
            able = np.zeros(len(rows), dtype=bool)
            for k, cost in enumerate(costs):
                mine = np.flatnonzero(worst == k)
                if not len(mine):
                    continue
                everywhere = np.ones((len(mine), space.n_var), dtype=bool)
                merit = self._moves.one_way(repaired[rows[mine]], cost=cost, widen=False, genes=everywhere)
                flat = merit.reshape(len(mine), -1)
                able[mine] = flat.any(axis=1)
                gene, column = np.divmod(flat.argmax(axis=1), len(tables.bits))
                moved = able[mine]
                repaired[rows[mine[moved]], gene[moved]] = tables.bits[column[moved]]
                for i in mine[~moved]:
                    able[i] = self._cheapen_a_layer(repaired[rows[i]], cost)
            rows = rows[able]
        return repaired

    def _limits(self, problem: PolicyProblem) -> tuple[dict[str, float], tuple[Cost, ...]]:
        if self.budgets is not None:
            return self.budgets, self.costs
        limits = cost_limits(problem)
        if not limits:
            raise ArgumentError(
                f"budgets: given none, and the problem has {dict(problem.budgets)}; allowed: one of a cost or more"
            )
        return limits, chosen_costs(tuple(limits), policy_problem(problem).costs, "budgets")

    def _excess(self, X: IntArray, costs: Sequence[Cost], limits: Mapping[str, float]) -> FloatArray:
        """Return how far each cost is above its limit, relative to it, float64 `(n, costs)`."""
        space = self._moves.sensitivity.space
        return np.stack([cost.of(space.layers, space.decode(X)) / limits[cost.name] - 1 for cost in costs], axis=1)

    def _cheapen_a_layer(self, x: IntArray, cost: Cost) -> bool:
        """Set the layer that can save most to its cheapest bit-widths, in place; return whether any can save."""
        space = self._moves.sensitivity.space
        cheapest = cost.cheapest(space)
        now, least = (cost.by_layer(space.layers, space.decode(vector)[0]) for vector in (x, cheapest))
        layer = int(np.argmax(now - least))
        genes = gene_tables(space).layer == layer
        x[genes] = cheapest[genes]
        return bool(now[layer] > least[layer])
