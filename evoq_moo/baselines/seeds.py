"""Picking points of an additive front, as policies to evaluate or to start a search from."""

from typing import Literal, get_args

import numpy as np

from evoq_moo.baselines.additive import AdditiveFront
from evoq_moo.errors import check_count, check_name
from evoq_moo.indicators import log_difference
from evoq_moo.space import FloatArray, IntArray

Spacing = Literal["curve", "cost", "difference"]


def spread_rows(front: AdditiveFront, n: int, *, by: Spacing = "curve") -> IntArray:
    """Return the rows of `n` different points of a front, evenly spread, its ends among them; increasing int64.

    Args:
        front: The front.
        n: Number of points; 1 gives the middle one. A front with fewer gives all its points.
        by: ``"cost"``, ``"difference"`` (on a log10 scale where no point's is negative, as in
            :meth:`ParetoFront.scaled`), or ``"curve"``: along the curve of both, each scaled to 0..1.

    Raises:
        ArgumentError: `n` is not a positive integer.
        UnknownNameError: `by` is unknown.
    """
    check_count("n", n)
    check_name("by", by, get_args(Spacing))
    if n >= len(front):
        return np.arange(len(front), dtype=np.int64)
    place = _places(front, by)
    targets = np.linspace(place[0], place[-1], n) if n > 1 else np.array([(place[0] + place[-1]) / 2])
    after = np.clip(np.searchsorted(place, targets), 1, len(front) - 1)
    rows = after - (targets - place[after - 1] <= place[after] - targets)
    # Where points are sparse a row may be nearest to several targets: the next free ones are taken.
    step = np.arange(n)
    rows = np.maximum.accumulate(rows - step) + step
    return np.asarray(np.minimum(rows, len(front) - n + step), dtype=np.int64)


def spread(front: AdditiveFront, n: int, *, by: Spacing = "curve") -> IntArray:
    """Return the vectors of `n` different points of a front, evenly spread, int64 `(n, n_var)`.

    A pymoo algorithm takes them as its `sampling`.

    Args:
        front: The front.
        n: Number of points; a front with fewer gives all its points.
        by: As :func:`spread_rows` takes it.

    Raises:
        ArgumentError: `n` is not a positive integer.
        UnknownNameError: `by` is unknown.
    """
    return front.vectors(spread_rows(front, n, by=by))


def _places(front: AdditiveFront, by: Spacing) -> FloatArray:
    """Return how far along the front each point is, non-decreasing float64 `(points,)`."""
    differences = log_difference(front.differences)
    cost = _scaled(front.costs)
    fall = 1 - _scaled(differences)
    if by == "curve":
        return np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(cost), np.diff(fall)))])
    return cost if by == "cost" else fall


def _scaled(values: FloatArray) -> FloatArray:
    spread_ = float(values.max() - values.min())
    return np.asarray((values - values.min()) / spread_ if spread_ > 0 else np.zeros(len(values)))
