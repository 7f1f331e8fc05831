import numpy as np
import pytest
from pymoo.core.population import Population
from pymoo.problems import get_problem
from scipy.stats import binomtest, chisquare

from evoq_moo.errors import ArgumentError, BitWidthError
from evoq_moo.operators import UniformBitMutation
from evoq_moo.testing.testing import check_mutation


@pytest.mark.parametrize("options", [{}, {"tied": True}, {"weight_bits": [2, 4, 8]}, {"activation_bits": [8]}])
def test_conforms(toys, options):
    check_mutation(UniformBitMutation(), toys.problem(toys.space(10, **options)))
    check_mutation(UniformBitMutation(prob=0.5, prob_var=0.3), toys.problem(toys.space(10, **options)))


def test_rate_and_targets(toys):
    problem = toys.problem(toys.space(2, weight_bits=[2, 4, 5, 8], activation_bits=[3, 8]))
    x = np.array([4, 8, 3, 8])
    n = 8000
    X = UniformBitMutation()._do(problem, np.tile(x, (n, 1)), random_state=np.random.default_rng(3))
    for j in range(4):
        changed = X[:, j] != x[j]
        assert binomtest(int(changed.sum()), n, 1 / 4).pvalue > 1e-4
    targets = X[X[:, 0] != 4, 0]
    assert chisquare([(targets == b).sum() for b in (2, 5, 8)]).pvalue > 1e-4


def test_extremes(toys):
    problem = toys.problem(toys.space(5))
    X = problem.space.sample(20, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    assert (UniformBitMutation(prob_var=1.0)._do(problem, X, random_state=rng) != X).all()
    assert (UniformBitMutation(prob_var=0.0)._do(problem, X, random_state=rng) == X).all()
    assert (UniformBitMutation(prob=0.0, prob_var=1.0)(problem, Population.new("X", X), to_numpy=True) == X).all()


def test_refuses(toys):
    with pytest.raises(ArgumentError, match="prob_var"):
        UniformBitMutation(prob_var=2)
    with pytest.raises(ArgumentError, match="prob:"):
        UniformBitMutation(prob=-1)
    with pytest.raises(ArgumentError, match="space"):
        UniformBitMutation()(get_problem("zdt1"), Population.new("X", np.zeros((2, 30))))
    problem = toys.problem(toys.space(2))
    with pytest.raises(BitWidthError, match=r"2\.5"):
        UniformBitMutation()(problem, Population.new("X", np.full((2, 4), 2.5)))
