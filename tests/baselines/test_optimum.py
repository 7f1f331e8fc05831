"""The integer program against exhaustive enumeration and the additive front."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evoq_moo.baselines import additive_front, additive_optimum, budget_grid, optimum_sweep
from evoq_moo.costs import cost_matrix
from evoq_moo.errors import ArgumentError, InfeasibleBudgetError, UnknownNameError

FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@settings(FUZZ, max_examples=80)
@given(data=st.data())
def test_equals_exhaustive_enumeration(make, data):
    """Every combination of budgets, at the cost of a policy (which must fit) and anywhere."""
    table = data.draw(make.random(most=1000))
    X = np.array(list(table.space.enumerate()))
    costs = cost_matrix(table.space.layers, table.space.decode(X))
    differences = table.predict(X)
    row = costs[data.draw(st.integers(0, len(X) - 1))]
    share = data.draw(st.sampled_from([0.9, 1.0, 1.3]))
    limits = dict(zip(("size", "bops"), (row * share).tolist(), strict=True))
    names = data.draw(st.sampled_from([("size",), ("bops",), ("bops", "size")]))
    budgets = {name: limits[name] for name in names if limits[name] > 0}
    if not budgets:
        return
    within = np.ones(len(X), dtype=bool)
    for name, limit in budgets.items():
        within &= costs[:, ("size", "bops").index(name)] <= limit
    if not within.any():
        with pytest.raises(InfeasibleBudgetError, match="budgets"):
            additive_optimum(table, budgets=budgets)
        return
    x = additive_optimum(table, budgets=budgets)
    assert x.dtype == np.int64
    found = cost_matrix(table.space.layers, table.space.decode(x))[0]
    for name, limit in budgets.items():
        assert found[("size", "bops").index(name)] <= limit
    assert table.predict(x)[0] == differences[within].min()


@pytest.mark.parametrize(("cost", "name"), [("size", "size"), ("bops", "bops")])
def test_equals_the_front_at_random_budgets(make, cost, name):
    table = make.smooth(25, seed=3)
    front = additive_front(table, cost=cost)
    random_state = np.random.default_rng(4)
    for limit in random_state.uniform(front.costs[0], front.costs[-1], size=12).tolist():
        found = additive_optimum(table, budgets={name: limit})
        best = front.best(limit)
        assert table.predict(found)[0] == pytest.approx(table.predict(best)[0], rel=1e-9)


def test_sweep_follows_a_grid(make):
    table = make.smooth(6)
    grid = budget_grid(table.space, cost="bops", n=5)
    X = optimum_sweep(table, budgets=grid, progress=False)
    front = additive_front(table, cost="bops")
    assert [budget["bops"] for budget in grid] == np.linspace(front.costs[0], front.costs[-1], 5).tolist()
    assert np.array_equal(X[0], table.space.lower)
    for x, budget in zip(X, grid, strict=True):
        assert table.predict(x)[0] == pytest.approx(table.predict(front.best(budget["bops"]))[0], rel=1e-9)
    assert optimum_sweep(table, budgets=[]).shape[0] == 0


def test_infeasible_budgets(make):
    table = make.smooth(4)
    size, gbops = cost_matrix(table.space.layers, table.space.decode(table.space.lower))[0]
    with pytest.raises(InfeasibleBudgetError, match=rf"budgets\['size'\].*smallest reachable is {size:.6g}"):
        additive_optimum(table, budgets={"size": size * 0.99})
    with pytest.raises(InfeasibleBudgetError, match=rf"budgets\['bops'\].*smallest reachable is {gbops:.6g}"):
        additive_optimum(table, budgets={"size": 1e6, "bops": gbops * 0.5})


@pytest.mark.parametrize(
    ("budgets", "error", "message"),
    [
        ({}, ArgumentError, "budgets: given {}"),
        ({"bops": -1}, ArgumentError, r"budgets\['bops'\]: given -1"),
        ({"bop": 1.0}, UnknownNameError, "did you mean 'bops'"),
        ({"bops": 1.0, "gbops": 2.0}, ArgumentError, "one limit of bops"),
        ({"difference": 1.0}, UnknownNameError, "difference"),
        (3.0, ArgumentError, "budgets: given 3.0"),
    ],
)
def test_bad_budgets(make, budgets, error, message):
    with pytest.raises(error, match=message):
        additive_optimum(make.smooth(2), budgets=budgets)


def test_bad_time_limit(make):
    with pytest.raises(ArgumentError, match="time_limit: given 0"):
        additive_optimum(make.smooth(2), budgets={"bops": 1e3}, time_limit=0)


def test_bad_grid(make):
    with pytest.raises(ArgumentError, match="n: given 0"):
        budget_grid(make.smooth(2).space, cost="bops", n=0)
