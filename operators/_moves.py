"""Probabilities of single-gene moves, from the sensitivity table and what a move changes in a cost.

EvoQ's abstract says that each layer's quantization sensitivity shapes the mutation, and no more. Everything in this
file is our choice.
"""

import numpy as np
import numpy.typing as npt

from evoq_moo._genes import BoolArray, gene_tables
from evoq_moo.cost import COSTS
from evoq_moo.errors import ArgumentError, check_name, check_number
from evoq_moo.sensitivity import SensitivityTable, check_sensitivity
from evoq_moo.space import FloatArray, IntArray

DIFFERENCE_FLOOR = 0.05
"""Our choice: a move's difference counts as at least this share of the larger of the gene's two differences, so that
noise and non-monotone entries of the table give neither infinite nor negative merits."""

COST_FLOOR = 0.1
"""Our choice: a widening counts as costing at least this share of the mean cost of all widenings that do cost, so that
free ones (activations when the cost is the size) are preferred without being the only ones."""


class GuidedMoves:
    """Probabilities of all single-gene moves of policies, for one sensitivity table.

    A move sets one gene to another of its choices. With probability `epsilon` it is any move: a uniformly random gene,
    a uniformly random other choice. Otherwise it goes down (narrower) or up (wider) with equal probability, and is
    drawn among the moves of that direction with probability proportional to `merit ** (1 / temperature)`:

    - down: cost saved per difference added; moves that save nothing are left to `epsilon`;
    - up: difference removed per cost added.

    Where one direction has no move the other is taken, and where neither has one, any move.

    Args:
        sensitivity: The sensitivity table; it predicts a move's difference by the change of the gene's own entry.
        temperature: 1 draws in proportion to merit; near 0 the best move only; large values any move of a direction.
        epsilon: Probability of a uniformly random move; above 0 every policy can be reached from every other.
        max_step: Most choices that a guided move may go down or up at once; None for no limit.

    Raises:
        ArgumentError: An argument is not of its allowed values.
    """

    def __init__(
        self, sensitivity: SensitivityTable, *, temperature: float, epsilon: float, max_step: int | None
    ) -> None:
        self.sensitivity = check_sensitivity(sensitivity)
        self.temperature = check_number("temperature", temperature, 0, np.inf, open_low=True)
        self.epsilon = check_number("epsilon", epsilon, 0, 1)
        self.max_step = max_step
        if max_step is not None and (not isinstance(max_step, int) or isinstance(max_step, bool) or max_step < 1):
            raise ArgumentError(f"max_step: given {max_step!r}; allowed: None or an integer from 1")
        tables = gene_tables(sensitivity.space)
        both = tables.allowed[:, :, None] & tables.allowed[:, None, :]  # (n_var, from, to)
        steps = tables.rank[:, None, :] - tables.rank[:, :, None]
        near = both & (np.abs(steps) <= (np.inf if max_step is None else max_step))
        self._direction = (np.sign(steps) * near).astype(np.int8)  # -1 down, 1 up, 0 no guided move
        uniform = (both & (steps != 0)) / (tables.counts - 1)[:, None, None] / len(tables.counts)
        self._uniform: FloatArray = uniform

        values = sensitivity.values[:, np.searchsorted(sensitivity.bits, tables.bits)]
        values = np.where(tables.allowed, values, 0.0)
        size = np.abs(values)
        smallest = size[size > 0].min(initial=np.inf)
        added = np.where(steps < 0, 1, -1) * (values[:, None, :] - values[:, :, None])
        floor = DIFFERENCE_FLOOR * np.maximum(size[:, None, :], size[:, :, None])
        least = DIFFERENCE_FLOOR * smallest if np.isfinite(smallest) else 1.0
        self._log_difference: FloatArray = np.log(np.maximum(np.maximum(added, floor), least))

    def probabilities(self, X: npt.ArrayLike, *, cost: str) -> FloatArray:
        """Return the probability of every move of every policy.

        Args:
            X: Vectors of allowed bit-widths `(n, n_var)`.
            cost: ``"size_mib"`` or ``"gbops"``.

        Returns:
            Float64 `(n, n_var, c)`, summing to 1 over the last two axes: the probability that the move sets gene `j`
            to the `k`-th of the bit-widths that some gene allows, ascending.

        Raises:
            BitWidthError: A value is not an allowed bit-width.
        """
        tables = gene_tables(self.sensitivity.space)
        columns = tables.columns(X)
        n, n_var = columns.shape
        logits, down, up = self._logits(columns, cost)
        down_share, can_lower = _softmax(logits, down)
        up_share, can_raise = _softmax(logits, up)
        uniform = self._uniform[np.arange(n_var), columns].reshape(logits.shape)
        directions = can_lower + can_raise
        guided = (down_share + up_share) / np.maximum(directions, 1.0)
        share = np.where(directions > 0, 1 - self.epsilon, 0.0)
        return np.asarray(share * guided + (1 - share) * uniform).reshape(n, n_var, -1)

    def one_way(self, X: IntArray, *, cost: str, up: bool, genes: BoolArray) -> FloatArray:
        """Return the probability of every move in one direction.

        With probability `epsilon` any move of the direction is as likely, else they are drawn by merit.

        Args:
            X: Vectors of allowed bit-widths `(n, n_var)`.
            cost: ``"size_mib"`` or ``"gbops"``; downwards only moves that save some count.
            up: Wider, or narrower.
            genes: The genes that may move, bool `(n, n_var)`.

        Returns:
            Float64 `(n, n_var, c)`, summing to 1 over the last two axes, or to 0 where there is no such move.
        """
        tables = gene_tables(self.sensitivity.space)
        columns = tables.columns(X)
        logits, *ways = self._logits(columns, cost)
        allowed = ways[int(up)] & np.repeat(genes, len(tables.bits), axis=1)
        share = _softmax(logits, allowed)[0]
        uniform = allowed / np.maximum(allowed.sum(axis=1, keepdims=True), 1)
        return np.asarray((1 - self.epsilon) * share + self.epsilon * uniform).reshape(*columns.shape, -1)

    def _logits(self, columns: IntArray, cost: str) -> tuple[FloatArray, BoolArray, BoolArray]:
        """Return log merit over temperature of every move, and which go down and up, each `(n, n_var * c)`."""
        tables = gene_tables(self.sensitivity.space)
        n, n_var = columns.shape
        shape = (n, n_var * len(tables.bits))  # both axes of moves as one
        genes = np.arange(n_var)
        change = np.abs(tables.cost_changes(tables.bits[columns], cost)).reshape(shape)
        log_difference = self._log_difference[genes, columns].reshape(shape)
        direction = self._direction[genes, columns].reshape(shape)

        costing = change > 0
        down, up = (direction < 0) & costing, direction > 0
        widenings = up & costing
        mean = (change * widenings).sum(axis=1) / np.maximum(widenings.sum(axis=1), 1)
        floor = np.where(mean > 0, COST_FLOOR * mean, 1.0)[:, None]
        log_cost = np.log(np.where(down, change, np.maximum(change, floor)))
        return direction * (log_difference - log_cost) / self.temperature, down, up


def _softmax(logits: FloatArray, mask: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Return the softmax over the moves of a mask (zeros where it is empty) and 1.0 where it isn't empty.

    Args:
        logits: Float64 `(n, moves)`.
        mask: Bool of the same shape.

    Returns:
        Probabilities of that shape, and float64 `(n, 1)`.
    """
    weights = np.where(mask, logits, -np.inf)
    peak = weights.max(axis=1, keepdims=True)
    some = np.isfinite(peak)
    weights -= np.where(some, peak, 0.0)
    np.exp(weights, out=weights)
    weights /= np.where(some, weights.sum(axis=1, keepdims=True), 1.0)
    return weights, some.astype(np.float64)


def draw_moves(X: IntArray, probabilities: FloatArray, bits: IntArray, u: FloatArray) -> IntArray:
    """Return vectors after one move each, int64 `(n, n_var)`.

    Args:
        X: Vectors `(n, n_var)`.
        probabilities: Of their moves `(n, n_var, c)`, some above 0 for every vector.
        bits: Bit-widths of the last axis, int64 `(c,)`.
        u: Uniform random numbers from 0 to 1, `(n,)`.
    """
    cumulative = np.cumsum(probabilities.reshape(len(X), X.shape[1] * len(bits)), axis=1)
    total = cumulative[:, -1:]  # 1 but for rounding
    target = np.minimum(u[:, None] * total, np.nextafter(total, 0.0))
    gene, column = np.divmod((cumulative <= target).sum(axis=1), len(bits))
    moved = X.copy()
    moved[np.arange(len(X)), gene] = bits[column]
    return moved


def move_probabilities(
    sensitivity: SensitivityTable,
    X: npt.ArrayLike,
    *,
    cost: str,
    temperature: float = 1.0,
    epsilon: float = 0.1,
    max_step: int | None = 1,
) -> FloatArray:
    """Return the exact distribution from which the guided mutation draws each of its moves.

    Args:
        sensitivity: The sensitivity table.
        X: Vectors of allowed bit-widths `(n, n_var)`.
        cost: ``"size_mib"`` or ``"gbops"``.
        temperature: See :class:`SensitivityGuidedMutation`.
        epsilon: See :class:`SensitivityGuidedMutation`.
        max_step: See :class:`SensitivityGuidedMutation`.

    Returns:
        Float64 `(n, n_var, c)`, summing to 1 over the last two axes: the probability that a move sets gene `j` to
        the `k`-th of the bit-widths that some gene of the space allows, ascending.

    Raises:
        ArgumentError: An argument is not of its allowed values.
        BitWidthError: A value of `X` is not an allowed bit-width.
    """
    check_name("cost", cost, COSTS)
    moves = GuidedMoves(sensitivity, temperature=temperature, epsilon=epsilon, max_step=max_step)
    return moves.probabilities(X, cost=cost)
