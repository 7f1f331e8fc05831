"""The default search: reproducible, interruptible, within budgets, fair in what it counts."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import evoq_moo as evoq
from evoq_moo.algorithms import supports
from evoq_moo.errors import ArgumentError
from evoq_moo.evaluation import Evaluator
from evoq_moo.network import SampleSubset
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.testing.testing import check_algorithm

SHARES = (0.1, 0.3)
"""Few enough samples of the tiny network's even ones."""


@pytest.fixture
def network(tiny_model, tiny_samples):
    return evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False)


@pytest.fixture
def sensitivity(network):
    return evoq.measure_sensitivity(network, method="sparse", progress=False)


def search(problem, sensitivity, *, evaluations=60, seed=1, **options):
    algorithm = evoq.SurrogateSearch(sensitivity, pop_size=10, batch=6, promoted=3, **{"shares": SHARES} | options)
    return evoq.run_search(problem, algorithm, evaluations=evaluations, seed=seed, progress=False), algorithm


@pytest.mark.parametrize(
    ("objectives", "screening"), [(("difference", "size", "bops"), True), (("size", "difference"), False)]
)
def test_depends_on_the_seed_only(network, sensitivity, objectives, screening):
    check_algorithm(
        lambda: MixedPrecisionProblem(network, objectives=objectives),
        lambda: evoq.SurrogateSearch(sensitivity, pop_size=8, batch=4, promoted=2, shares=SHARES, screening=screening),
        n_eval=24,
    )


def test_screenings_count_as_parts_of_evaluations(network, sensitivity):
    problem = MixedPrecisionProblem(network)
    run, algorithm = search(problem, sensitivity)
    first, second = algorithm._screen._evaluators
    assert type(first.network) is type(second.network) is SampleSubset
    parts = [len(look.network.samples) / len(network.samples) for look in (first, second)]
    assert 0 < sum(parts) <= 0.5
    assert first.computed > second.computed > 10
    looked = parts[0] * first.computed + parts[1] * second.computed
    paid = problem.evaluator.computed + 3 + looked  # three probes tell which samples are hard
    assert run.trace[-1].evaluations == pytest.approx(paid, abs=1.01)
    assert run.trace[-1].policies == problem.evaluator.computed
    assert len(np.unique(run.vectors, axis=0)) == len(run.vectors)
    plain, algorithm = search(problem, sensitivity, screening=False)
    assert algorithm._screen is None
    assert plain.trace[-1].evaluations == len(plain.vectors)


def test_candidates_go_several_changes_deep_where_nothing_is_screened():
    """One round changes at most four genes, so a policy that differs in more from all before it took several."""
    network = evoq.Recipe(model="digits", count=20)(threads=1)
    sensitivity = evoq.measure_sensitivity(network, method="sparse", progress=False)
    farthest = {}
    for screening in (True, False):
        run, algorithm = search(MixedPrecisionProblem(network), sensitivity, screening=screening, shares=(0.5, 0.8))
        assert (algorithm._screen is not None) == screening
        X = run.vectors
        farthest[screening] = max((X[:i] != X[i]).sum(axis=1).min() for i in range(10, len(X)))
    assert farthest[True] <= 4 < farthest[False]


def test_screenings_go_through_the_executor_and_change_nothing(network, sensitivity):
    expected, _ = search(MixedPrecisionProblem(network), sensitivity)
    with ThreadPoolExecutor(2) as executor:
        submitted = []
        submit = executor.submit
        executor.submit = lambda *task: submitted.append(task) or submit(*task)
        problem = MixedPrecisionProblem(network, executor=executor, recipe=lambda: network)
        found, algorithm = search(problem, sensitivity)
        problem.close()
    screened = sum(look.computed for look in algorithm._screen._evaluators)
    assert screened > 10
    assert len(submitted) == problem.evaluator.computed + screened
    assert np.array_equal(found.vectors, expected.vectors)
    assert found.front.points == expected.front.points
    assert repr(found.trace) == repr(expected.trace)


def test_resumes_after_ctrl_c_in_the_middle_of_a_screening(network, sensitivity, tmp_path, monkeypatch):
    expected, _ = search(MixedPrecisionProblem(network), sensitivity)
    store = tmp_path / "a.sqlite"
    real, calls = Evaluator.differences, 0

    def interrupted(self, *args, **options):
        nonlocal calls
        if type(self.network) is SampleSubset:
            calls += 1
            if calls == 4:
                raise KeyboardInterrupt
        return real(self, *args, **options)

    monkeypatch.setattr(Evaluator, "differences", interrupted)
    first, _ = search(MixedPrecisionProblem(network, store=store), sensitivity)
    monkeypatch.undo()
    assert first.interrupted
    assert len(first.front) >= 1
    problem = MixedPrecisionProblem(network, store=store)
    resumed, _ = search(problem, sensitivity)
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
    run, _ = search(problem, sensitivity)
    assert all(point.gbops <= limits["bops"] and point.difference <= worst for point in run.front)
    costs = problem.values(run.vectors[10:])["bops"]
    assert (costs <= limits["bops"]).all()


def test_differences_that_may_be_negative_and_calibration_in_the_loop(tiny_model, tiny_samples, network, sensitivity):
    decibels = evoq.QuantizedNetwork(tiny_model, tiny_samples, difference="sqnr", progress=False)
    table = evoq.measure_sensitivity(decibels, method="sparse", progress=False)
    run, algorithm = search(MixedPrecisionProblem(decibels), table, evaluations=30)
    assert algorithm._screen is None
    assert len(run.front) > 3
    run, algorithm = search(MixedPrecisionProblem(network, calibrate="light"), sensitivity, evaluations=16)
    assert algorithm._screen is None


def test_bad_arguments(network, sensitivity):
    for options in ({"pop_size": 1}, {"batch": 0}, {"promoted": 0}, {"shares": [1.5]}):
        with pytest.raises(ArgumentError, match=next(iter(options))):
            evoq.SurrogateSearch(sensitivity, **options)
    with pytest.raises(ArgumentError, match="sensitivity"):
        evoq.SurrogateSearch("table")
    problem = MixedPrecisionProblem(network, objectives=["size", "bops"])
    assert not supports(problem.objectives)
    with pytest.raises(ArgumentError, match="objectives"):
        evoq.run_search(problem, evoq.SurrogateSearch(sensitivity), evaluations=20, progress=False)
