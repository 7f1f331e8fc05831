"""Mutation shaped by each layer's quantization sensitivity: the operator EvoQ is about."""

from typing import Any

import numpy as np
import numpy.typing as npt
from pymoo.core.mutation import Mutation

from evoq_moo.costs import Cost, as_cost, gene_tables
from evoq_moo.errors import ArgumentError, check_number
from evoq_moo.problems import PolicyProblem, check_same_genes, traded_costs
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import IntArray

from ._moves import GuidedMoves, draw_moves
from ._pairs import exchange
from .adaptive import adapted_to_front, follow


class SensitivityGuidedMutation(Mutation):  # type: ignore[misc]
    """Move bits from where they matter little to where they matter much.

    Re-implemented from EvoQ's abstract ("each layer's quantization sensitivity shapes the mutation operator");
    unspecified choices are ours. Each individual makes one or more moves. Our choice: `1 + Poisson(moves - 1)` of
    them, all drawn independently from the distribution of the individual as it came (see :func:`move_probabilities`),
    a later one winning where two hit the same gene, so a mutated vector always differs from the one it came from.

    A move sets one gene to another of its choices. With probability `epsilon` any gene and any other choice are as
    likely. Otherwise it saves cost or widens a gene with equal probability, and is drawn among the moves that do with
    probability proportional to `merit ** (1 / temperature)`, the merit being cost saved per difference added where it
    saves and difference removed per cost added where it widens. A move's difference is the change of the gene's own
    entry in the table, its cost change is exact for the individual.

    A share `paired` of the individuals keeps its budget instead: their moves all widen, and then genes that did not
    move save, one move at a time and by merit, until the individual costs no more than before. Where that is not
    possible (nothing can be widened, or the others can't pay for it) the individual makes ordinary moves.

    In the adaptive mode the table is re-estimated in every generation from what the algorithm has evaluated, around
    the current front, by :func:`adapted_sensitivity`: single-layer sensitivities of the float network know nothing of
    interactions. The archive is kept with the algorithm (`algorithm.data`), so that a run depends on its seed alone.
    :class:`ParallelMOEAD` does not tell its operators which algorithm they work for: give it
    ``callback=mutation.follow``.

    Args:
        sensitivity: The sensitivity table, measured on the problem's own space.
        prob: Probability that an individual is mutated at all.
        moves: Mean number of moves of a mutated individual, 1 or more.
        temperature: Above 0. 1 draws in proportion to merit; near 0 the best move only; large values any move.
        epsilon: Probability that a move is uniformly random; above 0 every policy can be reached from every other
            (with `paired` below 1).
        max_step: Most choices that a guided move may go down or up at once; None for no limit.
        cost: A cost, or the name of one that needs no table. None: drawn for each individual among the costs of the
            problem's objectives and budgets, or among all that it knows where it names none.
        paired: Share of individuals whose moves keep their budget, 0 to 1.
        adaptive: Re-estimate the table as the search goes.

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
        cost: str | Cost | None = None,
        paired: float = 0.0,
        adaptive: bool = False,
    ) -> None:
        super().__init__(prob=check_number("prob", prob, 0, 1), vtype=np.int64)
        self.moves = check_number("moves", moves, 1, np.inf)
        self.cost = None if cost is None else as_cost(cost)
        self.paired = check_number("paired", paired, 0, 1)
        self.adaptive = bool(adaptive)
        self.guided = GuidedMoves(sensitivity, temperature=temperature, epsilon=epsilon, max_step=max_step)
        self._followed: dict[str, Any] | None = None

    def follow(self, algorithm: Any) -> None:
        """Take in what an algorithm has evaluated: a pymoo callback, for algorithms that hide from their operators."""
        self._followed = algorithm.data
        follow(algorithm)

    def _moves(self, problem: PolicyProblem, algorithm: Any) -> GuidedMoves:
        """Return the moves to draw from: the table's, or those of what the algorithm has seen since."""
        if not self.adaptive:
            return self.guided
        if algorithm is not None:
            follow(algorithm)
            data = algorithm.data
        elif self._followed is not None:
            data = self._followed
        else:
            raise ArgumentError(
                "adaptive: the algorithm does not tell its operators of itself; give it callback=mutation.follow"
            )
        guided = self.guided
        return GuidedMoves(
            adapted_to_front(guided.sensitivity, problem, data),
            temperature=guided.temperature,
            epsilon=guided.epsilon,
            max_step=guided.max_step,
        )

    def _do(
        self,
        problem: PolicyProblem,
        X: npt.ArrayLike,
        *_args: Any,
        random_state: np.random.Generator,
        algorithm: Any = None,
        **_kwargs: Any,
    ) -> IntArray:
        """Return mutated vectors.

        Args:
            problem: A problem with a search space of the table's genes.
            X: Vectors of allowed bit-widths `(n, n_var)`.
            random_state: Source of all randomness.
            algorithm: The algorithm that asks; only the adaptive mode needs it.

        Returns:
            Int64 `(n, n_var)`.

        Raises:
            ArgumentError: The problem has no search space or other genes than the table, or the adaptive mode has no
                algorithm to learn from.
            BitWidthError: A value is not an allowed bit-width.
        """
        space = self.guided.sensitivity.space
        check_same_genes(problem, space)
        tables = gene_tables(space)
        mutated = tables.bits[tables.columns(X)]
        moves = self._moves(problem, algorithm)
        costs = (self.cost,) if self.cost is not None else traded_costs(problem)
        drawn = random_state.integers(len(costs), size=len(mutated))
        counts = 1 + np.asarray(random_state.poisson(self.moves - 1, size=len(mutated)))
        u = random_state.random((len(mutated), int(counts.max(initial=0))))
        paired = random_state.random(len(mutated)) < self.paired if self.paired else np.zeros(len(mutated), dtype=bool)
        for k in np.unique(drawn):
            rows = np.flatnonzero(drawn == k)
            single = rows[~paired[rows]]
            if paired[rows].any():
                pairs = rows[paired[rows]]
                swapped, done = exchange(moves, mutated[pairs], counts[pairs], costs[k], random_state)
                mutated[pairs[done]] = swapped[done]
                single = np.sort(np.concatenate([single, pairs[~done]]))
            if not len(single):
                continue
            probabilities = moves.probabilities(mutated[single], cost=costs[k])
            for m in range(u.shape[1]):
                moving = counts[single] > m
                after = draw_moves(mutated[single[moving]], probabilities[moving], tables.bits, u[single[moving], m])
                mutated[single[moving]] = after
        return mutated
