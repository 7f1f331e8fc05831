import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoq_moo.baselines import additive_front, additive_optimum, greedy_path
from evoq_moo.costs import cost_matrix
from evoq_moo.errors import ArgumentError, UnknownNameError
from evoq_moo.operators import SensitivitySampling
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.testing.testing import check_sampling

COSTS = ("size", "bops")

SPACES = [
    {},
    {"tied": True},
    {"weight_bits": [2, 4, 8]},
    {"activation_bits": [8]},
    {"weight_bits": [2, 3, 8, 16, 32], "pinned": {"layer0": 8}},
]


def sample(operator, problem, n, seed=0):
    return operator(problem, n, random_state=np.random.default_rng(seed), to_numpy=True)


# --- greedy path


@settings(max_examples=40, deadline=None)
@given(options=st.sampled_from(SPACES), seed=st.integers(0, 2**32 - 1), cost=st.sampled_from(COSTS))
def test_path_takes_the_best_step_each_time(toys_module, options, seed, cost):
    space = toys_module.space(3, seed=seed, **options)
    bits = sorted({b for g in space.genes for b in g.choices})
    rng = np.random.default_rng(seed)
    allowed = np.array([[b in g.choices for b in bits] for g in space.genes])
    values = np.where(allowed, rng.normal(size=allowed.shape), np.nan)
    table = SensitivityTable(space=space, bits=tuple(bits), values=values, metric="noise")
    path = greedy_path(table, cost)
    assert path.dtype == np.int64
    assert path.shape == (1 + sum(len(g.choices) - 1 for g in space.genes), space.n_var)
    assert (path[0] == space.upper).all()
    assert (path[-1] == space.lower).all()
    predicted = table.predict(path)
    spent = cost_matrix(space.layers, space.decode(path))[:, COSTS.index(cost)]
    for step, (x, y) in enumerate(itertools.pairwise(path)):
        steps = []
        for j, gene in enumerate(space.genes):
            at = gene.choices.index(x[j])
            if at:
                moved = x.copy()
                moved[j] = gene.choices[at - 1]
                added = table.predict(moved)[0] - predicted[step]
                saved = spent[step] - cost_matrix(space.layers, space.decode(moved))[0, COSTS.index(cost)]
                steps.append((saved == 0, added / (saved or 1), moved))
        best = min(steps, key=lambda s: s[:2])
        taken = next(s for s in steps if (s[2] == y).all())
        assert taken[0] == best[0]
        assert taken[1] == pytest.approx(best[1], rel=1e-6, abs=1e-9)


def test_path_is_exact_on_convex_tables_with_size(toys):
    problem = toys.problem(toys.space(3, weight_bits=[2, 3, 4, 8], activation_bits=[8]))
    table = problem.sensitivity()
    everything = np.array(list(problem.space.enumerate()))
    size = cost_matrix(problem.space.layers, problem.space.decode(everything))[:, 0]
    predicted = table.predict(everything)
    for x in greedy_path(table, "size"):
        mine = cost_matrix(problem.space.layers, problem.space.decode(x))[0, 0]
        assert table.predict(x)[0] <= predicted[size <= mine].min() * (1 + 1e-12)


def test_path_of_200_genes_is_fast(toys):
    table = toys.problem(toys.space(100)).sensitivity()
    for cost in COSTS:
        start = time.process_time()  # other processes don't count
        assert len(greedy_path(table, cost)) == 1201
        assert time.process_time() - start < 2


def test_path_refuses(toys):
    table = toys.problem(toys.space(1)).sensitivity()
    with pytest.raises(UnknownNameError, match="size"):
        greedy_path(table, "sise")
    with pytest.raises(ArgumentError, match="SensitivityTable"):
        greedy_path(np.zeros((2, 7)), "bops")


# --- sampling


@pytest.mark.parametrize("options", SPACES)
@pytest.mark.parametrize("mix", [None, {"diagonal": 1}, {"random": 1}, {"diagonal": 0.5, "random": 0.5}])
def test_conforms(toys, options, mix):
    problem = toys.problem(toys.space(10, **options))
    check_sampling(SensitivitySampling(problem.sensitivity(), mix=mix), problem)
    check_sampling(SensitivitySampling(problem.sensitivity(), mix={"greedy": 1}), problem, deterministic=True)


@settings(max_examples=40, deadline=None)
@given(
    options=st.sampled_from(SPACES),
    n=st.integers(1, 120),
    shares=st.tuples(*[st.sampled_from([0.0, 0.3, 1.0, 7.0])] * 4).filter(any),
    cost=st.sampled_from([None, *COSTS]),
    seed=st.integers(0, 1000),
)
def test_distinct_with_both_ends(toys_module, options, n, shares, cost, seed):
    problem = toys_module.problem(toys_module.space(5, **options))
    mix = dict(zip(("additive", "greedy", "diagonal", "random"), shares, strict=True))
    X = sample(SensitivitySampling(problem.sensitivity(), mix=mix, cost=cost), problem, n, seed)
    assert X.dtype == np.int64
    assert X.shape == (n, problem.n_var)
    assert len(np.unique(X, axis=0)) == n
    assert (X[0] == problem.space.upper).all()
    if n > 1:
        assert (X[1] == problem.space.lower).all()
    problem.space.check(X)


@pytest.mark.parametrize("n", [1, 5, 8, 9, 20])
def test_tiny_spaces_are_exhausted(toys, n):
    problem = toys.problem(toys.space(3, weight_bits=[2, 8], activation_bits=[8]))  # 8 policies
    X = sample(SensitivitySampling(problem.sensitivity()), problem, n)
    assert X.shape == (n, 3)
    assert len(np.unique(X, axis=0)) == min(n, 8)


def test_shares(toys):
    problem = toys.problem(toys.space(20))
    path = {x.tobytes() for x in greedy_path(problem.sensitivity(), "bops")}
    X = sample(SensitivitySampling(problem.sensitivity(), mix={"greedy": 8, "diagonal": 1, "random": 1}), problem, 40)
    assert 30 <= sum(x.tobytes() in path for x in X) <= 33
    X = sample(SensitivitySampling(problem.sensitivity(), mix={"diagonal": 1}), problem, 40)
    constant = [x for x in X if len(set(x.tolist())) == 1]
    assert len(constant) == 7  # each bit-width once; the others are jittered by one choice
    # the last two are random: the exact 8 and 2 bits are the widest and the narrowest policy, which are there already
    assert (np.abs(X[:38] - np.median(X[:38], axis=1, keepdims=True)) <= 1).all()
    X = sample(SensitivitySampling(problem.sensitivity(), mix={"diagonal": 1, "random": 8}), problem, 36)
    assert sorted(x[0] for x in X if len(set(x.tolist())) == 1) == [2, 4, 6, 8]  # four, spread over the bit-widths


@pytest.mark.parametrize("cost", COSTS)
def test_most_points_are_of_the_additive_front(toys, cost):
    problem = toys.problem(toys.space(12))
    table = problem.sensitivity()
    X = sample(SensitivitySampling(table, cost=cost), problem, 40)
    costs = cost_matrix(problem.space.layers, problem.space.decode(X))[:, COSTS.index(cost)]
    front = additive_front(table, cost=cost, progress=False)
    exact = [table.predict(front.best(limit)[None])[0] for limit in costs]
    near = table.predict(X) <= np.array(exact) * 1.02  # the sampling's costs count in steps
    assert 30 <= near.sum() <= 36


def test_one_objective_starts_just_within_the_budget(toys):
    problem = toys.problem(toys.space(12), objectives=("difference",))
    low, high = cost_matrix(
        problem.space.layers, problem.space.decode(np.stack([problem.space.lower, problem.space.upper]))
    )[:, 1]
    problem.budgets = {"bops": (low + high) / 2}
    X = sample(SensitivitySampling(problem.sensitivity(), mix={"additive": 1}), problem, 30)
    bops = cost_matrix(problem.space.layers, problem.space.decode(X))[2:30, 1]  # the ends come first
    assert (bops <= problem.budgets["bops"]).all()
    assert bops.min() > 0.9 * problem.budgets["bops"]


def test_one_objective_with_both_budgets_starts_at_the_optimum_within_both(toys):
    """It once started along the front of each cost alone, where nearly all policies broke the other cost's budget."""
    problem = toys.problem(toys.space(12), objectives=("difference",))
    table = problem.sensitivity()
    costs = cost_matrix(problem.space.layers, problem.space.decode(problem.space.uniform(4)[None]))[0]
    problem.budgets = {"size": costs[0], "bops": costs[1], "difference": 1.0}
    X = sample(SensitivitySampling(table), problem, 40)
    assert X[2].tolist() == additive_optimum(table, budgets={"size": costs[0], "bops": costs[1]}).tolist()
    within = (cost_matrix(problem.space.layers, problem.space.decode(X))[:, :2] <= costs).all(axis=1)
    assert within[2:12].all()
    problem.budgets = {"size": 1.001 * costs[0] / 2, "bops": 1.001 * costs[1] / 4}  # a hair above the narrowest
    assert len(sample(SensitivitySampling(table), problem, 40)) == 40


def test_two_costs_split_the_greedy_points(toys):
    problem = toys.problem(toys.space(20), objectives=("difference", "size", "bops"))
    table = problem.sensitivity()
    paths = [{x.tobytes() for x in greedy_path(table, cost)[1:-1]} for cost in COSTS]
    X = sample(SensitivitySampling(table, mix={"greedy": 1}), problem, 40)
    assert all(17 <= sum(x.tobytes() in path for x in X) <= 21 for path in paths)
    only = sample(SensitivitySampling(table, mix={"greedy": 1}, cost="size"), problem, 40)
    assert sum(x.tobytes() in paths[0] for x in only) >= 37


def test_refuses(toys):
    problem = toys.problem(toys.space(2))
    table = problem.sensitivity()
    for mix, match in (
        ({}, "above 0"),
        ({"greedy": 0}, "above 0"),
        ({"greed": 1}, "'greedy'"),
        ({"random": -1}, "random"),
    ):
        with pytest.raises(ArgumentError, match=match):
            SensitivitySampling(table, mix=mix)
    with pytest.raises(UnknownNameError, match="cost"):
        SensitivitySampling(table, cost="bop")
    with pytest.raises(ArgumentError, match="genes"):
        sample(SensitivitySampling(table), toys.problem(toys.space(3)), 5)
