"""Uniform and budget-matched random policies, spread points, and what all of them are good for."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.optimize import minimize

from evoq_moo.baselines import additive_front, greedy_path, random_policies, spread, spread_rows, uniform_policies
from evoq_moo.costs import cost_matrix
from evoq_moo.errors import ArgumentError, InfeasibleBudgetError, UnknownNameError
from evoq_moo.front import ParetoFront
from evoq_moo.operators import UniformBitCrossover, UniformBitMutation
from evoq_moo.space import LayerInfo, SearchSpace

COSTS = ("size", "bops")

FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def test_uniform_policies(make):
    space = make.smooth(3, weight_bits=[2, 4, 5], activation_bits=[8, 4]).space
    assert uniform_policies(space).tolist() == [[2, 2, 2, 4, 4, 4], [4] * 6, [5, 5, 5, 4, 4, 4], [5, 5, 5, 8, 8, 8]]
    pinned = SearchSpace.build(space.layers, weight_bits=[4], activation_bits=[4])
    with pytest.raises(ArgumentError, match="without genes"):
        uniform_policies(pinned)


@pytest.mark.parametrize("cost", COSTS)
@settings(FUZZ, max_examples=40)
@given(data=st.data())
def test_random_policies_are_within_their_limits_and_close(make, cost, data):
    table = data.draw(make.random())
    space = table.space
    column = COSTS.index(cost)
    low, high = cost_matrix(space.layers, space.decode(np.stack([space.lower, space.upper])))[:, column]
    n = data.draw(st.integers(2, 12))
    if low <= 0:
        with pytest.raises(ArgumentError, match="limits"):
            random_policies(space, n, 0, cost=cost)
        return
    X = random_policies(space, n, data.draw(st.integers(0, 99)), cost=cost)
    assert X.shape == (n, space.n_var)
    assert X.dtype == np.int64
    costs = cost_matrix(space.layers, space.decode(X))[:, column]
    assert (costs <= np.linspace(low, high, n)).all()
    assert costs[0] == low
    largest_move = 0.0
    for x in X:
        for j, gene in enumerate(space.genes):
            moved = np.repeat(x[None], len(gene.choices), axis=0)
            moved[:, j] = gene.choices
            steps = np.diff(cost_matrix(space.layers, space.decode(moved))[:, column])
            largest_move = max(largest_move, steps.max())
    assert (costs >= np.linspace(low, high, n) - largest_move - 1e-15).all()


def test_random_policies_spread_and_depend_on_the_seed(make):
    space = make.smooth(20).space
    X = random_policies(space, 50, 3)
    assert np.array_equal(X, random_policies(space, 50, 3))
    assert not np.array_equal(X, random_policies(space, 50, 4))
    low, high = cost_matrix(space.layers, space.decode(np.stack([space.lower, space.upper])))[:, 1]
    costs = cost_matrix(space.layers, space.decode(X))[:, 1]
    assert np.abs((costs - np.linspace(low, high, 50)) / (high - low)).max() < 0.05
    alone = cost_matrix(space.layers, space.decode(space.sample(50, np.random.default_rng(0))))[:, 1]
    assert costs.std() > 2 * alone.std()
    limits = [high / 3] * 4
    same = random_policies(space, 4, 0, limits=limits)
    assert len(np.unique(same, axis=0)) == 4
    assert (cost_matrix(space.layers, space.decode(same))[:, 1] <= high / 3).all()


def test_random_policies_bad_arguments(make):
    space = make.smooth(3).space
    with pytest.raises(ArgumentError, match="n: given 0"):
        random_policies(space, 0, 0)
    with pytest.raises(ArgumentError, match="seed: given -1"):
        random_policies(space, 2, -1)
    with pytest.raises(UnknownNameError, match="cost"):
        random_policies(space, 2, 0, cost="time")
    with pytest.raises(ArgumentError, match="latency: given no table"):
        random_policies(space, 2, 0, cost="latency")
    with pytest.raises(ArgumentError, match="one for each of n = 2"):
        random_policies(space, 2, 0, limits=[1e3])
    with pytest.raises(InfeasibleBudgetError, match=r"limits\[1\]: given 1e-09; the smallest reachable bops"):
        random_policies(space, 2, 0, limits=[1e3, 1e-9])


@pytest.mark.parametrize("by", ["curve", "cost", "difference"])
def test_spread(make, by):
    front = additive_front(make.smooth(10), cost="bops")
    for n in (2, 3, 17, len(front) - 1):
        rows = spread_rows(front, n, by=by)
        assert len(rows) == n
        assert rows[0] == 0
        assert rows[-1] == len(front) - 1
        assert (np.diff(rows) > 0).all()
    place = {"cost": front.costs, "difference": -np.log10(front.differences)}.get(by)
    if place is not None:
        even = np.linspace(place[0], place[-1], 9)
        found = place[spread_rows(front, 9, by=by)]
        assert np.abs(found - even).max() <= np.abs(place[:, None] - even).min(axis=0).max() + 1e-12
    assert np.array_equal(spread(front, 5, by=by), front.vectors(spread_rows(front, 5, by=by)))
    assert len(spread(front, 10**6, by=by)) == len(front)
    assert len(spread_rows(front, 1, by=by)) == 1


@settings(FUZZ, max_examples=80)
@given(data=st.data())
def test_spread_of_any_front(make, data):
    """Negative differences, fronts of one point and of points far apart."""
    front = additive_front(data.draw(make.random()), cost="bops")
    n = data.draw(st.integers(1, 9))
    for by in ("curve", "cost", "difference"):
        rows = spread_rows(front, n, by=by)
        assert len(np.unique(rows)) == len(rows) == min(n, len(front))
        if n > 1:
            assert {0, len(front) - 1} <= set(rows.tolist())


def test_spread_bad_arguments(make):
    front = additive_front(make.smooth(3), cost="bops")
    with pytest.raises(ArgumentError, match="n: given 0"):
        spread(front, 0)
    with pytest.raises(UnknownNameError, match="by: unknown name 'costs'; did you mean 'cost'"):
        spread(front, 3, by="costs")


def test_baselines_are_evaluated_plotted_and_seeds(make):
    """What each baseline gives goes into a problem, a front and an algorithm."""
    table = make.smooth(8)
    problem = make.problem(table)
    given = {
        "uniform": uniform_policies(table.space),
        "random": random_policies(table.space, 12, 0),
        "greedy": greedy_path(table, "bops"),
        "additive": spread(additive_front(table, cost="bops"), 20),
    }
    best = {}
    for name, X in given.items():
        front = ParetoFront.from_vectors(problem, X)
        assert 1 <= len(front) <= len(X)
        best[name] = min(point.difference for point in front if point.gbops <= front[-1].gbops / 2)
        algorithm = NSGA2(pop_size=10, sampling=X, crossover=UniformBitCrossover(), mutation=UniformBitMutation())
        result = minimize(problem, algorithm, ("n_eval", 60), seed=1)
        assert len(ParetoFront.from_result(result)) >= 1
    assert best["additive"] < best["random"]


def test_additive_front_is_no_worse_than_greedy(make):
    table = make.smooth(12, seed=2)
    for cost in COSTS:
        front = additive_front(table, cost=cost)
        path = greedy_path(table, cost)
        costs = cost_matrix(table.space.layers, table.space.decode(path))[:, COSTS.index(cost)]
        for x, c in zip(path, costs.tolist(), strict=True):
            assert table.predict(front.best(c))[0] <= table.predict(x)[0] * (1 + 1e-12)


def test_zero_cost_spaces_are_refused_by_limits_not_by_fronts():
    layers = [LayerInfo(name="l", kind="Linear", params=0, macs=0)]
    space = SearchSpace.build(layers, weight_bits=[2, 8], activation_bits=[8])
    with pytest.raises(ArgumentError, match=r"limits\[0\]: given 0"):
        random_policies(space, 2, 0)
