"""Runtimes to targets, as COCO reports them: evaluations until an indicator first reaches a value."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from evoq_moo.errors import ArgumentError
from evoq_moo.space import FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class RuntimeECDF:
    """Share of (run, target) pairs that were reached within so many evaluations: a step function.

    Attributes:
        evaluations: Float64 `(steps,)`, ascending: where the function rises.
        shares: Float64 `(steps,)`: its value from there on, 0..1.
        pairs: Number of (run, target) pairs, reached or not.
    """

    evaluations: FloatArray = field(repr=False)
    shares: FloatArray = field(repr=False)
    pairs: int

    def at(self, evaluations: npt.ArrayLike) -> FloatArray:
        """Return the share reached within some numbers of evaluations, float64 of the same shape."""
        index = np.searchsorted(self.evaluations, np.asarray(evaluations, dtype=np.float64), side="right")
        return np.asarray(np.concatenate([[0.0], self.shares])[index])


def runtimes(curves: Sequence[npt.ArrayLike], targets: npt.ArrayLike, *, larger_is_better: bool = True) -> FloatArray:
    """Return after how many evaluations each run first reached each target.

    Args:
        curves: For each run, the indicator after 1, 2, ... evaluations, float `(evaluations,)`.
        targets: Values to reach, `(targets,)`.
        larger_is_better: Whether a target is reached from below (hypervolume) or above (IGD+, epsilon).

    Returns:
        Float64 `(runs, targets)`; infinity where a run never got there.

    Raises:
        ArgumentError: The arrays are not of these shapes.
    """
    wanted = np.asarray(targets, dtype=np.float64)
    if wanted.ndim != 1 or np.isnan(wanted).any():
        raise ArgumentError(f"targets: given shape {wanted.shape}; allowed: numbers (targets,)")
    sign = 1.0 if larger_is_better else -1.0
    found = np.full((len(curves), len(wanted)), np.inf)
    for i, curve in enumerate(curves):
        values = np.asarray(curve, dtype=np.float64)
        if values.ndim != 1 or len(values) == 0 or np.isnan(values).any():
            raise ArgumentError(f"curves[{i}]: given shape {values.shape}; allowed: numbers (evaluations,)")
        best = np.maximum.accumulate(sign * values)
        first = np.searchsorted(best, sign * wanted, side="left")
        reached = first < len(best)
        found[i, reached] = first[reached] + 1
    return found


def runtime_ecdf(times: npt.ArrayLike) -> RuntimeECDF:
    """Return the empirical distribution of runtimes.

    Args:
        times: What :func:`runtimes` returns, any shape; infinity counts as not reached.

    Raises:
        ArgumentError: There is none, or NaN.
    """
    values = np.asarray(times, dtype=np.float64).ravel()
    if len(values) == 0 or np.isnan(values).any():
        raise ArgumentError(f"times: given {len(values)} runtimes, NaN among them or none; allowed: one or more")
    steps, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    return RuntimeECDF(evaluations=steps, shares=np.cumsum(counts) / len(values), pairs=len(values))
