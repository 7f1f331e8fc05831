"""Crossover that keeps offspring on the stretch of the front between their parents."""

from typing import Any

import numpy as np
import numpy.typing as npt

from evoq_moo.costs import Cost, as_cost, gene_tables
from evoq_moo.errors import check_number
from evoq_moo.problems import PolicyProblem, problem_space, traded_costs
from evoq_moo.space import IntArray

from .crossover import BitCrossover, check_pairs


class FrontAwareCrossover(BitCrossover):
    """Exchange whole layers so that a child costs something between its parents, or shares their first layers.

    EvoQ's crossover is not in its abstract; ours has two ways, drawn for each pair:

    - *between*: a cost is drawn uniformly between the parents' two. Each child starts as one parent and takes the
      other's layers, in random order, each one if it brings the child's cost nearer to what was drawn. Uniform
      crossover of distant parents mostly makes children between the front and the middle of the space instead.
    - *tail*: one cut through the layers in execution order. Each child has the first layers of one parent and the
      last of the other. All roundings up to the cut stay as they were, which is where near-lossless policies have
      their luck from.

    Args:
        prob: Probability that a pair of parents is crossed at all; otherwise the offspring are copies.
        tail: Probability of the second way.
        cost: A cost, or the name of one that needs no table. None: drawn for each pair among the costs of the problem's
            objectives and budgets, or among all that it knows where it names none.

    Raises:
        ArgumentError: An argument is not of its allowed values.
    """

    def __init__(self, *, prob: float = 0.5, tail: float = 0.5, cost: str | Cost | None = None) -> None:
        super().__init__(2, 2, prob=check_number("prob", prob, 0, 1))
        self.tail = check_number("tail", tail, 0, 1)
        self.cost = None if cost is None else as_cost(cost)

    def _do(
        self,
        problem: PolicyProblem,
        X: npt.NDArray[Any],
        *_args: Any,
        random_state: np.random.Generator,
        **_kwargs: Any,
    ) -> IntArray:
        """Return the offspring of pairs of parents, all of them crossed.

        Args:
            problem: A problem with a search space.
            X: Parents `(2, pairs, n_var)`.
            random_state: Source of all randomness.

        Returns:
            Offspring int64 `(2, pairs, n_var)`.

        Raises:
            ArgumentError: The problem has no search space, or `X` is not of its shape.
            BitWidthError: A parent holds a value that is not an allowed bit-width.
        """
        space = problem_space(problem)
        check_pairs(X, space)
        tables = gene_tables(space)
        parents = np.stack([tables.bits[tables.columns(x)] for x in X])
        pairs, layers = int(X.shape[1]), len(space.layers)
        costs = (self.cost,) if self.cost is not None else traded_costs(problem)
        drawn = random_state.integers(len(costs), size=(pairs,))
        tails = random_state.random(size=(pairs,)) < self.tail
        cuts = random_state.integers(1, max(layers, 2), size=(pairs,))
        targets = np.asarray(random_state.random(size=(pairs,)))
        orders: IntArray = random_state.permuted(np.tile(np.arange(layers), (2, pairs, 1)), axis=2)
        exchanged = np.zeros((2, pairs, layers), dtype=bool)
        exchanged[:, tails] = np.arange(layers) >= cuts[tails, None]
        bits = np.stack([space.decode(x) for x in parents])
        for i in np.flatnonzero(~tails):
            change = np.diff(costs[drawn[i]].by_layer(space.layers, bits[:, i]), axis=0)[0]
            exchanged[0, i] = _towards(targets[i] * change.sum(), change, orders[0, i])
            exchanged[1, i] = _towards((targets[i] - 1) * change.sum(), -change, orders[1, i])
        return np.asarray(np.where(exchanged[..., tables.layer], parents[::-1], parents))


def _towards(target: float, change: IntArray, order: IntArray) -> npt.NDArray[np.bool_]:
    """Return which layers to exchange, in an order, so that the sum of their changes nears a target."""
    taken = np.zeros(len(change), dtype=bool)
    total = 0.0
    for layer in order:
        if abs(total + change[layer] - target) < abs(total - target):
            total += change[layer]
            taken[layer] = True
    return taken
