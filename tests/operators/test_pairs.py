import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymoo.core.population import Population

from evoq_moo.costs import as_cost, cost_matrix
from evoq_moo.errors import ArgumentError
from evoq_moo.operators import SensitivityGuidedMutation
from evoq_moo.operators._moves import GuidedMoves
from evoq_moo.operators._pairs import exchange
from evoq_moo.testing.testing import check_mutation

COSTS = ("size", "bops")

SPACES = [{}, {"tied": True}, {"weight_bits": [2, 4, 8]}, {"pinned": {"layer0": 8}}]


def mutate(problem, X, seed=0, **options):
    mutation = SensitivityGuidedMutation(problem.sensitivity(), **options)
    return mutation(problem, Population.new("X", X), random_state=np.random.default_rng(seed), to_numpy=True)


@pytest.mark.parametrize("options", SPACES)
def test_conforms(toys, options):
    problem = toys.problem(toys.space(6, **options))
    check_mutation(SensitivityGuidedMutation(problem.sensitivity(), paired=0.7), problem)


@settings(max_examples=30, deadline=None)
@given(options=st.sampled_from(SPACES), seed=st.integers(0, 2**32 - 1), cost=st.sampled_from(COSTS))
def test_paired_moves_keep_the_budget(toys_module, options, seed, cost):
    problem = toys_module.problem(toys_module.space(6, **options))
    space = problem.space
    X = space.sample(12, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    moves = GuidedMoves(problem.sensitivity(), temperature=1.0, epsilon=0.1, max_step=1)
    moved, done = exchange(moves, X, rng.integers(1, 4, size=12), as_cost(cost), rng)
    assert done.sum() >= 6
    X, moved = X[done], moved[done]
    assert (moved > X).any(axis=1).all()
    column = COSTS.index(cost)
    before, after = (cost_matrix(space.layers, space.decode(v))[:, column] for v in (X, moved))
    assert (after <= before * (1 + 1e-12)).all()


def test_where_nothing_can_pay_ordinary_moves_are_made(toys):
    problem = toys.problem(toys.space(6))
    for x in (problem.space.lower, problem.space.upper):
        X = np.repeat(x[None], 8, axis=0)
        moved = mutate(problem, X, paired=1.0, epsilon=0.0)
        assert (moved != X).any(axis=1).all()


def test_paired_zero_is_the_same_as_before(toys):
    problem = toys.problem(toys.space(6))
    X = problem.space.sample(20, np.random.default_rng(1))
    assert np.array_equal(mutate(problem, X), mutate(problem, X, paired=0.0))
    assert not np.array_equal(mutate(problem, X), mutate(problem, X, paired=1.0))


def test_refuses_bad_shares(toys):
    table = toys.problem(toys.space(2)).sensitivity()
    with pytest.raises(ArgumentError, match="paired"):
        SensitivityGuidedMutation(table, paired=1.5)
