"""Checks of arrays shared by the analysis functions."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evoq_moo.errors import ArgumentError
from evoq_moo.space import FloatArray


def check_archive(argument: str, F: npt.ArrayLike, *, objectives: int | None = None) -> FloatArray:
    """Return objective values as float64 `(n, objectives)`.

    Args:
        argument: The argument's name, for the message.
        F: Objective values `(n, objectives)`, or of one point.
        objectives: How many there must be; None for any number.

    Raises:
        ArgumentError: Not numbers of such a shape.
    """
    try:
        values = np.atleast_2d(np.asarray(F, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{argument}: not an array of numbers: {error}") from None
    if values.ndim != 2 or values.shape[1] != (objectives or values.shape[1]):
        wanted = "objectives" if objectives is None else str(objectives)
        raise ArgumentError(f"{argument}: given shape {values.shape}; allowed: (points, {wanted})")
    return values


def check_point(argument: str, point: npt.ArrayLike) -> FloatArray:
    """Return one finite point, float64 `(objectives,)`.

    Raises:
        ArgumentError: Not such a point.
    """
    values = np.asarray(point, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ArgumentError(f"{argument}: given {point!r}; allowed: one finite number for each objective")
    return values


def check_runs(
    argument: str, runs: Sequence[npt.ArrayLike], *, objectives: int | None = None, lowest: int = 1
) -> list[FloatArray]:
    """Return the archives of runs, all of as many objectives.

    Raises:
        ArgumentError: Too few runs, or archives that don't fit together.
    """
    archives = [check_archive(f"{argument}[{i}]", run, objectives=objectives) for i, run in enumerate(runs)]
    if len(archives) < lowest:
        raise ArgumentError(f"{argument}: given {len(archives)} runs; allowed: {lowest} or more")
    widths = sorted({archive.shape[1] for archive in archives})
    if len(widths) > 1:
        raise ArgumentError(f"{argument}: given archives of {widths} objectives; allowed: the same number in each")
    return archives


def check_sample(argument: str, values: npt.ArrayLike, *, lowest: int = 1) -> FloatArray:
    """Return one value a run, float64 `(runs,)`, finite.

    Raises:
        ArgumentError: Too few, not finite or of another shape.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) < lowest or not np.isfinite(sample).all():
        raise ArgumentError(
            f"{argument}: given shape {sample.shape}{'' if np.isfinite(sample).all() else ' with NaN or infinity'}; "
            f"allowed: one finite value a run, {lowest} or more"
        )
    return sample


def finite_rows(values: FloatArray) -> FloatArray:
    """Return the rows that hold finite numbers only."""
    return np.asarray(values[np.isfinite(values).all(axis=1)])
