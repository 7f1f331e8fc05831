"""Empirical attainment: what share of runs reaches each point of the objective space, by moocore."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import moocore
import numpy as np
import numpy.typing as npt

from evoq_moo.errors import ArgumentError
from evoq_moo.indicators import check_runs, nondominated
from evoq_moo.space import FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class AttainmentSurface:
    """The boundary of what a share of the runs attains.

    Attributes:
        percentile: Share of the runs (percent); 50 is the median surface.
        points: Nondominated points of the surface, float64 `(points, objectives)`, by the first objective.
    """

    percentile: float
    points: FloatArray = field(repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class AttainmentDifference:
    """Where the runs of one side attain more often than the other's.

    Attributes:
        rectangles: Float64 `(n, 4)`: lower corner (two objectives), upper corner; infinite where unbounded. `n` is 0
            where both sides attain the same everywhere.
        values: Float64 `(n,)`: share of left runs less share of right runs that attain the rectangle, -1..1.
    """

    rectangles: FloatArray = field(repr=False)
    values: FloatArray = field(repr=False)


def attainment_surfaces(
    runs: Sequence[npt.ArrayLike], *, percentiles: Sequence[float] = (25, 50, 75)
) -> tuple[AttainmentSurface, ...]:
    """Return attainment surfaces of repeated runs (Grunert da Fonseca et al. 2001).

    Args:
        runs: Archives `(evaluations, objectives)`, of two or three objectives.
        percentiles: Shares of the runs (percent), above 0 and at most 100.

    Returns:
        One surface for each percentile.

    Raises:
        ArgumentError: An argument is not of its allowed values.
    """
    wrong = [p for p in percentiles if not 0 < p <= 100]
    if wrong or not len(percentiles):
        raise ArgumentError(f"percentiles: given {list(percentiles)}; allowed: above 0 and at most 100")
    points, sets = _stacked("runs", runs, (2, 3))
    surfaces = moocore.eaf(points, sets, percentiles=[float(p) for p in percentiles])
    found = []
    for percentile in percentiles:
        surface = surfaces[np.isclose(surfaces[:, -1], percentile), :-1]
        found.append(AttainmentSurface(percentile=float(percentile), points=surface[np.lexsort(surface.T[::-1])]))
    return tuple(found)


def attainment_difference(left: Sequence[npt.ArrayLike], right: Sequence[npt.ArrayLike]) -> AttainmentDifference:
    """Return the difference of two sides' attainment (Lopez-Ibanez et al. 2010), two objectives.

    Args:
        left: Archives of the first side's runs.
        right: Archives of the second side's, as many.

    Raises:
        ArgumentError: An argument is not of its allowed values.
    """
    if len(left) != len(right):
        raise ArgumentError(f"right: given {len(right)} runs; allowed: as many as left, {len(left)}")
    sides = [np.column_stack(_stacked(name, runs, (2,))) for name, runs in (("left", left), ("right", right))]
    if not moocore.eafdiff(*sides)[:, -1].any():  # moocore can't make rectangles of nothing
        return AttainmentDifference(rectangles=np.empty((0, 4)), values=np.empty(0))
    found = moocore.eafdiff(*sides, rectangles=True)
    return AttainmentDifference(rectangles=found[:, :4], values=found[:, 4] / len(left))


def _stacked(
    argument: str, runs: Sequence[npt.ArrayLike], objectives: tuple[int, ...]
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Return the fronts of all runs in one array, and the run (from 1) of each point.

    Raises:
        ArgumentError: A run has no finite point, or the number of objectives is not allowed.
    """
    archives = check_runs(argument, runs)
    if archives[0].shape[1] not in objectives:
        raise ArgumentError(f"{argument}: given {archives[0].shape[1]} objectives; allowed: {objectives}")
    fronts = [archive[nondominated(archive)] for archive in archives]
    empty = [i for i, front in enumerate(fronts) if len(front) == 0]
    if empty:
        raise ArgumentError(f"{argument}: runs {empty[:10]} hold no finite point; allowed: one or more in each")
    return np.concatenate(fronts), np.repeat(np.arange(1, len(fronts) + 1), [len(front) for front in fronts])
