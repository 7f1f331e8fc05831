"""The (1 + lambda) level switch: budgets are kept, the incumbent never gets worse, seeds decide."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import evoq_moo as evoq
from evoq_moo.algorithms._switch import costly_genes, switch_levels, uniform_start
from evoq_moo.algorithms.level_switch import LevelSwitch
from evoq_moo.baselines import additive_front
from evoq_moo.baselines._budgets import exact_limits
from evoq_moo.costs import BitOperations, as_cost, cost_matrix, gene_tables
from evoq_moo.errors import ArgumentError, InfeasibleBudgetError
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.testing.testing import check_algorithm

COSTS = ("size", "bops")

FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.mark.parametrize("cost", COSTS)
@settings(FUZZ, max_examples=60)
@given(data=st.data())
def test_mutation_stays_within_the_limit(make, cost, data):
    space = data.draw(make.random()).space
    tables = gene_tables(space)
    X = np.array(list(space.enumerate()))
    cost = as_cost(cost)
    costs = cost.count(space.layers, space.decode(X))
    limit = int(data.draw(st.sampled_from(sorted(set(costs.tolist())))))
    random_state = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = uniform_start(tables, cost, limit)
    for _ in range(8):
        x = switch_levels(
            tables, x, cost=cost, limit=limit, costly=costly_genes(tables, cost), random_state=random_state
        )
        assert cost.count(space.layers, space.decode(x))[0] <= limit


def test_start_is_the_widest_uniform_policy(make):
    space = make.smooth(6).space
    tables = gene_tables(space)
    for bits in (2, 5, 8):
        x = space.uniform(bits)
        count = int(BitOperations().count(space.layers, space.decode(x))[0])
        assert np.array_equal(uniform_start(tables, BitOperations(), count), x)
        assert np.array_equal(uniform_start(tables, BitOperations(), count + 1), x)


def run(problem, algorithm, evaluations, seed=0):
    """Run an algorithm and return every generation's vectors and the incumbents after it."""
    algorithm.setup(problem, termination=("n_eval", evaluations), seed=seed)
    asked, incumbents = [], []
    while algorithm.has_next():
        children = algorithm.ask()
        algorithm.evaluator.eval(problem, children)
        algorithm.tell(infills=children)
        asked.append(children.get("X").copy())
        incumbents.append((algorithm.pop.get("X").copy(), algorithm.pop.get("F")[:, 0].copy()))
    return asked, incumbents


@pytest.mark.parametrize(("cost", "column"), [("size", 0), ("bops", 1)])
def test_never_above_a_limit_and_never_worse(make, cost, column):
    problem = make.problem(make.smooth(8))
    space = problem.space
    low, high = cost_matrix(space.layers, space.decode(np.stack([space.lower, space.upper])))[:, column]
    limits = np.linspace(low, high, 4)[1:]
    asked, incumbents = run(problem, LevelSwitch(cost=cost, limits=limits, offspring=6), 300)
    assert (cost_matrix(space.layers, space.decode(asked[0]))[:, column] <= limits).all()
    for X, _ in incumbents:
        assert (cost_matrix(space.layers, space.decode(X))[:, column] <= limits).all()
    for children in asked:
        assert (cost_matrix(space.layers, space.decode(children))[:, column] <= limits[-1]).all()
    differences = np.array([F for _, F in incumbents])
    assert (np.diff(differences, axis=0) <= 0).all()
    assert (differences[-1] < differences[0])[:-1].all()
    everything = np.concatenate(asked)
    assert len(np.unique(everything, axis=0)) == len(everything)


def test_goes_on_where_nothing_new_is_left(make):
    """A space of eight policies: the search ends by its termination, asking for known ones."""
    table = make.smooth(3, weight_bits=[2, 8], activation_bits=[8])
    problem = make.problem(table)
    asked, incumbents = run(problem, LevelSwitch(cost="size", limits=budgets_of(table.space), offspring=4), 60)
    assert sum(map(len, asked)) >= 60
    assert len(np.unique(np.concatenate(asked), axis=0)) <= 8
    X, limits = incumbents[-1][0], budgets_of(table.space)
    assert (cost_matrix(table.space.layers, table.space.decode(X))[:, 0] <= limits).all()


def budgets_of(space):
    return np.unique(cost_matrix(space.layers, space.decode(np.array(list(space.enumerate()))))[:, 0])[[1, 3]]


def test_every_limit_has_the_best_policy_asked_for_within_it(make):
    problem = make.problem(make.smooth(8))
    space = problem.space
    limits = np.array([cost_of_uniform(space, b) for b in (3, 4, 6)])
    asked, incumbents = run(problem, LevelSwitch(cost="bops", limits=limits), 150)
    values = problem.values(np.concatenate(asked))
    for limit, difference in zip(limits, incumbents[-1][1], strict=True):
        assert difference == values["difference"][values["bops"] <= limit].min()


def test_finds_the_optimum_of_a_small_space(make):
    table = make.smooth(3, weight_bits=[2, 4, 8], activation_bits=[4, 8])
    problem = make.problem(table)
    X = np.array(list(table.space.enumerate()))
    values = problem.values(X)
    limit = float(np.median(values["bops"]))
    best = values["difference"][values["bops"] <= limit].min()
    _, incumbents = run(problem, LevelSwitch(cost="bops", limits=[limit]), 200)
    assert incumbents[-1][1][0] == best


def test_conformance(make):
    table = make.smooth(12)
    check_algorithm(
        lambda: make.problem(table),
        lambda: LevelSwitch(cost="bops", limits=np.linspace(1, 3, 3) * cost_of_uniform(table.space, 3)),
        n_eval=90,
    )
    check_algorithm(
        lambda: make.problem(table, objectives=("difference",), bops=cost_of_uniform(table.space, 4)),
        lambda: LevelSwitch(offspring=4),
        n_eval=40,
    )


def cost_of_uniform(space, bits):
    return float(cost_matrix(space.layers, space.decode(space.uniform(bits)))[0, 1])


def test_starts_from_given_policies(make):
    table = make.smooth(8)
    problem = make.problem(table)
    front = additive_front(table, cost="bops")
    limits = np.linspace(front.costs[0], front.costs[-1], 4)[1:-1]
    start = np.stack([front.best(limit) for limit in limits.tolist()])
    asked, incumbents = run(problem, LevelSwitch(cost="bops", limits=limits, start=start), 100)
    assert np.array_equal(asked[0], start)
    assert (incumbents[-1][1] <= problem.values(start)["difference"]).all()
    with pytest.raises(InfeasibleBudgetError, match=r"start: vector 1 is above its limit"):
        LevelSwitch(cost="bops", limits=limits[::-1].copy(), start=start[::-1][[1, 0]]).setup(problem)
    with pytest.raises(ArgumentError, match="start: given 1 vectors"):
        LevelSwitch(cost="bops", limits=limits, start=start[0]).setup(problem)


def test_another_budget_of_the_problem_counts_first(make):
    """A policy within the problem's own budgets beats one that isn't, whatever their differences."""
    table = make.smooth(8)
    space = table.space
    size = float(cost_matrix(space.layers, space.decode(space.uniform(4)))[0, 0])
    problem = make.problem(table, size=size)
    algorithm = LevelSwitch(cost="bops", limits=[cost_of_uniform(space, 6)])
    run(problem, algorithm, 400)
    assert algorithm.pop.get("CV")[0] == 0


def test_bad_arguments(make):
    table = make.smooth(4)
    problem = make.problem(table)
    with pytest.raises(ArgumentError, match="cost, limits: given 'bops' and None"):
        LevelSwitch(cost="bops")
    with pytest.raises(ArgumentError, match="offspring: given 0"):
        LevelSwitch(offspring=0)
    with pytest.raises(ArgumentError, match="limits: given none, and the problem has the budgets {}"):
        LevelSwitch().setup(problem)
    with pytest.raises(ArgumentError, match="objectives"):
        LevelSwitch(cost="bops", limits=[1e6]).setup(make.problem(table, objectives=("bops",)))
    with pytest.raises(InfeasibleBudgetError, match=r"limits\[0\]"):
        LevelSwitch(cost="bops", limits=[1e-12]).setup(problem)
    with pytest.raises(ArgumentError, match="cost, limits: given None and None"):
        LevelSwitch(sweep=3)
    assert exact_limits(table.space, BitOperations(), [1e6]).tolist() == [10**15]


def test_search_on_a_network(tiny_model, tiny_samples):
    """Through `run_search`: evaluations are counted, the sweep gives a front, and a budget is met."""
    network = evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False)
    problem = MixedPrecisionProblem(network)

    def search() -> evoq.SearchRun:
        algorithm = LevelSwitch(cost="bops", sweep=4, offspring=5)
        return evoq.run_search(problem, algorithm, evaluations=60, seed=1, progress=False)

    found, again = search(), search()
    assert np.array_equal(found.vectors, again.vectors)
    assert found.trace[0].evaluations == 4
    assert 60 <= found.trace[-1].evaluations < 65
    assert len(found.front) >= 4
    limit = network.cost(network.uniform(4)).gbops
    single = MixedPrecisionProblem(network, objectives=("difference",), budgets={"bops": limit})
    best = evoq.run_search(single, LevelSwitch(), evaluations=40, progress=False).front
    assert len(best) == 1
    assert best[0].gbops <= limit
    assert best[0].difference <= network.evaluate(network.uniform(4)).difference
