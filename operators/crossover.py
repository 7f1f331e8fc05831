"""Uniform crossover that exchanges whole layers."""

from typing import Any

import numpy as np
import numpy.typing as npt
from pymoo.core.crossover import Crossover

from evoq_moo.costs import gene_tables
from evoq_moo.errors import ArgumentError, check_number
from evoq_moo.problems import PolicyProblem, problem_space
from evoq_moo.space import SearchSpace


class BitCrossover(Crossover):  # type: ignore[misc]
    """Base of crossovers of bit-width vectors."""

    def do(self, problem: PolicyProblem, pop: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the offspring of pairs of parents, as pymoo's :meth:`Crossover.do`, with int64 vectors.

        Raises:
            ArgumentError: The problem has no search space.
            BitWidthError: A parent holds a value that is not an allowed bit-width.
        """
        tables = gene_tables(problem_space(problem))
        offspring = super().do(problem, pop, *args, **kwargs)
        # checked here and not in _do, which pymoo skips where no pair is crossed
        offspring.set("X", tables.bits[tables.columns(offspring.get("X"))])
        return offspring


def check_pairs(X: npt.NDArray[Any], space: SearchSpace) -> None:
    """Raise unless `X` holds pairs of vectors of a space.

    Raises:
        ArgumentError: It is not of shape `(2, pairs, n_var)`.
    """
    if X.ndim != 3 or X.shape[0] != 2 or X.shape[2] != space.n_var:
        raise ArgumentError(f"X: given shape {X.shape}; allowed: (2, pairs, {space.n_var})")


class UniformBitCrossover(BitCrossover):
    """Uniform crossover of two parents in which a layer's weight and activation bit-widths stay together.

    EvoQ's crossover is not in its abstract. Our choice: uniform, since neighbouring genes of the vector have no more
    to do with each other than distant ones; by layer, since a layer's two bit-widths act on one product; and half of
    the pairs are only copied (and then mutated), which was a little better than `prob=0.9` on a toy problem.

    Args:
        prob: Probability that a pair of parents is crossed at all; otherwise the offspring are copies.
        prob_layer: Probability that a layer is exchanged, for each layer on its own.

    Raises:
        ArgumentError: A probability is not from 0 to 1.
    """

    def __init__(self, *, prob: float = 0.5, prob_layer: float = 0.5) -> None:
        super().__init__(2, 2, prob=check_number("prob", prob, 0, 1))
        self.prob_layer = check_number("prob_layer", prob_layer, 0, 1)

    def _do(
        self,
        problem: PolicyProblem,
        X: npt.NDArray[Any],
        *_args: Any,
        random_state: np.random.Generator,
        **_kwargs: Any,
    ) -> npt.NDArray[Any]:
        """Return the offspring of pairs of parents, all of them crossed.

        Args:
            problem: A problem with a search space.
            X: Parents `(2, pairs, n_var)`.
            random_state: Source of all randomness.

        Returns:
            Offspring `(2, pairs, n_var)` of the same dtype; values are copied exactly.

        Raises:
            ArgumentError: The problem has no search space, or `X` is not of its shape.
        """
        space = problem_space(problem)
        check_pairs(X, space)
        exchanged = random_state.random((X.shape[1], len(space.layers))) < self.prob_layer
        return np.where(exchanged[:, gene_tables(space).layer], X[::-1], X)
