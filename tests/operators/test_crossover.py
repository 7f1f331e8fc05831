import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymoo.core.population import Population
from pymoo.problems import get_problem
from scipy.stats import binomtest

from evoq_moo.errors import ArgumentError, BitWidthError
from evoq_moo.operators import UniformBitCrossover
from evoq_moo.testing.testing import check_crossover


def pairs(X):
    return [Population.new("X", x) for x in X.reshape(len(X) // 2, 2, -1)]


@pytest.mark.parametrize("options", [{}, {"tied": True}, {"weight_bits": [2, 4, 8]}, {"activation_bits": [8]}])
def test_conforms(toys, options):
    check_crossover(UniformBitCrossover(prob=1.0), toys.problem(toys.space(6, **options)))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), prob=st.sampled_from([0.0, 0.5, 1.0]), prob_layer=st.floats(0, 1))
def test_layers_stay_together_and_nothing_is_lost(toys_module, seed, prob, prob_layer):
    problem = toys_module.problem(toys_module.space(6, pinned={"layer2": 8}))
    rng = np.random.default_rng(seed)
    X = problem.space.sample(8, rng)
    operator = UniformBitCrossover(prob=prob, prob_layer=prob_layer)
    children = operator(problem, pairs(X), random_state=rng, to_numpy=True)
    assert children.dtype == np.int64
    first, second = children.reshape(2, 4, -1)
    a, b = X.reshape(4, 2, -1).swapaxes(0, 1)
    kept = (first == a) & (second == b)
    exchanged = (first == b) & (second == a)
    layer = np.array([gene.layer for gene in problem.space.genes])
    for i in set(layer.tolist()):
        one_layer = layer == i
        assert (kept[:, one_layer].all(axis=1) | exchanged[:, one_layer].all(axis=1)).all()


def test_probabilities_are_met(toys):
    problem = toys.problem(toys.space(10))
    low, high = problem.space.lower, problem.space.upper
    n = 2000
    X = np.stack([low, high] * n)
    children = UniformBitCrossover(prob=0.6, prob_layer=0.2)(
        problem, pairs(X), random_state=np.random.default_rng(7), to_numpy=True
    )
    exchanged = children[:n, :10] == 8
    crossed = binomtest(int(exchanged.any(axis=1).sum()), n, 0.6 * (1 - 0.8**10))
    each = binomtest(int(exchanged[:, 3].sum()), n, 0.6 * 0.2)
    assert crossed.pvalue > 1e-4
    assert each.pvalue > 1e-4
    assert UniformBitCrossover(prob=0.0)(problem, pairs(X[:4]), to_numpy=True).tolist() == X[[0, 2, 1, 3]].tolist()


def test_float_parents_come_out_as_integers_or_are_refused(toys):
    problem = toys.problem(toys.space(3))
    X = problem.space.sample(4, np.random.default_rng(0)).astype(float)
    for prob in (0.0, 1.0):
        operator = UniformBitCrossover(prob=prob)
        assert operator(problem, pairs(X), to_numpy=True).dtype == np.int64
        with pytest.raises(BitWidthError, match="BitWidthRepair"):
            operator(problem, pairs(X + 0.5))


def test_refuses_bad_arguments(toys):
    for arguments in ({"prob": 1.1}, {"prob": -0.1}, {"prob_layer": "half"}, {"prob_layer": np.nan}, {"prob": True}):
        with pytest.raises(ArgumentError, match=next(iter(arguments))):
            UniformBitCrossover(**arguments)
    with pytest.raises(ArgumentError, match="space"):
        UniformBitCrossover()(get_problem("zdt1"), pairs(np.zeros((2, 30))))
    problem = toys.problem(toys.space(3))
    with pytest.raises(ArgumentError, match="shape"):
        UniformBitCrossover()._do(problem, np.zeros((3, 1, 6)), random_state=np.random.default_rng(0))
