"""Repair of vectors to allowed bit-widths, and to budgets."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pymoo.core.repair import Repair

from evoq_moo._genes import COST_OF, check_same_genes, gene_tables, problem_space
from evoq_moo.errors import ArgumentError, check_name, check_number
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import FloatArray, IntArray

from ._moves import GuidedMoves
from ._pairs import cost_of


class BitWidthRepair(Repair):  # type: ignore[misc]
    """Move every value to the nearest bit-width its gene allows (the lower of two as near).

    With it any pymoo operator for real or integer vectors works on a space with gaps, e.g.
    ``SBX(vtype=float, repair=BitWidthRepair())``.
    """

    def __init__(self) -> None:
        super().__init__()

    def _do(self, problem: Any, X: npt.ArrayLike, **_kwargs: Any) -> IntArray:
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
    """Narrow genes until a vector is within the budgets on its costs.

    Values are first moved to allowed bit-widths as :class:`BitWidthRepair` does. Then, as long as a cost is above its
    budget, one gene goes to its next narrower choice: of those that save of the cost that is the most above, the one
    that saves most per difference added (the merit of :class:`SensitivityGuidedMutation`'s narrowing moves; the first
    in vector order wins ties). Vectors within the budgets stay as they are, and one that can't get there ends at its
    narrowest. A budget on the difference is left to the search. EvoQ's abstract names no repair; this is our choice.

    Args:
        sensitivity: The sensitivity table, measured on the problem's own space.
        budgets: Limits ``"size_mib"`` (MiB) and ``"bops"`` (10^9 BOPs). None: the problem's.

    Raises:
        ArgumentError: An argument is not of its allowed values.
        UnknownNameError: A budget is not on a cost.
    """

    def __init__(self, sensitivity: SensitivityTable, *, budgets: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self._moves = GuidedMoves(sensitivity, temperature=1.0, epsilon=0.0, max_step=1)
        self.budgets = None if budgets is None else dict(budgets)
        for name, limit in (self.budgets or {}).items():
            check_name("budgets", name, ("size_mib", "bops"))
            check_number(f"budgets[{name!r}]", limit, 0, np.inf, open_low=True)

    def _do(self, problem: Any, X: npt.ArrayLike, **_kwargs: Any) -> IntArray:
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
        given = self.budgets if self.budgets is not None else dict(getattr(problem, "budgets", None) or {})
        limits = {COST_OF[name]: limit for name, limit in given.items() if name in COST_OF}
        if not limits:
            raise ArgumentError(f"budgets: given none, and the problem has {given}; allowed: size_mib or bops")
        repaired = problem_space(problem).snap(X)
        tables = gene_tables(space)
        rows = np.arange(len(repaired))
        while len(rows):
            excess = self._excess(repaired[rows], limits)
            rows, excess = rows[excess.max(axis=1) > 0], excess[excess.max(axis=1) > 0]
            worst = excess.argmax(axis=1)
            able = np.zeros(len(rows), dtype=bool)
            for k, cost in enumerate(limits):
                mine = np.flatnonzero(worst == k)
                if not len(mine):
                    continue
                everywhere = np.ones((len(mine), space.n_var), dtype=bool)
                merit = self._moves.one_way(repaired[rows[mine]], cost=cost, up=False, genes=everywhere)
                flat = merit.reshape(len(mine), -1)
                able[mine] = flat.any(axis=1)
                gene, column = np.divmod(flat.argmax(axis=1), len(tables.bits))
                moved = able[mine]
                repaired[rows[mine[moved]], gene[moved]] = tables.bits[column[moved]]
            rows = rows[able]
        return repaired

    def _excess(self, X: IntArray, limits: Mapping[str, float]) -> FloatArray:
        """Return how far each cost is above its limit, relative to it, float64 `(n, limits)`."""
        space = self._moves.sensitivity.space
        return np.stack([cost_of(space, X, cost) / limit - 1 for cost, limit in limits.items()], axis=1)
