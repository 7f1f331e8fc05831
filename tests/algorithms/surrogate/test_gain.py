import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from evoq_moo.algorithms.surrogate._gain import MOST_EDGES, cut
from evoq_moo.algorithms.surrogate._model import expected_shortfall


def exact_gain(points, new, reference):
    both = np.vstack([points, new])
    return moocore.hypervolume(both, ref=reference) - moocore.hypervolume(points, ref=reference)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), costs=st.sampled_from([1, 2]), n=st.integers(1, 12))
def test_gain_of_a_certain_value_is_the_hypervolume_added(seed, costs, n):
    rng = np.random.default_rng(seed)
    points, new = rng.random((n, costs + 1)), rng.random((5, costs + 1))
    cells = cut(points[:, :-1], points[:, -1], np.zeros(costs), np.ones(costs), 1.0)
    gains = cells.gains(new[:, :-1], new[:, -1], np.full(5, 1e-9))
    expected = [exact_gain(points, x, np.ones(costs + 1)) for x in new]
    np.testing.assert_allclose(gains, expected, atol=1e-8)


def test_expected_gain_is_the_mean_over_values():
    rng = np.random.default_rng(1)
    points = rng.random((6, 2))
    cells = cut(points[:, :1], points[:, 1], np.zeros(1), np.ones(1), 1.0)
    draws = rng.normal(0.4, 0.2, size=4000)
    mean = np.mean([exact_gain(points, np.array([0.3, d]), np.ones(2)) if d < 1 else 0.0 for d in draws])
    assert cells.gains(np.array([[0.3]]), np.array([0.4]), np.array([0.2]))[0] == pytest.approx(mean, rel=0.05)


def test_no_policy_yet_and_best_at():
    cells = cut(np.empty((0, 1)), np.empty(0), np.zeros(1), np.ones(1), 2.0)
    assert cells.gains(np.array([[0.25]]), np.array([1.0]), np.array([1e-9]))[0] == pytest.approx(0.75)
    cells = cut(np.array([[0.2], [0.6]]), np.array([1.0, 0.5]), np.zeros(1), np.ones(1), 2.0)
    assert cells.best_at(np.array([[0.1], [0.2], [0.59], [0.6], [1.0]])).tolist() == [2.0, 1.0, 1.0, 0.5, 0.5]


def test_many_points_of_two_costs_are_cut_coarsely_and_never_overrate_what_is_known():
    rng = np.random.default_rng(0)
    costs = rng.random((500, 2))
    values = 1.0 / (0.1 + costs.sum(axis=1)) + 0.01 * rng.random(500)
    cells = cut(costs, values, np.zeros(2), np.ones(2), 20.0)
    assert len(cells.best) <= (MOST_EDGES + 1) ** 2
    at = rng.random((50, 2))
    known = np.array([values[(costs <= a).all(axis=1)].min(initial=20.0) for a in at])
    assert (cells.best_at(at) >= known).all()


def test_expected_shortfall_against_an_integral():
    for below, mean, std in ((0.0, 0.5, 0.3), (1.0, 0.5, 0.3), (0.0, -1.0, 2.0)):
        expected = quad(lambda v: max(below - v, 0) * norm.pdf(v, mean, std), mean - 12 * std, below)[0]  # noqa: B023
        found = expected_shortfall(np.array([below]), np.array([mean]), np.array([std]))[0]
        assert found == pytest.approx(expected, rel=1e-6)
