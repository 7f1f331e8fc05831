import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymoo.core.population import Population

from evoq_moo.costs import as_cost, cost_matrix
from evoq_moo.errors import ArgumentError, UnknownNameError
from evoq_moo.operators import FrontAwareCrossover
from evoq_moo.testing.testing import check_crossover

COSTS = ("size", "bops")


def cross(problem, X, seed=0, **options):
    parents = [Population.new("X", pair) for pair in X]
    operator = FrontAwareCrossover(prob=1.0, **options)
    return operator(problem, parents, random_state=np.random.default_rng(seed), to_numpy=True)


@pytest.mark.parametrize("options", [{}, {"tied": True}, {"weight_bits": [2, 4, 8]}, {"activation_bits": [8]}])
def test_conforms(toys, options):
    check_crossover(FrontAwareCrossover(prob=1.0), toys.problem(toys.space(6, **options)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cost=st.sampled_from(COSTS))
def test_children_cost_something_between_their_parents(toys_module, seed, cost):
    problem = toys_module.problem(toys_module.space(8))
    space = problem.space
    rng = np.random.default_rng(seed)
    low, high = np.sort(space.sample(20, rng).reshape(2, 10, -1), axis=0)  # every layer costs less in one parent
    children = cross(problem, np.stack([low, high], axis=1), seed, tail=0.0, cost=cost)
    column = COSTS.index(cost)
    costs = [cost_matrix(space.layers, space.decode(v))[:, column] for v in (low, high)]
    for half in np.split(children, 2):
        found = cost_matrix(space.layers, space.decode(half))[:, column]
        assert (costs[0] * (1 - 1e-12) <= found).all()
        assert (found <= costs[1] * (1 + 1e-12)).all()


def test_tails_share_the_first_layers(toys):
    problem = toys.problem(toys.space(8))
    space = problem.space
    X = np.stack([np.tile(space.lower, (40, 1)), np.tile(space.upper, (40, 1))], axis=1)
    bits = space.decode(cross(problem, X, tail=1.0)).reshape(2, 40, 8, 2)
    narrow = bits[..., 0] == 2
    assert (narrow[0] == ~narrow[1]).all()
    assert narrow[0, :, 0].all()
    assert (~narrow[0, :, -1]).all()
    assert (np.diff(narrow[0].astype(int), axis=1) <= 0).all()
    assert (bits[..., 0] == bits[..., 1]).all()
    assert len(np.unique(narrow[0].sum(axis=1))) > 4


def test_cost_by_layer_sums_to_the_cost(toys):
    space = toys.space(5)
    bits = space.decode(space.sample(6, np.random.default_rng(0)))
    for column, cost in enumerate(COSTS):
        np.testing.assert_allclose(
            as_cost(cost).by_layer(space.layers, bits).sum(axis=1) / as_cost(cost).scale,
            cost_matrix(space.layers, bits)[:, column],
        )


def test_refuses_bad_arguments(toys):
    for arguments in ({"prob": 2}, {"tail": -0.1}):
        with pytest.raises(ArgumentError, match=next(iter(arguments))):
            FrontAwareCrossover(**arguments)
    with pytest.raises(UnknownNameError, match="cost"):
        FrontAwareCrossover(cost="time")
    problem = toys.problem(toys.space(3))
    with pytest.raises(ArgumentError, match="shape"):
        FrontAwareCrossover()._do(problem, np.zeros((3, 1, 6)), random_state=np.random.default_rng(0))
