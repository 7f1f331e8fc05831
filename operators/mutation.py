"""Mutation shaped by each layer's quantization sensitivity: the operator EvoQ is about."""

from typing import Any

import numpy as np
import numpy.typing as npt
from pymoo.core.mutation import Mutation

from evoq_moo._genes import check_same_genes, costs_of, gene_tables
from evoq_moo.cost import check_cost
from evoq_moo.errors import check_number
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import IntArray

from ._moves import GuidedMoves


class SensitivityGuidedMutation(Mutation):  # type: ignore[misc]
    """Move bits from where they matter little to where they matter much.

    Re-implemented from EvoQ's abstract ("each layer's quantization sensitivity shapes the mutation operator");
    unspecified choices are ours. Each individual makes one or more moves. Our choice: `1 + Poisson(moves - 1)` of
    them, all drawn independently from the distribution of the individual as it came (see :func:`move_probabilities`),
    a later one winning where two hit the same gene, so a mutated vector always differs from the one it came from.

    A move sets one gene to another of its choices. With probability `epsilon` any gene and any other choice are as
    likely. Otherwise it goes down (narrower) or up (wider) with equal probability, and is drawn among the moves of that
    direction with probability proportional to `merit ** (1 / temperature)`, the merit being cost saved per difference
    added on the way down and difference removed per cost added on the way up. A move's difference is the change of the
    gene's own entry in the table, its cost change is exact for the individual.

    Args:
        sensitivity: The sensitivity table, measured on the problem's own space.
        prob: Probability that an individual is mutated at all.
        moves: Mean number of moves of a mutated individual, 1 or more.
        temperature: Above 0. 1 draws in proportion to merit; near 0 the best move only; large values any move.
        epsilon: Probability that a move is uniformly random; above 0 every policy can be reached from every other.
        max_step: Most choices that a guided move may go down or up at once; None for no limit.
        cost: ``"size_mib"`` or ``"gbops"``. None: the one among the problem's objectives and budgets; where both are
            or neither is, drawn for each individual.

    Raises:
        ArgumentError: An argument is not of its allowed values.
    """

    def __init__(
        self,
        sensitivity: SensitivityTable,
        *,
        prob: float = 1.0,
        moves: float = 2.0,
        temperature: float = 1.0,
        epsilon: float = 0.1,
        max_step: int | None = 1,
        cost: str | None = None,
    ) -> None:
        super().__init__(prob=check_number("prob", prob, 0, 1), vtype=np.int64)
        self.moves = check_number("moves", moves, 1, np.inf)
        check_cost(cost)
        self.cost = cost
        self.guided = GuidedMoves(sensitivity, temperature=temperature, epsilon=epsilon, max_step=max_step)

    def _do(
        self, problem: Any, X: npt.ArrayLike, *_args: Any, random_state: np.random.Generator, **_kwargs: Any
    ) -> IntArray:
        """Return mutated vectors.

        Args:
            problem: A problem with a search space of the table's genes.
            X: Vectors of allowed bit-widths `(n, n_var)`.
            random_state: Source of all randomness.

        Returns:
            Int64 `(n, n_var)`.

        Raises:
            ArgumentError: The problem has no search space or other genes than the table.
            BitWidthError: A value is not an allowed bit-width.
        """
        space = self.guided.sensitivity.space
        check_same_genes(problem, space)
        tables = gene_tables(space)
        mutated = tables.bits[tables.columns(X)]
        n, n_var = mutated.shape
        costs = (self.cost,) if self.cost is not None else costs_of(problem)
        drawn = random_state.integers(len(costs), size=n)
        counts = 1 + np.asarray(random_state.poisson(self.moves - 1, size=n))
        u = random_state.random((n, int(counts.max(initial=0))))

        cumulative = np.empty((n, n_var * len(tables.bits)))
        for k in np.unique(drawn):
            rows = drawn == k
            probabilities = self.guided.probabilities(mutated[rows], cost=costs[k])
            cumulative[rows] = np.cumsum(probabilities.reshape(-1, cumulative.shape[1]), axis=1)
        total = cumulative[:, -1:]  # 1 but for rounding
        target = np.minimum(u * total, np.nextafter(total, 0.0))
        for m in range(u.shape[1]):
            moving = np.flatnonzero(counts > m)
            gene, column = np.divmod((cumulative[moving] <= target[moving, m, None]).sum(axis=1), len(tables.bits))
            mutated[moving, gene] = tables.bits[column]
        return mutated
