"""Repair of real vectors to allowed bit-widths."""

from typing import Any

import numpy.typing as npt
from pymoo.core.repair import Repair

from evoq_moo._genes import problem_space
from evoq_moo.space import IntArray


class BitWidthRepair(Repair):  # type: ignore[misc]
    """Move every value to the nearest bit-width its gene allows (the lower of two as near).

    With it any pymoo operator for real or integer vectors works on a space with gaps, e.g.
    ``SBX(vtype=float, repair=BitWidthRepair())``.
    """

    def __init__(self) -> None:
        super().__init__()

    def _do(self, problem: Any, X: npt.ArrayLike, **_kwargs: Any) -> IntArray:
        """Return repaired vectors.

        Args:
            problem: A problem with a search space.
            X: Real vectors `(n, n_var)`.

        Returns:
            Int64 `(n, n_var)`.

        Raises:
            ArgumentError: The problem has no search space.
            BitWidthError: A value is NaN.
        """
        return problem_space(problem).snap(X)
