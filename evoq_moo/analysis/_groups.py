"""Comparing several algorithms over several problems: Friedman's test and Nemenyi's post-hoc."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import stats

from evoq_moo.errors import ArgumentError
from evoq_moo.space import FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class FriedmanResult:
    """Average ranks of algorithms over problems, and which of them differ (Demsar 2006).

    Attributes:
        names: The algorithms, in the order given.
        average_ranks: Float64 `(algorithms,)`; 1 is the best.
        statistic: Friedman's chi-squared, corrected for ties.
        p_value: Of the hypothesis that all algorithms are equal.
        nemenyi: Float64 `(algorithms, algorithms)`: p-values of Nemenyi's test of each pair, 1 on the diagonal.
        critical_difference: Two average ranks further apart than this differ at level `alpha`.
        alpha: The level.
        cliques: Groups of names, best first, of average ranks that do not differ; the bars of a critical-difference
            diagram. Groups of one are left out.
    """

    names: tuple[str, ...]
    average_ranks: FloatArray
    statistic: float
    p_value: float
    nemenyi: FloatArray = field(repr=False)
    critical_difference: float
    alpha: float
    cliques: tuple[tuple[str, ...], ...]


def friedman_nemenyi(
    scores: npt.ArrayLike, names: Sequence[str], *, larger_is_better: bool = True, alpha: float = 0.05
) -> FriedmanResult:
    """Rank algorithms on every problem and test whether, and which, average ranks differ.

    Meant for five or more problems; with fewer the tests have next to no power.

    Args:
        scores: One score (say, the median hypervolume over seeds) for each problem and algorithm, finite, `(problems,
            algorithms)`, two problems and three algorithms or more.
        names: Names of the algorithms.
        larger_is_better: Which scores are better.
        alpha: Level of the critical difference, between 0 and 1.

    Raises:
        ArgumentError: The scores are not of that shape or not finite, or `alpha` is not allowed.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] < 3 or not np.isfinite(table).all():
        raise ArgumentError(
            f"scores: given shape {table.shape}; allowed: finite, (problems, algorithms) of at least (2, 3)"
        )
    n, k = table.shape
    if len(names) != k:
        raise ArgumentError(f"names: given {len(names)}; allowed: one for each of {k} algorithms")
    if not 0 < alpha < 1:
        raise ArgumentError(f"alpha: given {alpha!r}; allowed: a number between 0 and 1")
    average = stats.rankdata(-table if larger_is_better else table, axis=1).mean(axis=0)
    statistic, p_value = 0.0, 1.0
    if (table != table[:, :1]).any():
        found = stats.friedmanchisquare(*table.T)
        statistic, p_value = float(found.statistic), float(found.pvalue)
    error = np.sqrt(k * (k + 1) / (6 * n))
    apart = np.abs(average[:, None] - average[None, :]) / error * np.sqrt(2)
    nemenyi = np.asarray(stats.studentized_range.sf(apart, k, np.inf), dtype=np.float64)
    np.fill_diagonal(nemenyi, 1.0)
    critical = float(stats.studentized_range.ppf(1 - alpha, k, np.inf)) / np.sqrt(2) * error
    return FriedmanResult(
        names=tuple(names),
        average_ranks=average,
        statistic=statistic,
        p_value=p_value,
        nemenyi=nemenyi,
        critical_difference=float(critical),
        alpha=alpha,
        cliques=_cliques(average, tuple(names), float(critical)),
    )


def _cliques(ranks: FloatArray, names: tuple[str, ...], critical: float) -> tuple[tuple[str, ...], ...]:
    """Return the largest groups of ranks that are next to each other and not further apart than critical."""
    order = np.argsort(ranks, kind="stable")
    ordered = ranks[order]
    groups: list[tuple[int, int]] = []
    for start in range(len(order)):
        end = int(np.searchsorted(ordered, ordered[start] + critical, side="right"))
        if end - start > 1 and (not groups or end > groups[-1][1]):
            groups.append((start, end))
    return tuple(tuple(names[i] for i in order[start:end]) for start, end in groups)
