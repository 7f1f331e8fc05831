"""Curves over evaluations, against the indicator of every prefix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoq_moo.analysis import additive_epsilon_curve, hypervolume_curve, igd_plus_curve
from evoq_moo.errors import ArgumentError
from evoq_moo.indicators import additive_epsilon, igd_plus, normalized_hypervolume


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), objectives=st.sampled_from([2, 3]), grid=st.sampled_from([3, 8, 1000]))
def test_hypervolume_curve_is_that_of_every_prefix(seed, objectives, grid):
    """Coarse grids give ties, equal points and points on the box's edge."""
    archive = np.random.default_rng(seed).integers(-1, grid + 2, size=(25, objectives)) / grid
    ideal, reference = np.zeros(objectives), np.ones(objectives)
    expected = [normalized_hypervolume(archive[: i + 1], ideal=ideal, reference=reference) for i in range(25)]
    assert hypervolume_curve(archive, ideal=ideal, reference=reference) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_distance_curves_are_those_of_every_prefix(monkeypatch):
    monkeypatch.setattr("evoq_moo.analysis._curves._BLOCK", 100)  # several blocks
    rng = np.random.default_rng(0)
    archive, points = rng.random((40, 2)), rng.random((17, 2))
    archive[3] = np.inf
    archive[0] = np.nan
    for curve, indicator in ((igd_plus_curve, igd_plus), (additive_epsilon_curve, additive_epsilon)):
        expected = [indicator(archive[: i + 1], reference_set=points) for i in range(40)]
        assert expected[0] == np.inf
        assert curve(archive, reference_set=points) == pytest.approx(expected, rel=1e-12)


def test_infeasible_evaluations_count_but_add_nothing():
    curve = hypervolume_curve([[np.inf, np.inf], [0.5, 0.5], [np.nan, 0]], ideal=[0, 0], reference=[1, 1])
    assert curve.tolist() == [0, 0.25, 0.25]


def test_curves_name_a_bad_argument():
    with pytest.raises(ArgumentError, match="ideal: given"):
        hypervolume_curve([[1, 2]], ideal=[0], reference=[1, 1])
