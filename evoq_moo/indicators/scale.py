"""The logarithmic scale of differences, which span many orders of magnitude."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evoq_moo.space import FloatArray

SMALLEST = 1e-12
"""Smaller differences count as this (our choice)."""


def logarithm(values: npt.ArrayLike) -> FloatArray:
    """Return log10 of values, of those below 1e-12 that of 1e-12, as float64."""
    return np.asarray(np.log10(np.maximum(np.asarray(values, dtype=np.float64), SMALLEST)))


def log_difference(differences: Any) -> FloatArray:
    """Return log10 of differences, at least 1e-12, as float64; differences that may be negative stay as they are."""
    array = np.asarray(differences, dtype=np.float64)
    return array if (array < 0).any() else logarithm(array)


def log_scale(objectives: Sequence[str]) -> tuple[bool, ...]:
    """Return which objectives count on a log10 scale: the difference, which spans many orders of magnitude."""
    return tuple(name == "difference" for name in objectives)
