"""Uniform reset: the plain mutation that guided ones are compared with."""

from typing import Any

import numpy as np
import numpy.typing as npt
from pymoo.core.mutation import Mutation

from evoq_moo.costs import gene_tables
from evoq_moo.errors import check_number
from evoq_moo.problems import PolicyProblem, problem_space
from evoq_moo.space import IntArray


class UniformBitMutation(Mutation):  # type: ignore[misc]
    """Set each gene, with some probability, to another of its choices, all others being as likely.

    Args:
        prob: Probability that an individual is mutated at all.
        prob_var: Probability that a gene is reset; default is pymoo's, `1 / n_var` and at most 0.5.

    Raises:
        ArgumentError: A probability is not from 0 to 1.
    """

    def __init__(self, *, prob: float = 1.0, prob_var: float | None = None) -> None:
        if prob_var is not None:
            check_number("prob_var", prob_var, 0, 1)
        super().__init__(prob=check_number("prob", prob, 0, 1), prob_var=prob_var, vtype=np.int64)

    def _do(
        self, problem: PolicyProblem, X: npt.ArrayLike, *_args: Any, random_state: np.random.Generator, **_kwargs: Any
    ) -> IntArray:
        """Return mutated vectors.

        Args:
            problem: A problem with a search space.
            X: Vectors of allowed bit-widths `(n, n_var)`.
            random_state: Source of all randomness.

        Returns:
            Int64 `(n, n_var)`.

        Raises:
            ArgumentError: The problem has no search space.
            BitWidthError: A value is not an allowed bit-width.
        """
        tables = gene_tables(problem_space(problem))
        columns = tables.columns(X)
        prob_var = self.get_prob_var(problem, size=len(columns))
        reset = random_state.random(columns.shape) < prob_var[:, None]
        genes = np.arange(columns.shape[1])
        other = random_state.integers(tables.counts - 1, size=columns.shape)
        other += other >= tables.rank[genes, columns]
        return np.where(reset, tables.choices[genes, other], tables.bits[columns])
