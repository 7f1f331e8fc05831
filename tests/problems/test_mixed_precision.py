"""The pymoo Problem: objectives, budgets, bad input, and the conformance every problem must show."""

import copy

import numpy as np
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.optimize import minimize

import evoq_moo as evoq
from evoq_moo.errors import ArgumentError, BitWidthError, InfeasibleBudgetError, UnknownNameError
from evoq_moo.operators import BitWidthRepair, SensitivityGuidedMutation, SensitivitySampling, UniformBitCrossover
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.testing import testing


@pytest.fixture
def network(tiny_model, tiny_samples):
    return evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False)


def operators(table):
    return {
        "sampling": SensitivitySampling(table),
        "crossover": UniformBitCrossover(),
        "mutation": SensitivityGuidedMutation(table),
    }


def test_objectives_are_difference_size_and_bops(network):
    problem = MixedPrecisionProblem(network, objectives=("bops", "difference", "size"))
    X = network.space.sample(4, np.random.default_rng(0))
    F = problem.evaluate(X)
    for x, f in zip(X, F, strict=True):
        expected = network.evaluate(network.space.policy(x))
        assert f.tolist() == [expected.gbops, expected.difference, expected.size_mib]


def test_costs_alone_evaluate_nothing(network):
    problem = MixedPrecisionProblem(network, objectives=("size", "bops"))
    problem.evaluate(network.space.sample(4, np.random.default_rng(0)))
    assert problem.evaluator.computed == 0


def test_budgets_are_constraints(network):
    wide = network.cost(network.uniform(8))
    problem = MixedPrecisionProblem(
        network,
        objectives=("difference",),
        budgets={"bops": wide.gbops / 2, "size_mib": wide.size_mib / 2, "difference": 10.0},
    )
    X = np.stack([network.space.lower, network.space.upper])
    _, G = problem.evaluate(X)
    assert (G[0] <= 0).all()
    assert G[1, :2] == pytest.approx([1.0, 1.0])


def test_the_papers_single_objective_form(network):
    """One call of pymoo's GA under the budget of a uniform 4-bit network."""
    limit = network.cost(network.uniform(4)).gbops
    problem = MixedPrecisionProblem(network, objectives=("difference",), budgets={"bops": limit})
    table = evoq.measure_sensitivity(network, evaluator=problem.evaluator, progress=False)
    result = minimize(problem, GA(pop_size=20, **operators(table)), ("n_eval", 200), seed=1)
    front = evoq.ParetoFront.from_result(result)
    assert len(front) == 1
    assert front[0].gbops <= limit
    assert front[0].difference <= network.evaluate(network.uniform(4)).difference


def test_real_valued_operators_need_the_repair(network):
    problem = MixedPrecisionProblem(network)
    with pytest.raises(BitWidthError, match=r"needs repair=BitWidthRepair\(\)"):
        minimize(problem, NSGA2(pop_size=10), ("n_eval", 20), seed=1)
    result = minimize(problem, NSGA2(pop_size=10, repair=BitWidthRepair()), ("n_eval", 40), seed=1)
    assert result.X.dtype == np.int64


def test_history_does_not_copy_the_network(network):
    problem = MixedPrecisionProblem(network)
    table = evoq.measure_sensitivity(network, evaluator=problem.evaluator, progress=False)
    algorithm = NSGA2(pop_size=10, **operators(table))
    result = minimize(problem, algorithm, ("n_eval", 40), seed=1, save_history=True)
    assert all(step.problem is problem for step in result.history)
    assert copy.deepcopy(problem) is problem


def test_gaps_overrides_and_weights_only(tiny_model, tiny_samples):
    network = evoq.QuantizedNetwork(
        tiny_model,
        tiny_samples,
        weight_bits=[2, 4, 8],
        activation_bits=[8],
        overrides={"4": {"weight_bits": [3, 32]}},
        progress=False,
    )
    problem = MixedPrecisionProblem(network)
    assert problem.n_var == 3
    assert problem.evaluate(np.array([[2, 4, 3], [8, 8, 32]])).shape == (2, 2)
    with pytest.raises(BitWidthError, match=r"allowed: \[3, 32\]"):
        problem.evaluate(np.array([[2, 4, 8]]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"objectives": ("difference", "bop")}, UnknownNameError, "did you mean 'bops'"),
        ({"objectives": ()}, ArgumentError, "objectives: given"),
        ({"objectives": "difference"}, ArgumentError, "objectives: given"),
        ({"objectives": ("size", "size")}, ArgumentError, "objectives: given"),
        ({"budgets": {"sise": 3}}, UnknownNameError, "did you mean 'size'"),
        ({"budgets": {"bops": 0}}, ArgumentError, "a number above 0"),
        ({"budgets": {"bops": float("nan")}}, ArgumentError, "a number above 0"),
        ({"budgets": {"bops": 1e-9}}, InfeasibleBudgetError, "the smallest reachable is 0.000514048 GBOPs"),
        ({"budgets": {"size_mib": 1e-9}}, InfeasibleBudgetError, "MiB"),
        ({"budgets": {"difference": 1e-15}}, InfeasibleBudgetError, "every gene at its widest"),
    ],
)
def test_bad_arguments(network, options, error, message):
    with pytest.raises(error, match=message):
        MixedPrecisionProblem(network, **options)


def test_a_space_without_genes_is_refused(tiny_model, tiny_samples):
    fixed = evoq.QuantizedNetwork(tiny_model, tiny_samples, weight_bits=[8], activation_bits=[8], progress=False)
    with pytest.raises(ArgumentError, match="has no gene"):
        MixedPrecisionProblem(fixed)
    with pytest.raises(ArgumentError, match="allowed: a QuantizedNetwork"):
        MixedPrecisionProblem("resnet18")


def test_conformance(network):
    testing.check_problem(lambda: MixedPrecisionProblem(network))


def test_conformance_of_a_search(network, tmp_path):
    table = evoq.measure_sensitivity(network, progress=False)
    counter = iter(range(100))
    testing.check_algorithm(
        lambda: MixedPrecisionProblem(network, store=tmp_path / f"{next(counter)}.sqlite"),
        lambda: NSGA2(pop_size=10, **operators(table)),
        n_eval=60,
        make_store_problem=lambda path: MixedPrecisionProblem(network, store=path),
    )
