import numpy as np
import pytest
from pymoo.algorithms.moo.moead import ParallelMOEAD
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.population import Population
from pymoo.util.ref_dirs import get_reference_directions
from scipy.stats import kendalltau

from evoq_moo.errors import ArgumentError, BitWidthError
from evoq_moo.operators import SensitivityGuidedMutation, SensitivitySampling, UniformBitCrossover, adapted_sensitivity
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.testing.testing import check_algorithm


def scaled(table, factors):
    return SensitivityTable(space=table.space, bits=table.bits, values=table.values * factors[:, None], metric="toy")


def test_finds_the_factors_of_an_additive_network(toys):
    table = toys.problem(toys.space(5)).sensitivity()
    rng = np.random.default_rng(3)
    factors = np.exp(rng.normal(0, 0.2, size=table.space.n_var))
    factors /= np.exp(np.log(factors).mean())
    true = scaled(table, factors)
    X = table.space.sample(4000, rng)
    for _ in range(6):  # Gauss and Newton, step by step
        table = adapted_sensitivity(table, X, true.predict(X), ridge=1e-6)
    ratio = table.values / true.values
    assert np.nanmax(ratio) / np.nanmin(ratio) == pytest.approx(1, abs=0.05)  # a common factor changes no ranking


def test_predicts_interacting_policies_better(toys):
    problem = toys.problem(toys.space(12))
    table = problem.sensitivity()
    rng = np.random.default_rng(0)
    centre = table.space.uniform(5)
    X = np.clip(centre + rng.integers(-1, 2, size=(200, len(centre))), 2, 8)
    adapted = adapted_sensitivity(table, X[:100], problem.difference(X[:100]))
    real = problem.difference(X[100:])
    before, after = (kendalltau(t.predict(X[100:]), real)[0] for t in (table, adapted))
    print(f"Kendall tau of the table {before:.3f}, adapted {after:.3f}")
    assert after > before


def test_little_or_useless_data_leaves_the_table(toys):
    table = toys.problem(toys.space(3)).sensitivity()
    X = table.space.sample(4, np.random.default_rng(0))
    assert adapted_sensitivity(table, X[:1], [1.0]) is table
    assert adapted_sensitivity(table, X, np.zeros(4)) is table
    heavy = adapted_sensitivity(table, X, np.ones(4), ridge=1e12)
    np.testing.assert_allclose(heavy.values, table.values)
    far = adapted_sensitivity(table, X, 10.0 ** np.arange(-8, 8, 4), ridge=1e-9).values / table.values
    assert 0.0999 < np.nanmin(far) <= np.nanmax(far) < 10.001


def test_refuses_bad_arguments(toys):
    table = toys.problem(toys.space(3)).sensitivity()
    X = table.space.sample(4, np.random.default_rng(0))
    with pytest.raises(ArgumentError, match="ridge"):
        adapted_sensitivity(table, X, np.ones(4), ridge=0)
    with pytest.raises(ArgumentError, match="differences"):
        adapted_sensitivity(table, X, np.ones(3))
    with pytest.raises(ArgumentError, match="negative"):
        adapted_sensitivity(scaled(table, -np.ones(table.space.n_var)), X, np.ones(4))
    with pytest.raises(BitWidthError):
        adapted_sensitivity(table, X + 0.5, np.ones(4))


def algorithm_of(kind, table):
    mutation = SensitivityGuidedMutation(table, adaptive=True, paired=0.3)
    options = {"sampling": SensitivitySampling(table), "crossover": UniformBitCrossover(), "mutation": mutation}
    if kind is NSGA2:
        return NSGA2(pop_size=12, **options)
    directions = get_reference_directions("das-dennis", 2, n_partitions=11)
    return ParallelMOEAD(directions, n_neighbors=4, callback=mutation.follow, **options)


@pytest.mark.parametrize("kind", [NSGA2, ParallelMOEAD])
def test_learns_from_the_algorithm_and_depends_on_the_seed_only(toys, kind):
    space = toys.space(8)
    check_algorithm(
        lambda: toys.problem(space), lambda: algorithm_of(kind, toys.problem(space).sensitivity()), n_eval=60
    )
    problem = toys.problem(space)
    algorithm = algorithm_of(kind, problem.sensitivity())
    algorithm.setup(problem, termination=("n_gen", 4), seed=1)
    while algorithm.has_next():
        algorithm.next()
    assert len(algorithm.data["evoq_moo.network.evaluated"]) > 24


def test_two_runs_with_one_operator_do_not_see_each_other(toys):
    problem = toys.problem(toys.space(8))
    mutation = SensitivityGuidedMutation(problem.sensitivity(), adaptive=True)

    def run():
        algorithm = NSGA2(pop_size=12, sampling=SensitivitySampling(problem.sensitivity()), mutation=mutation)
        algorithm.mating.crossover = UniformBitCrossover()
        algorithm.setup(problem, termination=("n_gen", 5), seed=1)
        while algorithm.has_next():
            algorithm.next()
        return algorithm.pop.get("X")

    assert np.array_equal(run(), run())


def test_needs_an_algorithm_and_a_difference(toys):
    problem = toys.problem(toys.space(3))
    mutation = SensitivityGuidedMutation(problem.sensitivity(), adaptive=True)
    population = Population.new("X", problem.space.sample(4, np.random.default_rng(0)))
    with pytest.raises(ArgumentError, match=r"callback=mutation\.follow"):
        mutation(problem, population)
    problem = toys.problem(toys.space(3), objectives=("size", "bops"))
    algorithm = algorithm_of(NSGA2, problem.sensitivity())
    algorithm.setup(problem, termination=("n_gen", 3), seed=1)
    algorithm.next()
    with pytest.raises(ArgumentError, match="adaptive: the problem has the objectives"):
        algorithm.next()
