"""Probabilities of single-gene moves, from the sensitivity table and what a move changes in a cost.

EvoQ's abstract says that each layer's quantization sensitivity shapes the mutation, and no more. Everything in this
file is our choice.
"""

import numpy as np
import numpy.typing as npt

from evoq_moo.costs import BoolArray, Cost, as_cost, gene_tables
from evoq_moo.errors import ArgumentError, check_number
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
    a uniformly random other choice. Otherwise it saves or widens with equal probability, and is drawn among the moves
    that do with probability proportional to `merit ** (1 / temperature)`:

    - saving: cost saved per difference added;
    - widening: difference removed per cost added.

    For a cost that grows with the bit-width, to save is to narrow. Where no move saves, one that widens is taken, the
    other way round too, and where there is neither, any move.

    Args:
        sensitivity: The sensitivity table; it predicts a move's difference by the change of the gene's own entry.
        temperature: 1 draws in proportion to merit; near 0 the best move only; large values any move of a direction.
        epsilon: Probability of a uniformly random move; above 0 every policy can be reached from every other.
        max_step: Most choices that a guided move may go down or up at once, or as many as the nearest choice of the
            gene that saves is away; None for no limit.

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
        self._moves: BoolArray = both & (steps != 0)
        self._steps: IntArray = np.abs(steps)
        near = np.inf if max_step is None else max_step
        self._widens: BoolArray = self._moves & (steps > 0) & (steps <= near)
        self._near = near
        uniform = self._moves / (tables.counts - 1)[:, None, None] / len(tables.counts)
        self._uniform: FloatArray = uniform

        values = sensitivity.values[:, np.searchsorted(sensitivity.bits, tables.bits)]
        values = np.where(tables.allowed, values, 0.0)
        size = np.abs(values)
        smallest = size[size > 0].min(initial=np.inf)
        added = values[:, None, :] - values[:, :, None]
        floor = DIFFERENCE_FLOOR * np.maximum(size[:, None, :], size[:, :, None])
        floor = np.maximum(floor, DIFFERENCE_FLOOR * smallest if np.isfinite(smallest) else 1.0)
        self._log_added: FloatArray = np.log(np.maximum(added, floor))
        self._log_removed: FloatArray = np.log(np.maximum(-added, floor))

    def probabilities(self, X: npt.ArrayLike, *, cost: Cost) -> FloatArray:
        """Return the probability of every move of every policy.

        Args:
            X: Vectors of allowed bit-widths `(n, n_var)`.
            cost: The cost.

        Returns:
            Float64 `(n, n_var, c)`, summing to 1 over the last two axes: the probability that the move sets gene `j`
            to the `k`-th of the bit-widths that some gene allows, ascending.

        Raises:
            BitWidthError: A value is not an allowed bit-width.
        """
        tables = gene_tables(self.sensitivity.space)
        columns = tables.columns(X)
        n, n_var = columns.shape
        (saving_logits, saving), (widening_logits, widening) = self._ways(columns, cost)
        saving_share, can_save = _softmax(saving_logits, saving)
        widening_share, can_widen = _softmax(widening_logits, widening)
        uniform = self._uniform[np.arange(n_var), columns].reshape(saving.shape)
        ways = can_save + can_widen
        guided = (saving_share + widening_share) / np.maximum(ways, 1.0)
        share = np.where(ways > 0, 1 - self.epsilon, 0.0)
        return np.asarray(share * guided + (1 - share) * uniform).reshape(n, n_var, -1)

    def one_way(self, X: IntArray, *, cost: Cost, widen: bool, genes: BoolArray) -> FloatArray:
        """Return the probability of every move that widens, or of every move that saves.

        With probability `epsilon` any of them is as likely, else they are drawn by merit.

        Args:
            X: Vectors of allowed bit-widths `(n, n_var)`.
            cost: The cost.
            widen: Widen, or save.
            genes: The genes that may move, bool `(n, n_var)`.

        Returns:
            Float64 `(n, n_var, c)`, summing to 1 over the last two axes, or to 0 where there is no such move.
        """
        tables = gene_tables(self.sensitivity.space)
        columns = tables.columns(X)
        logits, allowed = self._ways(columns, cost)[int(widen)]
        allowed = allowed & np.repeat(genes, len(tables.bits), axis=1)
        share = _softmax(logits, allowed)[0]
        uniform = allowed / np.maximum(allowed.sum(axis=1, keepdims=True), 1)
        return np.asarray((1 - self.epsilon) * share + self.epsilon * uniform).reshape(*columns.shape, -1)

    def _ways(self, columns: IntArray, cost: Cost) -> tuple[tuple[FloatArray, BoolArray], tuple[FloatArray, BoolArray]]:
        """Return log merit over temperature of saving and of widening, and which moves do so, `(n, n_var * c)` each."""
        tables = gene_tables(self.sensitivity.space)
        n, n_var = columns.shape
        shape = (n, n_var * len(tables.bits))  # both axes of moves as one
        genes = np.arange(n_var)
        change = cost.change(tables, tables.bits[columns]) / cost.scale
        steps = self._steps[genes, columns]
        saving = self._moves[genes, columns] & (change < 0)
        nearest = np.where(saving, steps, np.inf).min(axis=2, keepdims=True)
        saving = (saving & (steps <= np.maximum(nearest, self._near))).reshape(shape)
        widening = self._widens[genes, columns].reshape(shape)
        change = change.reshape(shape)

        dearer = widening & (change > 0)
        mean = (change * dearer).sum(axis=1) / np.maximum(dearer.sum(axis=1), 1)
        floor = np.where(mean > 0, COST_FLOOR * mean, 1.0)[:, None]
        log_saved = np.log(np.where(saving, -change, 1.0))
        log_paid = np.log(np.maximum(change, floor))
        return (
            ((log_saved - self._log_added[genes, columns].reshape(shape)) / self.temperature, saving),
            ((self._log_removed[genes, columns].reshape(shape) - log_paid) / self.temperature, widening),
        )


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
    cost: str | Cost,
    temperature: float = 1.0,
    epsilon: float = 0.1,
    max_step: int | None = 1,
) -> FloatArray:
    """Return the exact distribution from which the guided mutation draws each of its moves.

    Args:
        sensitivity: The sensitivity table.
        X: Vectors of allowed bit-widths `(n, n_var)`.
        cost: A cost, or the name of one that needs no table.
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
    moves = GuidedMoves(sensitivity, temperature=temperature, epsilon=epsilon, max_step=max_step)
    return moves.probabilities(X, cost=as_cost(cost))
