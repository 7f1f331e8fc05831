"""The default search: reproducible, interruptible, within budgets, fair in what it counts."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import evoq_moo as evoq
from evoq_moo.algorithms import supports
from evoq_moo.baselines import greedy_path, spread
from evoq_moo.costs import as_cost
from evoq_moo.errors import ArgumentError
from evoq_moo.evaluation import Evaluator
from evoq_moo.operators.sampling import table_front
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.testing.testing import check_algorithm


@pytest.fixture
def network(tiny_model, tiny_samples):
    return evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False)


@pytest.fixture
def sensitivity(network):
    return evoq.measure_sensitivity(network, method="sparse", progress=False)


def search(problem, sensitivity, *, evaluations=60, seed=1, **options):
    algorithm = evoq.SurrogateSearch(sensitivity, pop_size=5, batch=3, **options)
    return evoq.run_search(problem, algorithm, evaluations=evaluations, seed=seed, progress=False)


@pytest.mark.parametrize("objectives", [("difference", "size", "bops"), ("size", "difference")])
def test_depends_on_the_seed_only(network, sensitivity, objectives):
    check_algorithm(
        lambda: MixedPrecisionProblem(network, objectives=objectives),
        lambda: evoq.SurrogateSearch(sensitivity, pop_size=4, batch=2),
        n_eval=24,
    )


def test_candidates_go_several_changes_deep():
    """One round changes at most four genes, so a policy that differs in more from all before it took several."""
    network = evoq.Recipe(model="digits", count=20)(threads=1)
    sensitivity = evoq.measure_sensitivity(network, method="sparse", progress=False)
    X = search(MixedPrecisionProblem(network), sensitivity).vectors
    assert max((X[:i] != X[i]).sum(axis=1).min() for i in range(10, len(X))) > 4


def test_the_front_is_never_behind_the_lookups_it_starts_from(network, sensitivity):
    problem = MixedPrecisionProblem(network)
    run = search(problem, sensitivity)
    path = greedy_path(sensitivity, "bops")
    rows = np.unique(np.linspace(0, len(path) - 1, 5).round().astype(int))
    looked_up = np.concatenate([path[rows], spread(table_front(sensitivity, as_cost("bops")), 5)])
    assert {x.tobytes() for x in looked_up} <= {x.tobytes() for x in run.vectors}
    F = problem.evaluate(looked_up, return_as_dictionary=True)["F"]
    front = np.column_stack([run.front.values("difference"), run.front.values("bops")])
    assert all((front <= point).all(axis=1).any() for point in F)


def test_an_executor_changes_nothing(network, sensitivity):
    expected = search(MixedPrecisionProblem(network), sensitivity)
    with ThreadPoolExecutor(2) as executor:
        problem = MixedPrecisionProblem(network, executor=executor, recipe=lambda: network)
        found = search(problem, sensitivity)
        problem.close()
    assert np.array_equal(found.vectors, expected.vectors)
    assert found.front.points == expected.front.points
    assert repr(found.trace) == repr(expected.trace)


def test_resumes_after_ctrl_c(network, sensitivity, tmp_path, monkeypatch):
    expected = search(MixedPrecisionProblem(network), sensitivity)
    store = tmp_path / "a.sqlite"
    real, calls = Evaluator.differences, 0

    def interrupted(self, *args, **options):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return real(self, *args, **options)

    monkeypatch.setattr(Evaluator, "differences", interrupted)
    first = search(MixedPrecisionProblem(network, store=store), sensitivity)
    monkeypatch.undo()
    assert first.interrupted
    assert len(first.front) >= 1
    problem = MixedPrecisionProblem(network, store=store)
    resumed = search(problem, sensitivity)
    assert not resumed.interrupted
    assert resumed.front.points == expected.front.points
    assert np.array_equal(resumed.vectors, expected.vectors)
    assert repr(resumed.trace) == repr(expected.trace)
    again = MixedPrecisionProblem(network, store=store)
    search(again, sensitivity)
    assert again.evaluator.computed == 0


def test_keeps_budgets(network, sensitivity):
    limits = evoq.uniform_budget(network, 5)
    worst = network.evaluate(network.uniform(4)).difference
    problem = MixedPrecisionProblem(network, budgets={"bops": limits["bops"], "difference": worst})
    run = search(problem, sensitivity)
    assert all(point.gbops <= limits["bops"] and point.difference <= worst for point in run.front)
    costs = problem.values(run.vectors[10:])["bops"]
    assert (costs <= limits["bops"]).all()


def test_differences_that_may_be_negative_and_calibration_in_the_loop(tiny_model, tiny_samples, network, sensitivity):
    decibels = evoq.QuantizedNetwork(tiny_model, tiny_samples, difference="sqnr", progress=False)
    table = evoq.measure_sensitivity(decibels, method="sparse", progress=False)
    run = search(MixedPrecisionProblem(decibels), table, evaluations=30)
    assert len(run.front) > 3
    run = search(MixedPrecisionProblem(network, calibrate="light"), sensitivity, evaluations=16)
    assert len(run.front) > 3


def test_bad_arguments(network, sensitivity):
    for options in ({"pop_size": 1}, {"batch": 0}):
        with pytest.raises(ArgumentError, match=next(iter(options))):
            evoq.SurrogateSearch(sensitivity, **options)
    with pytest.raises(ArgumentError, match="sensitivity"):
        evoq.SurrogateSearch("table")
    problem = MixedPrecisionProblem(network, objectives=["size", "bops"])
    assert not supports(problem.objectives)
    with pytest.raises(ArgumentError, match="objectives"):
        evoq.run_search(problem, evoq.SurrogateSearch(sensitivity), evaluations=20, progress=False)
