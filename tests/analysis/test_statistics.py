"""Statistics, against brute force, scikit-posthocs and published tables."""

import itertools

import numpy as np
import pytest
import scikit_posthocs
from scipy import stats

from evoq_moo.analysis import (
    a12,
    bootstrap_interval,
    compare_pairs,
    friedman_nemenyi,
    holm,
    mann_whitney,
    wilcoxon_signed_rank,
)
from evoq_moo.errors import ArgumentError, UnknownNameError

RNG = np.random.default_rng(7)


def test_wilcoxon_p_is_that_of_all_sign_flips():
    a, b = RNG.normal(size=9), RNG.normal(0.5, size=9)
    difference = a - b
    ranks = stats.rankdata(np.abs(difference))
    observed = min(ranks[difference > 0].sum(), ranks[difference < 0].sum())
    flips = np.array(list(itertools.product([0, 1], repeat=9)))
    positive = flips @ ranks
    smaller = np.minimum(positive, ranks.sum() - positive)
    statistic, p = wilcoxon_signed_rank(a, b)
    assert statistic == pytest.approx(observed)
    assert p == pytest.approx((smaller <= observed).mean())


def test_wilcoxon_of_equal_samples_shows_nothing():
    assert wilcoxon_signed_rank([1, 2, 3], [1, 2, 3]) == (0.0, 1.0)


def test_mann_whitney_p_is_that_of_all_splits():
    a, b = RNG.normal(size=5), RNG.normal(1, size=6)
    everything = np.concatenate([a, b])

    def u_of(rows):
        chosen = np.zeros(11, dtype=bool)
        chosen[list(rows)] = True
        return sum((x > y) + 0.5 * (x == y) for x in everything[chosen] for y in everything[~chosen])

    us = np.array([u_of(rows) for rows in itertools.combinations(range(11), 5)])
    observed = u_of(range(5))
    statistic, p = mann_whitney(a, b)
    assert statistic == observed
    assert p == pytest.approx((np.abs(us - 15) >= abs(observed - 15)).mean())


def test_a12_counts_wins_and_half_ties():
    a, b = RNG.integers(0, 4, 13), RNG.integers(0, 4, 8)
    expected = np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b])
    assert a12(a, b) == pytest.approx(expected)
    assert a12(a, b, larger_is_better=False) == pytest.approx(1 - expected)


def test_holm_against_the_procedure():
    p = RNG.random(12) ** 3
    adjusted = holm(p)
    for level in (0.001, 0.01, 0.05, 0.2):
        rejected = np.zeros(12, dtype=bool)
        for step, i in enumerate(np.argsort(p)):
            if p[i] > level / (12 - step):
                break
            rejected[i] = True
        assert ((adjusted <= level) == rejected).all()
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]


def test_compare_pairs_puts_the_parts_together():
    values = {name: RNG.normal(mean, size=12) for name, mean in (("a", 1.0), ("b", 0.0), ("c", 0.1))}
    for paired, test in ((True, stats.wilcoxon), (False, stats.mannwhitneyu)):
        results = compare_pairs(values, paired=paired)
        assert [(r.first, r.second) for r in results] == [("a", "b"), ("a", "c"), ("b", "c")]
        raw = [test(values[r.first], values[r.second]).pvalue for r in results]
        assert [r.p_value for r in results] == pytest.approx(raw)
        assert [r.p_holm for r in results] == pytest.approx(holm(raw).tolist())
        assert [r.a12 for r in results] == [a12(values[r.first], values[r.second]) for r in results]
    assert len(compare_pairs(values, pairs=[("c", "a")])) == 1


def test_friedman_and_nemenyi_against_scikit_posthocs():
    scores = RNG.normal(size=(9, 5)) + np.arange(5) * 0.7
    result = friedman_nemenyi(scores, list("abcde"))
    expected = stats.friedmanchisquare(*scores.T)
    assert (result.statistic, result.p_value) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    theirs = scikit_posthocs.posthoc_nemenyi_friedman(scores).to_numpy()
    assert result.nemenyi == pytest.approx(theirs, abs=1e-9)
    ranks = np.mean([[1 + (row > x).sum() for x in row] for row in scores], axis=0)
    assert result.average_ranks == pytest.approx(ranks)


def test_critical_difference_is_demsars():
    """Table 5a of Demsar 2006: q of 0.05 is 2.343 for two, 2.569 for four and 3.164 for ten algorithms."""
    for algorithms, q in ((3, 2.343), (4, 2.569), (10, 3.164)):
        result = friedman_nemenyi(RNG.normal(size=(14, algorithms)), [str(i) for i in range(algorithms)])
        expected = q * np.sqrt(algorithms * (algorithms + 1) / (6 * 14))
        assert result.critical_difference == pytest.approx(expected, abs=2e-3)


def test_cliques_join_what_the_critical_difference_does_not_part():
    scores = np.tile([5.0, 4.0, 3.0, 2.0, 1.0], (30, 1))
    result = friedman_nemenyi(scores, list("abcde"))
    assert 1 < result.critical_difference < 2
    assert result.cliques == (("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"))
    worse = friedman_nemenyi(scores, list("abcde"), larger_is_better=False)
    assert worse.average_ranks.tolist() == [5, 4, 3, 2, 1]
    assert worse.cliques[0] == ("e", "d")


def test_friedman_of_equal_algorithms_shows_nothing():
    result = friedman_nemenyi(np.ones((6, 3)), list("abc"))
    assert result.p_value == 1
    assert result.cliques == (("a", "b", "c"),)


def test_bootstrap_covers_the_true_figure():
    """Of 200 samples of 31 runs, intervals of 90 % hold the true figure in 90 % or so (binomial, +-5 sd)."""
    rng = np.random.default_rng(3)
    for figure, true in (("mean", 1.0), ("median", np.log(2))):
        inside = 0
        for i in range(200):
            found = bootstrap_interval(rng.exponential(size=31), figure=figure, confidence=0.9, resamples=499, seed=i)
            inside += found.low <= true <= found.high
        assert 0.9 - 5 * np.sqrt(0.09 / 200) < inside / 200 < 1


def test_bootstrap_is_seeded_and_takes_what_does_not_vary():
    values = RNG.random(10)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    found = bootstrap_interval([2.0, 2.0])
    assert (found.value, found.low, found.high) == (2, 2, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilcoxon_signed_rank([1, 2], [1]), "second: given 1"),
        (lambda: mann_whitney([], [1]), "first: given shape"),
        (lambda: a12([np.nan], [1]), "with NaN"),
        (lambda: holm([2]), "p_values: given"),
        (lambda: compare_pairs({"a": [1.0]}), "pairs: given"),
        (lambda: compare_pairs({"a": [1.0]}, pairs=[("a", "x")]), "pairs: given"),
        (lambda: friedman_nemenyi(np.ones((3, 2)), list("ab")), "scores: given"),
        (lambda: friedman_nemenyi(np.ones((3, 3)), list("ab")), "names: given 2"),
        (lambda: friedman_nemenyi(np.ones((3, 3)), list("abc"), alpha=0), "alpha: given"),
        (lambda: bootstrap_interval([1, 2], confidence=1), "confidence: given"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
    with pytest.raises(UnknownNameError):
        bootstrap_interval([1, 2], figure="mode")
