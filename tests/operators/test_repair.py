import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.population import Population
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.sampling.rnd import FloatRandomSampling
from pymoo.optimize import minimize
from pymoo.problems import get_problem

from evoq_moo.baselines import greedy_path
from evoq_moo.costs import cost_matrix
from evoq_moo.errors import ArgumentError, BitWidthError, UnknownNameError
from evoq_moo.operators import BitWidthRepair, BudgetRepair
from evoq_moo.testing.testing import check_repair

GAPS = {"weight_bits": [2, 4, 8], "activation_bits": [3, 8, 16]}


def test_conforms(toys):
    for options in ({}, GAPS, {"tied": True}):
        problem = toys.problem(toys.space(4, **options))
        check_repair(BitWidthRepair(), problem, outside=True)


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(-50, 50), min_size=8, max_size=8))
def test_every_value_goes_to_a_nearest_choice(toys_module, values):
    problem = toys_module.problem(toys_module.space(4, **GAPS))
    X = np.array([values])
    repaired = BitWidthRepair()(problem, Population.new("X", X), to_numpy=True)
    assert repaired.dtype == np.int64
    for x, bits, gene in zip(X[0], repaired[0], problem.space.genes, strict=True):
        assert bits in gene.choices
        assert abs(x - bits) == min(abs(x - choice) for choice in gene.choices)


def test_lower_of_two_as_near(toys):
    problem = toys.problem(toys.space(1, weight_bits=[2, 4], activation_bits=[8]))
    assert BitWidthRepair()(problem, Population.new("X", np.array([[3.0]])), to_numpy=True).tolist() == [[2]]


def test_refuses_nan_and_problems_without_space(toys):
    problem = toys.problem(toys.space(1))
    with pytest.raises(BitWidthError, match="NaN"):
        BitWidthRepair()(problem, Population.new("X", np.array([[3.0, np.nan]])))
    with pytest.raises(ArgumentError, match=r"ZDT1.*space"):
        BitWidthRepair()(get_problem("zdt1"), Population.new("X", np.zeros((1, 30))))


def test_stock_real_operators_work_on_gaps_with_it(toys):
    problem = toys.problem(toys.space(4, **GAPS))
    repair = BitWidthRepair()
    algorithm = NSGA2(
        pop_size=10,
        sampling=FloatRandomSampling(),
        crossover=SBX(eta=3, vtype=float, repair=BitWidthRepair()),
        mutation=PM(eta=3, vtype=float, repair=BitWidthRepair()),
        repair=repair,
    )
    result = minimize(problem, algorithm, ("n_gen", 5), seed=1)
    assert result.pop.get("X").dtype == np.int64
    problem.space.check(result.pop.get("X"))


class TestBudgetRepair:
    def repaired(self, problem, X, **options):
        return BudgetRepair(problem.sensitivity(), **options)(problem, Population.new("X", X), to_numpy=True)

    @pytest.mark.parametrize("options", [{}, {"tied": True}, {"weight_bits": [2, 4, 8]}])
    def test_conforms(self, toys, options):
        problem = toys.problem(toys.space(6, **options))
        check_repair(BudgetRepair(problem.sensitivity(), budgets={"bops": 1e9}), problem)

    def halfway(self, problem):
        ends = cost_matrix(problem.space.layers, problem.space.decode([problem.space.lower, problem.space.upper]))
        return dict(zip(("size", "bops"), ends.mean(axis=0).tolist(), strict=True))

    def test_keeps_budgets_and_what_is_within_them(self, toys):
        problem = toys.problem(toys.space(8))
        problem.budgets = self.halfway(problem)
        X = problem.space.sample(60, np.random.default_rng(2))
        X[0] = problem.space.upper
        repaired = self.repaired(problem, X)
        limits = np.array(list(problem.budgets.values()))
        before, after = (cost_matrix(problem.space.layers, problem.space.decode(v)) for v in (X, repaired))
        assert (after <= limits).all()
        within = (before <= limits).all(axis=1)
        assert 0 < within.sum() < 60
        assert np.array_equal(repaired[within], X[within])
        assert (repaired <= X).all()

    def test_takes_the_best_move_as_the_greedy_path_does(self, toys):
        """One budget, from the widest policy: the first point of the greedy path that is within it."""
        problem = toys.problem(toys.space(5))
        path = greedy_path(problem.sensitivity(), "size")
        costs = cost_matrix(problem.space.layers, problem.space.decode(path))[:, 0]
        for limit in (costs[4], costs[11]):
            found = self.repaired(problem, problem.space.upper[None], budgets={"size": float(limit)})[0]
            assert np.array_equal(found, path[np.flatnonzero(costs <= limit)[0]])

    def test_ends_at_the_narrowest(self, toys):
        problem = toys.problem(toys.space(3))
        repaired = self.repaired(problem, problem.space.upper[None], budgets={"bops": 1e-9})
        assert np.array_equal(repaired[0], problem.space.lower)

    def test_refuses(self, toys):
        problem = toys.problem(toys.space(3))
        table = problem.sensitivity()
        with pytest.raises(UnknownNameError, match="budgets"):
            BudgetRepair(table, budgets={"difference": 1.0})
        with pytest.raises(ArgumentError, match="bops"):
            BudgetRepair(table, budgets={"bops": 0})
        with pytest.raises(ArgumentError, match="budgets: given none"):
            self.repaired(problem, problem.space.upper[None])
