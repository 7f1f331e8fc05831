"""Choosing one point of a front: each rule by a short text and with a sentence that says what was chosen and why.

The rules see objectives scaled to 0..1 over the front (:meth:`ParetoFront.scaled`: the difference on a log10 scale), so
that no objective counts more for its unit; this scaling is our choice.
"""

from dataclasses import dataclass

import moocore
import numpy as np
import numpy.typing as npt
from pymoo.decomposition.aasf import AASF

from evoq_moo.costs import objective_names
from evoq_moo.errors import ArgumentError
from evoq_moo.space import FloatArray, Policy

PICKS = (
    f"knee, knee-angle, hypervolume, {', '.join(objective_names())}, budgets like 'bops<=5', "
    "weights=0.7,0.3, aspiration=0.05,4.0, or a row"
)
"""Texts that name a rule, for messages and help."""
_AUGMENTATION = 1e-4


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A chosen policy.

    Attributes:
        policy: The policy.
        rule: The rule's text, as :meth:`ParetoFront.pick` takes it.
        reason: What was chosen and why, one sentence.
    """

    policy: Policy
    rule: str
    reason: str


def knee_by_angle(F: FloatArray) -> int | None:
    """Return the point where a front of two objectives bends most (Deb and Gupta 2011).

    The bend angle of a point is that between its line to the front's left end and its line to the right end.

    Args:
        F: Scaled objectives `(points, 2)`.

    Returns:
        Its row; None where no point lies below the line through the ends.

    Raises:
        ArgumentError: Not two objectives.
    """
    if F.shape[1] != 2:
        raise ArgumentError(f"front: given {F.shape[1]} objectives; allowed for knee-angle: 2")
    left, right = F[np.lexsort(F.T[::-1])[[0, -1]]]
    inside = np.flatnonzero((F[:, 0] > left[0]) & (F[:, 0] < right[0]))
    if not len(inside):
        return None
    x, y = F[inside].T
    bend = np.arctan2(left[1] - y, x - left[0]) - np.arctan2(y - right[1], right[0] - x)
    best = int(bend.argmax())
    return int(inside[best]) if bend[best] > 0 else None


def by_pseudo_weights(F: FloatArray, weights: npt.ArrayLike) -> int:
    """Return the point whose pseudo-weights (Deb 2001) are nearest to given weights.

    A point's pseudo-weight in an objective is its share of the distances to the front's worst values; near is in the
    sum of absolute differences. (Not by pymoo's `PseudoWeights`: importing it gives a DeprecationWarning of scipy's,
    and a front that is flat in one objective NaN.)

    Args:
        F: Scaled objectives `(points, objectives)`.
        weights: What each objective is worth, `(objectives,)`: not negative, not all zero; scaled to a sum of 1.

    Raises:
        ArgumentError: Not such weights.
    """
    given = _numbers("weights", weights, F.shape[1])
    if (given < 0).any() or given.sum() == 0:
        raise ArgumentError(f"weights: given {given.tolist()}; allowed: numbers of at least 0, not all 0")
    gains = 1 - F
    totals = gains.sum(axis=1, keepdims=True)
    shares = np.divide(gains, totals, out=np.full(F.shape, 1 / F.shape[1]), where=totals > 0)
    return int(np.abs(shares - given / given.sum()).sum(axis=1).argmin())


def by_aspiration(F: FloatArray, aspiration: npt.ArrayLike) -> int:
    """Return the point of the best achievement against an aspiration point (Wierzbicki 1980), by pymoo.

    It minimizes the largest shortfall over the objectives, plus 1e-4 of their sum so that no dominated point wins a
    tie (our choice of the augmentation).

    Args:
        F: Scaled objectives `(points, objectives)`.
        aspiration: The wished-for values on the same scale, `(objectives,)`.

    Raises:
        ArgumentError: Not one number for each objective.
    """
    wished = _numbers("aspiration", aspiration, F.shape[1])
    achievement = AASF(rho=_AUGMENTATION).do(F, np.ones(F.shape[1]), _type="many_to_one", utopian_point=wished)
    return int(np.argmin(np.ravel(achievement)))


def by_hypervolume_contribution(F: FloatArray) -> int:
    """Return the point that the front's hypervolume would lose most without, by moocore.

    The reference is the worst value of each objective (our choice), so the ends of the front add nothing.

    Args:
        F: Scaled objectives `(points, objectives)`.
    """
    return int(np.argmax(moocore.hv_contributions(F, ref=np.ones(F.shape[1]))))


def nearest_rows(F: FloatArray, row: int, count: int) -> list[int]:
    """Return the rows nearest to a point, itself first; a tie goes to the earlier row.

    Args:
        F: Scaled objectives `(points, objectives)`.
        row: The point.
        count: How many, at most all.
    """
    distances = np.linalg.norm(F - F[row], axis=1)
    distances[row] = -1.0
    return [int(i) for i in np.argsort(distances, kind="stable")[:count]]


def _numbers(argument: str, values: npt.ArrayLike, count: int) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (count,) or not np.isfinite(array).all():
        raise ArgumentError(
            f"{argument}: given {np.asarray(values).tolist()}; allowed: {count} numbers, one for each objective"
        )
    return array
