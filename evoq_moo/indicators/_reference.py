"""A problem's frozen reference: what indicators of every study of it are measured against."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from evoq_moo.errors import ArgumentError
from evoq_moo.indicators._check import check_archive
from evoq_moo.indicators._sets import scale_to_box
from evoq_moo.indicators.scale import logarithm
from evoq_moo.space import FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenReference:
    """Ideal, nadir and reference set of a problem, in its own units, and how they are scaled to compare.

    Attributes:
        objectives: Names of the objectives.
        log: Whether each objective counts on a log10 scale (values below 1e-12 as 1e-12).
        ideal: Float64 `(objectives,)`: no value of the reference set is smaller.
        nadir: Float64 `(objectives,)`: the largest values that count.
        points: Float64 `(points, objectives)`: the best known front.
        provenance: Where the points come from.
    """

    objectives: tuple[str, ...]
    log: tuple[bool, ...]
    ideal: FloatArray = field(repr=False)
    nadir: FloatArray = field(repr=False)
    points: FloatArray = field(repr=False)
    provenance: str

    def __post_init__(self) -> None:
        if not len(self.objectives) == len(self.log) == len(self.ideal) == len(self.nadir):
            raise ArgumentError("reference: needs one ideal, nadir and scale for each objective")

    def scaled(self, F: npt.ArrayLike) -> FloatArray:
        """Return objective values on the reference's scale: the ideal at 0, the nadir at 1.

        Args:
            F: Objective values `(n, objectives)`; rows that are not finite come out infinite.

        Raises:
            ArgumentError: Not of as many objectives.
        """
        values = check_archive("F", F, objectives=len(self.objectives))
        low, high, found = (self._logs(array) for array in (self.ideal, self.nadir, values))
        finite = np.isfinite(values).all(axis=1, keepdims=True)
        return np.where(finite, scale_to_box(np.where(finite, found, 0.0), low, high), np.inf)

    def scaled_points(self) -> FloatArray:
        """Return the reference set on the reference's scale, float64 `(points, objectives)`."""
        return self.scaled(self.points)

    def _logs(self, values: FloatArray) -> FloatArray:
        return np.where(self.log, logarithm(values), values)
