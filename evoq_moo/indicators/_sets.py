"""Indicators of one set of points, by moocore."""

import moocore
import numpy as np
import numpy.typing as npt

from evoq_moo.errors import ArgumentError
from evoq_moo.indicators._check import check_archive, check_point, finite_rows
from evoq_moo.space import FloatArray


def hypervolume(F: npt.ArrayLike, *, reference: npt.ArrayLike) -> float:
    """Return the volume that a set dominates up to a reference point.

    Args:
        F: Objective values to be minimized, `(n, objectives)`; points that do not dominate the reference add nothing.
        reference: Reference point `(objectives,)`.

    Raises:
        ArgumentError: The arrays don't fit together.
    """
    corner = check_point("reference", reference)
    values = check_archive("F", F, objectives=len(corner))
    inside = finite_rows(values[(values < corner).all(axis=1)])
    return float(moocore.hypervolume(inside, ref=corner)) if len(inside) else 0.0


def normalized_hypervolume(F: npt.ArrayLike, *, ideal: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Return the share of the box between ideal and reference point that a set dominates.

    Args:
        F: Objective values to be minimized, `(n, objectives)`; points that do not dominate the reference add nothing.
        ideal: Lower corner of the box, `(objectives,)`.
        reference: Upper corner, `(objectives,)`.

    Returns:
        0..1 where no point lies below the ideal.

    Raises:
        ArgumentError: The arrays don't fit together, or the ideal is not below the reference.
    """
    scaled = scale_to_box(check_archive("F", F), ideal, reference)
    return hypervolume(scaled, reference=np.ones(scaled.shape[1]))


def scale_to_box(F: FloatArray, ideal: npt.ArrayLike, reference: npt.ArrayLike) -> FloatArray:
    """Return points with the ideal at 0 and the reference at 1.

    Raises:
        ArgumentError: The ideal is not below the reference, or the numbers of objectives differ.
    """
    low, high = check_point("ideal", ideal), check_point("reference", reference)
    if low.shape != high.shape or not (low < high).all() or F.shape[1] != len(low):
        raise ArgumentError(
            f"ideal: given {low.tolist()} with reference {high.tolist()} for points of {F.shape[1]} objectives; "
            "allowed: as many numbers each, the ideal below the reference"
        )
    return np.asarray((F - low) / (high - low))


def igd_plus(F: npt.ArrayLike, *, reference_set: npt.ArrayLike) -> float:
    """Return the modified inverted generational distance IGD+ (Ishibuchi et al. 2015); smaller is better.

    Args:
        F: Objective values to be minimized, `(n, objectives)`, on one scale (normalize them first).
        reference_set: Points that approximate the Pareto front, `(points, objectives)`.

    Returns:
        Mean over reference points of the distance to the nearest point, counting only where that is worse; infinity
        for a set without finite points.

    Raises:
        ArgumentError: The arrays don't fit together.
    """
    points, values = _with_reference_set(F, reference_set)
    return float(moocore.igd_plus(values, ref=points)) if len(values) else float("inf")


def additive_epsilon(F: npt.ArrayLike, *, reference_set: npt.ArrayLike) -> float:
    """Return the additive epsilon indicator (Zitzler et al. 2003); smaller is better.

    Args:
        F: Objective values to be minimized, `(n, objectives)`, on one scale (normalize them first).
        reference_set: Points that approximate the Pareto front, `(points, objectives)`.

    Returns:
        The smallest number that, taken from all objective values of the set, makes it weakly dominate every
        reference point; infinity for a set without finite points.

    Raises:
        ArgumentError: The arrays don't fit together.
    """
    points, values = _with_reference_set(F, reference_set)
    return float(moocore.epsilon_additive(values, ref=points)) if len(values) else float("inf")


def _with_reference_set(F: npt.ArrayLike, reference_set: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    points = check_reference_set(reference_set)
    return points, finite_rows(check_archive("F", F, objectives=points.shape[1]))


def check_reference_set(reference_set: npt.ArrayLike) -> FloatArray:
    """Return a reference set as float64 `(points, objectives)`.

    Raises:
        ArgumentError: It is empty or not finite.
    """
    points = check_archive("reference_set", reference_set)
    if points.size == 0 or not np.isfinite(points).all():
        raise ArgumentError("reference_set: is empty or holds NaN or infinity; allowed: finite points")
    return points


def nondominated(F: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return which points no other dominates, bool `(n,)`; of equal points the first, and of infinite ones none.

    Args:
        F: Objective values to be minimized, `(n, objectives)`.

    Raises:
        ArgumentError: Not an array of such a shape.
    """
    values = check_archive("F", F)
    rows = np.flatnonzero(np.isfinite(values).all(axis=1))
    kept = np.zeros(len(values), dtype=bool)
    if len(rows):
        kept[rows[moocore.is_nondominated(values[rows], keep_weakly=False)]] = True
    return kept
