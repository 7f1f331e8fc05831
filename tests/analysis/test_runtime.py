"""Runtimes to targets, against a plain loop."""

import numpy as np
import pytest

from evoq_moo.analysis import runtime_ecdf, runtimes
from evoq_moo.errors import ArgumentError


def test_runtimes_are_the_first_evaluation_at_or_past_the_target():
    rng = np.random.default_rng(0)
    curves = [np.round(rng.random(20), 1) for _ in range(5)]
    targets = [0.0, 0.5, 0.9, 1.0, 2.0]
    for larger in (True, False):
        found = runtimes(curves, targets, larger_is_better=larger)
        for i, curve in enumerate(curves):
            for j, target in enumerate(targets):
                reached = np.flatnonzero(curve >= target if larger else curve <= target)
                assert found[i, j] == (reached[0] + 1 if len(reached) else np.inf)


def test_ecdf_counts_pairs_reached():
    times = np.array([[1, 5, np.inf], [5, 7, 9]])
    ecdf = runtime_ecdf(times)
    assert ecdf.pairs == 6
    for at in (0, 1, 4, 5, 8, 9, 100):
        assert ecdf.at(at) == pytest.approx((times <= at).mean())
    assert runtime_ecdf([np.inf]).at([1, 2]).tolist() == [0, 0]


def test_bad_arguments_are_named():
    with pytest.raises(ArgumentError, match=r"curves\[0\]"):
        runtimes([[]], [1])
    with pytest.raises(ArgumentError, match="targets: given"):
        runtimes([[1]], [np.nan])
    with pytest.raises(ArgumentError, match="times: given 0"):
        runtime_ecdf([])
