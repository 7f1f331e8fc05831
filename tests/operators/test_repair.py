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

from evoq_moo.errors import ArgumentError, BitWidthError
from evoq_moo.operators import BitWidthRepair
from evoq_moo.testing import check_repair

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
