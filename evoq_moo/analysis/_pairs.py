"""Comparing two algorithms, or every pair of several, on one problem."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from evoq_moo.errors import ArgumentError
from evoq_moo.indicators import check_sample
from evoq_moo.space import FloatArray


@dataclass(frozen=True, kw_only=True)
class PairResult:
    """Two algorithms against each other.

    Attributes:
        first: Name of one.
        second: Name of the other.
        statistic: Of the test.
        p_value: Two-sided.
        p_holm: Adjusted by Holm's method over all pairs compared together.
        a12: Probability that a run of the first is better than one of the second, ties counting half (Vargha and
            Delaney 2000): 0.5 is no effect, above it the first is better.
        median_difference: Median of first less second; over the paired runs where they are paired.
    """

    first: str
    second: str
    statistic: float
    p_value: float
    p_holm: float
    a12: float
    median_difference: float


def wilcoxon_signed_rank(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[float, float]:
    """Return the statistic and two-sided p of Wilcoxon's signed-rank test, for runs paired by seed.

    Args:
        first: One value a run, `(runs,)`.
        second: The same seeds' values of the other algorithm.

    Returns:
        Statistic and p; 0 and 1 where no pair differs.

    Raises:
        ArgumentError: The samples are not finite or not as long as each other.
    """
    a, b = _paired(first, second)
    if np.array_equal(a, b):
        return 0.0, 1.0
    found = stats.wilcoxon(a, b)
    return float(found.statistic), float(found.pvalue)


def mann_whitney(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[float, float]:
    """Return the statistic U of the first and two-sided p of the Mann-Whitney test, for runs that are not paired.

    Args:
        first: One value a run, `(runs,)`.
        second: Values of the other algorithm, any number.

    Raises:
        ArgumentError: The samples are not finite.
    """
    found = stats.mannwhitneyu(check_sample("first", first), check_sample("second", second), alternative="two-sided")
    return float(found.statistic), float(found.pvalue)


def a12(first: npt.ArrayLike, second: npt.ArrayLike, *, larger_is_better: bool = True) -> float:
    """Return Vargha and Delaney's A12: the probability that a run of the first is better than one of the second.

    Args:
        first: One value a run, `(runs,)`.
        second: Values of the other algorithm, any number.
        larger_is_better: Which values are better.

    Returns:
        0..1; ties count half.

    Raises:
        ArgumentError: The samples are not finite.
    """
    a, b = check_sample("first", first), check_sample("second", second)
    ranks = stats.rankdata(np.concatenate([a, b]))[: len(a)]
    larger = (float(ranks.sum()) - len(a) * (len(a) + 1) / 2) / (len(a) * len(b))
    return larger if larger_is_better else 1 - larger


def holm(p_values: npt.ArrayLike) -> FloatArray:
    """Return p-values adjusted by Holm's step-down method (1979), which bounds the family-wise error.

    Args:
        p_values: P-values `(tests,)`.

    Returns:
        Float64 `(tests,)`, at most 1, in the same order.

    Raises:
        ArgumentError: Not probabilities.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ArgumentError(f"p_values: given {p_values!r}; allowed: numbers from 0 to 1, (tests,)")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted


def compare_pairs(
    values: Mapping[str, npt.ArrayLike],
    *,
    paired: bool = True,
    larger_is_better: bool = True,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> tuple[PairResult, ...]:
    """Compare algorithms two by two on one problem, with Holm's correction over the pairs.

    Args:
        values: For each algorithm, one value a run, `(runs,)`.
        paired: Runs at one position share a seed: Wilcoxon's signed-rank test; else Mann-Whitney.
        larger_is_better: Which values are better, for A12.
        pairs: The pairs to compare; None for all.

    Raises:
        ArgumentError: Fewer than two algorithms, an unknown one, or samples that don't fit together.
    """
    names = list(values)
    chosen = list(itertools.combinations(names, 2)) if pairs is None else list(pairs)
    unknown = sorted({name for pair in chosen for name in pair} - set(names))
    if not chosen or unknown:
        raise ArgumentError(f"pairs: given {chosen}; allowed: one or more pairs among {names}")
    samples = {name: check_sample(f"values[{name!r}]", sample) for name, sample in values.items()}
    test = wilcoxon_signed_rank if paired else mann_whitney
    tests = [test(samples[first], samples[second]) for first, second in chosen]
    adjusted = holm([p for _, p in tests])
    results = []
    for (first, second), (statistic, p), p_holm in zip(chosen, tests, adjusted.tolist(), strict=True):
        a, b = samples[first], samples[second]
        results.append(
            PairResult(
                first=first,
                second=second,
                statistic=statistic,
                p_value=p,
                p_holm=p_holm,
                a12=a12(a, b, larger_is_better=larger_is_better),
                median_difference=float(np.median(a - b) if paired else np.median(a) - np.median(b)),
            )
        )
    return tuple(results)


def _paired(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    a, b = check_sample("first", first), check_sample("second", second)
    if a.shape != b.shape:
        raise ArgumentError(f"second: given {len(b)} values; allowed: one for each of the first's {len(a)}, by seed")
    return a, b
