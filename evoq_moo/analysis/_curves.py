"""Indicators of the unbounded archive after every evaluation.

Each curve takes one pass over the archive, not one indicator a row, and agrees with the indicator of every prefix to
rounding.
"""

from bisect import bisect_left

import moocore
import numpy as np
import numpy.typing as npt

from evoq_moo.indicators import check_archive, check_point, check_reference_set, scale_to_box
from evoq_moo.space import FloatArray

_BLOCK = 4_000_000
"""Distances held at once (32 MB)."""


def hypervolume_curve(archive: npt.ArrayLike, *, ideal: npt.ArrayLike, reference: npt.ArrayLike) -> FloatArray:
    """Return the normalized hypervolume of the first 1, 2, ... evaluations, float64 `(evaluations,)`.

    Args:
        archive: Objective values `(evaluations, objectives)`, in the order of evaluation.
        ideal: Lower corner of the box, `(objectives,)`.
        reference: Upper corner, `(objectives,)`.

    Raises:
        ArgumentError: The arrays don't fit together.
    """
    scaled = scale_to_box(check_archive("archive", archive), ideal, reference)
    corner = check_point("reference", np.ones(scaled.shape[1]))
    inside = np.isfinite(scaled).all(axis=1) & (scaled < corner).all(axis=1)
    gains = np.zeros(len(scaled))
    rows = np.flatnonzero(inside)
    gains[rows] = _gains_2d(scaled[rows]) if scaled.shape[1] == 2 else _gains(scaled[rows])
    return np.cumsum(gains)


def _gains_2d(points: FloatArray) -> FloatArray:
    """Return what each point adds to the hypervolume of those before it, up to (1, 1); float64 `(n,)`."""
    gains = np.zeros(len(points))
    xs: list[float] = []  # the front so far, x ascending and y descending
    ys: list[float] = []
    for i, (x, y) in enumerate(points.tolist()):
        at = bisect_left(xs, x)
        before = ys[at - 1] if at > 0 else 1.0
        if before <= y or (at < len(xs) and xs[at] == x and ys[at] <= y):
            continue
        gain, left, height, end = 0.0, x, before, at
        while end < len(xs) and ys[end] >= y:
            gain += (xs[end] - left) * (height - y)
            left, height = xs[end], ys[end]
            end += 1
        right = xs[end] if end < len(xs) else 1.0
        gains[i] = gain + (right - left) * (height - y)
        xs[at:end], ys[at:end] = [x], [y]
    return gains


def _gains(points: FloatArray) -> FloatArray:
    """Return what each point adds to the hypervolume of those before it, up to all ones; float64 `(n,)`.

    A new point's own box less what the others dominate of it: the hypervolume of the others' corners within the box.
    """
    gains = np.zeros(len(points))
    front = np.empty((0, points.shape[1]))
    ones = np.ones(points.shape[1])
    for i, point in enumerate(points):
        if (front <= point).all(axis=1).any():
            continue
        gain = float(np.prod(1 - point))
        if len(front):
            gain -= float(moocore.hypervolume(np.maximum(front, point), ref=ones))
        gains[i] = max(gain, 0.0)
        front = np.vstack([front[~(point <= front).all(axis=1)], point])
    return gains


def igd_plus_curve(archive: npt.ArrayLike, *, reference_set: npt.ArrayLike) -> FloatArray:
    """Return IGD+ of the first 1, 2, ... evaluations, float64 `(evaluations,)`; infinity before a finite point.

    Args:
        archive: Objective values `(evaluations, objectives)`, in the order of evaluation, on one scale.
        reference_set: Points that approximate the Pareto front, `(points, objectives)`.

    Raises:
        ArgumentError: The arrays don't fit together.
    """
    return np.asarray(_running(archive, reference_set, euclidean=True).mean(axis=1))


def additive_epsilon_curve(archive: npt.ArrayLike, *, reference_set: npt.ArrayLike) -> FloatArray:
    """Return the additive epsilon of the first 1, 2, ... evaluations, float64 `(evaluations,)`.

    Args:
        archive: Objective values `(evaluations, objectives)`, in the order of evaluation, on one scale.
        reference_set: Points that approximate the Pareto front, `(points, objectives)`.

    Raises:
        ArgumentError: The arrays don't fit together.
    """
    return np.asarray(_running(archive, reference_set, euclidean=False).max(axis=1))


def _running(archive: npt.ArrayLike, reference_set: npt.ArrayLike, *, euclidean: bool) -> FloatArray:
    """Return the smallest distance so far to each reference point, float64 `(evaluations, points)`.

    Args:
        archive: Objective values.
        reference_set: Reference points.
        euclidean: The distance is the length of what is worse (IGD+), else the largest difference (epsilon).
    """
    points = check_reference_set(reference_set)
    values = check_archive("archive", archive, objectives=points.shape[1])
    values = np.where(np.isfinite(values).all(axis=1, keepdims=True), values, np.inf)
    smallest = np.empty((len(values), len(points)))
    step = max(1, _BLOCK // points.size)
    for start in range(0, len(values), step):
        worse = values[start : start + step, None, :] - points
        block = np.sqrt(np.square(np.maximum(worse, 0)).sum(axis=2)) if euclidean else worse.max(axis=2)
        smallest[start : start + step] = block
    return np.asarray(np.minimum.accumulate(smallest, axis=0))
