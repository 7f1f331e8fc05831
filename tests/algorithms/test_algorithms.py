"""Our algorithms and the one-call search, on a network small enough to try every policy."""

import numpy as np
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2

import evoq_moo as evoq
from evoq_moo.algorithms import default_algorithm
from evoq_moo.errors import ArgumentError, InfeasibleBudgetError
from evoq_moo.problems import MixedPrecisionProblem


@pytest.fixture
def network(tiny_model, tiny_samples):
    return evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False)


@pytest.fixture
def three_layers(tiny_model, tiny_samples):
    """Three searched layers of three bit-widths each: 729 policies."""
    names = evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False).space.layer_names
    return evoq.QuantizedNetwork(
        tiny_model, tiny_samples, weight_bits=[2, 4, 8], activation_bits=[2, 4, 8], pinned=names[3:], progress=False
    )


def test_the_search_finds_the_true_front_of_three_layers(three_layers):
    assert three_layers.space.cardinality == 729
    with evoq.EvaluationStore(":memory:") as store:
        problem = MixedPrecisionProblem(three_layers, store=store)
        every = np.array(list(three_layers.space.enumerate()))
        true = evoq.ParetoFront.from_vectors(problem, every)
        found = evoq.search(three_layers, evaluations=600, seed=1, store=store, progress=False).front
    values = [{(point.difference, point.gbops) for point in front} for front in (true, found)]
    assert len(values[1]) < len(every)
    assert values[0] == values[1]


def test_evoq_ga_finds_the_best_policy_within_a_budget(three_layers):
    budget = {"bops": evoq.uniform_budget(three_layers, 4)["bops"]}
    run = evoq.search(three_layers, objectives=["difference"], budgets=budget, evaluations=400, seed=2, progress=False)
    problem = MixedPrecisionProblem(three_layers)
    values = problem.values(np.array(list(three_layers.space.enumerate())), all_values=True)
    best = values["difference"][values["bops"] <= budget["bops"]].min()
    assert [point.difference for point in run.front] == [best]
    assert run.front[0].gbops <= budget["bops"]


def test_search_is_the_same_as_its_parts_and_resumes(network, tmp_path):
    run = evoq.search(network, evaluations=80, pop_size=12, seed=4, store=tmp_path / "s.sqlite", progress=False)
    problem = MixedPrecisionProblem(network)
    table = evoq.measure_sensitivity(network, evaluator=problem.evaluator, method="sparse", progress=False)
    parts = evoq.run_search(problem, evoq.SurrogateSearch(table, pop_size=12), evaluations=80, seed=4, progress=False)
    assert run.front.points == parts.front.expecting(network, progress=False).points
    before = problem.evaluator.computed
    again = evoq.search(network, evaluations=80, pop_size=12, seed=4, store=tmp_path / "s.sqlite", progress=False)
    assert again.front.points == run.front.points
    assert before > 0


def test_a_store_given_open_stays_open(network):
    with evoq.EvaluationStore(":memory:") as store:
        evoq.search(network, evaluations=20, pop_size=10, store=store, progress=False)
        assert store.count() > 20


def test_the_default_depends_on_the_objectives(network):
    problem = MixedPrecisionProblem(network, objectives=["difference"], budgets={"bops": 1.0})
    table = evoq.measure_sensitivity(network, progress=False)
    assert isinstance(default_algorithm(problem, table), evoq.EvoQGA)
    for objectives in (("bops", "difference"), ("difference", "size", "bops")):
        problem = MixedPrecisionProblem(network, objectives=objectives)
        assert isinstance(default_algorithm(problem, table), evoq.SurrogateSearch)
    assert isinstance(default_algorithm(MixedPrecisionProblem(network, objectives=["size", "bops"]), table), NSGA2)


def test_uniform_budget_is_the_cost_of_the_uniform_policy(network):
    cost = network.cost(network.uniform(5))
    assert evoq.uniform_budget(network, 5) == {"size": cost.size_mib, "bops": cost.gbops}


def test_bad_input_is_named_before_any_work(network):
    for options, match in (
        ({"evaluations": 0}, "evaluations"),
        ({"pop_size": 1}, "pop_size"),
        ({"seed": -1}, "seed"),
        ({"objectives": "bops"}, "objectives"),
    ):
        with pytest.raises(ArgumentError, match=match):
            evoq.search(network, **options)
    with pytest.raises(InfeasibleBudgetError, match="smallest reachable"):
        evoq.search(network, budgets={"bops": 1e-9})
    table = evoq.measure_sensitivity(network, progress=False)
    with pytest.raises(ArgumentError, match="EvoQGA takes one"):
        evoq.run_search(MixedPrecisionProblem(network), evoq.EvoQGA(table), evaluations=20, progress=False)
