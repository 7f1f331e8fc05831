"""The additive front against exhaustive enumeration."""

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evoq_moo.baselines import additive_front
from evoq_moo.baselines._merge import _by_sorting, _by_table, merge
from evoq_moo.costs import BitOperations, Size, cost_matrix
from evoq_moo.errors import ArgumentError, InfeasibleBudgetError, UnknownNameError
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import LayerInfo, SearchSpace

COSTS = ("size", "bops")

EXACT = {"size": Size().count, "bops": BitOperations().count}
FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def every_policy(table, cost):
    """Return all vectors, their exact costs and their exact differences."""
    X = np.array(list(table.space.enumerate()))
    return X, EXACT[cost](table.space.layers, table.space.decode(X)), table.predict(X)


def enumerated_front(table, cost):
    """Return the (cost, difference) pairs that no policy dominates, by comparing all of them."""
    _, costs, differences = every_policy(table, cost)
    best = {}
    for c, d in zip(costs.tolist(), differences.tolist(), strict=True):
        best[c] = min(d, best.get(c, np.inf))
    front, smallest = [], np.inf
    for c in sorted(best):
        if best[c] < smallest:
            smallest = best[c]
            front.append((c, smallest))
    return front


@pytest.mark.parametrize("cost", COSTS)
@settings(FUZZ, max_examples=100)
@given(data=st.data())
def test_equals_exhaustive_enumeration(make, cost, data):
    table = data.draw(make.random())
    front = additive_front(table, cost=cost)
    found = list(zip(front.integer_costs.tolist(), front.differences.tolist(), strict=True))
    assert found == enumerated_front(table, cost)
    assert front.exact

    X = front.vectors()
    assert X.dtype == np.int64
    bits = table.space.decode(X)
    assert np.array_equal(EXACT[cost](table.space.layers, bits), front.integer_costs)
    assert np.array_equal(cost_matrix(table.space.layers, bits)[:, COSTS.index(cost)], front.costs)
    assert np.array_equal(table.predict(X), front.differences)


@pytest.mark.parametrize("cost", COSTS)
@settings(FUZZ, max_examples=60)
@given(data=st.data())
def test_resolution_keeps_its_bound(make, cost, data):
    table = data.draw(make.random())
    _, costs, differences = every_policy(table, cost)
    unit = {"size": 8 * 2**20, "bops": 1e9}[cost]
    resolution = data.draw(st.sampled_from([0.3, 1, 2.5, 40, 1000])) / unit
    front = additive_front(table, cost=cost, resolution=resolution)
    layers_with_genes = len({gene.layer for gene in table.space.genes})
    assert front.error_bound == layers_with_genes * resolution
    assert not front.exact
    assert (np.diff(front.integer_costs) > 0).all()
    assert (np.diff(front.differences) < 0).all()
    assert np.array_equal(table.predict(front.vectors()), front.differences)
    assert np.array_equal(EXACT[cost](table.space.layers, table.space.decode(front.vectors())), front.integer_costs)
    allowance = front.error_bound * unit * (1 + 1e-12)
    for c, d in zip(costs, differences, strict=True):
        assert ((front.integer_costs <= c + allowance) & (front.differences <= d)).any()


def test_resolution_needs_fewer_states(make):
    table = make.smooth(12)
    exact = additive_front(table, cost="bops")
    coarse = additive_front(table, cost="bops", resolution=(exact.costs[-1] - exact.costs[0]) / 2000)
    assert len(coarse) < len(exact)
    rows = np.searchsorted(coarse.costs, exact.costs + coarse.error_bound, side="right") - 1
    assert (coarse.differences[rows] <= exact.differences).all()


@settings(FUZZ, max_examples=100)
@given(data=st.data())
def test_both_merges_agree(data):
    steps = st.lists(st.integers(1, 9), min_size=1, max_size=30)
    costs = np.cumsum(data.draw(steps)).astype(np.int64)
    falls = data.draw(st.lists(st.integers(1, 9), min_size=len(costs), max_size=len(costs)))
    differences = -np.cumsum(falls).astype(np.int64)
    pairs = data.draw(st.lists(st.tuples(st.integers(0, 30), st.integers(-20, 20)), min_size=1, max_size=9))
    option_costs, option_differences = np.array(pairs, dtype=np.int64).T
    option_costs = option_costs - option_costs.min()
    by_table = _by_table(costs, differences, option_costs, option_differences)
    by_sorting = _by_sorting(costs, differences, option_costs, option_differences)
    for one, other in zip(by_table, by_sorting, strict=True):
        assert np.array_equal(one, other)
    new_costs, new_differences, option, parent = merge(costs, differences, option_costs, option_differences)
    assert np.array_equal(costs[parent] + option_costs[option], new_costs)
    assert np.array_equal(differences[parent] + option_differences[option], new_differences)


def test_costs_with_a_wide_range():
    """Prime sizes: the table over costs is useless, the sorted merge must do."""
    rng = np.random.default_rng(5)
    primes = [1_000_003, 15_485_863, 32_452_843, 472_882_027, 982_451_653, 179_424_673]
    layers = [LayerInfo(name=f"l{i}", kind="Linear", params=p, macs=p) for i, p in enumerate(primes)]
    space = SearchSpace.build(layers, weight_bits=[2, 3, 5, 8], activation_bits=[8])
    table = SensitivityTable(
        space=space, bits=(2, 3, 5, 8), values=rng.integers(0, 2**20, size=(6, 4)) / 2**20, metric="toy"
    )
    front = additive_front(table, cost="bops")
    pairs = list(zip(front.integer_costs.tolist(), front.differences.tolist(), strict=True))
    assert pairs == enumerated_front(table, "bops")


def test_best_is_the_best_within_a_limit(make):
    table = make.smooth(3, weight_bits=[2, 4, 5, 8], activation_bits=[4, 8])
    front = additive_front(table, cost="size")
    X = np.array(list(table.space.enumerate()))
    sizes = cost_matrix(table.space.layers, table.space.decode(X))[:, 0]
    differences = table.predict(X)
    for limit in [*front.costs.tolist(), *np.linspace(front.costs[0], 2 * front.costs[-1], 17).tolist()]:
        x = front.best(float(limit))
        assert cost_matrix(table.space.layers, table.space.decode(x))[0, 0] <= limit
        assert table.predict(x)[0] == pytest.approx(differences[sizes <= limit].min(), rel=1e-12)
    with pytest.raises(InfeasibleBudgetError, match="the smallest size is"):
        front.best(float(np.nextafter(front.costs[0], 0)))
    with pytest.raises(ArgumentError, match="limit: given -1"):
        front.best(-1)


def test_equal_options_keep_the_widest():
    space = SearchSpace.build(
        [LayerInfo(name="l", kind="Linear", params=8, macs=8)], weight_bits=[4], activation_bits=[2, 4, 8]
    )
    table = SensitivityTable(space=space, bits=(2, 4, 8), values=np.zeros((1, 3)), metric="toy")
    assert additive_front(table, cost="size").vectors().tolist() == [[8]]
    assert additive_front(table, cost="bops").vectors().tolist() == [[2]]


def test_rows_and_pickle(make):
    front = additive_front(make.smooth(6), cost="bops")
    X = front.vectors()
    assert np.array_equal(front.vectors([3, 0, 3]), X[[3, 0, 3]])
    assert np.array_equal(front.vectors(-1), X[-1:])
    copied = pickle.loads(pickle.dumps(front))
    assert np.array_equal(copied.vectors(), X)
    assert len(copied) == len(front)


def test_too_many_states_is_an_error(make):
    table = make.smooth(8)
    needed = sum(len(stage.option) for stage in additive_front(table, cost="bops")._stages)
    assert additive_front(table, cost="bops", max_states=needed).exact
    with pytest.raises(ArgumentError, match=rf"max_states: given {needed - 1}; .*give resolution="):
        additive_front(table, cost="bops", max_states=needed - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cost": "bops", "resolution": 0}, "resolution: given 0"),
        ({"cost": "bops", "resolution": float("nan")}, "resolution: given nan"),
        ({"cost": "bops", "max_states": 0}, "max_states: given 0"),
    ],
)
def test_bad_arguments(make, options, message):
    with pytest.raises(ArgumentError, match=message):
        additive_front(make.smooth(2), **options)


def test_bad_cost_and_table(make):
    with pytest.raises(UnknownNameError, match="did you mean 'bops'"):
        additive_front(make.smooth(2), cost="bop")
    with pytest.raises(ArgumentError, match="sensitivity: given str"):
        additive_front("table", cost="bops")
    table = make.smooth(2)
    huge = SensitivityTable(space=table.space, bits=table.bits, values=np.full_like(table.values, 1e308), metric="toy")
    with pytest.raises(ArgumentError, match="sensitivity: holds a difference of 1e\\+308"):
        additive_front(huge, cost="bops")
