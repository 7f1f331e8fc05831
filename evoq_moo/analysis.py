"""Indicators of fronts and archives, by moocore."""

import moocore
import numpy as np
import numpy.typing as npt


def normalized_hypervolume(F: npt.ArrayLike, *, ideal: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Return the share of the box between ideal and reference point that a set dominates.

    Args:
        F: Objective values to be minimized, `(n, objectives)`; points that do not dominate the reference add nothing.
        ideal: Lower corner of the box, `(objectives,)`.
        reference: Upper corner, `(objectives,)`.

    Returns:
        0..1 where no point lies below the ideal.
    """
    values, low, high = (np.asarray(a, dtype=np.float64) for a in (F, ideal, reference))
    scaled = (np.atleast_2d(values) - low) / (high - low)
    inside = scaled[(scaled < 1).all(axis=1)]
    return float(moocore.hypervolume(inside, ref=np.ones(len(high)))) if len(inside) else 0.0
