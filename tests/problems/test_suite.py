"""The benchmark suite: what ships, that it is what it says, and that it behaves like the real problem."""

import io
import pickle
import time

import numpy as np
import pytest

import evoq_moo as evoq
from evoq_moo.baselines import additive_front
from evoq_moo.costs import cost_matrix, known_costs
from evoq_moo.errors import ArgumentError, BitWidthError, FormatError, UnknownNameError
from evoq_moo.indicators import igd_plus, nondominated, normalized_hypervolume
from evoq_moo.problems import SurrogateProblem, get_problem, problem_names
from evoq_moo.problems._gather import LayerSums
from evoq_moo.problems._suite import CAPPED_BITS, VARIANTS, read_surrogate, write_surrogate
from evoq_moo.space import LayerInfo, SearchSpace
from evoq_moo.testing import testing

NAMES = problem_names()


def test_there_are_at_least_twelve_problems_of_all_kinds():
    assert len(NAMES) >= 12
    assert len({name.split("-")[0] for name in NAMES}) * len(VARIANTS) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_problem_passes_conformance(name):
    testing.check_problem(lambda: get_problem(name), n_points=5)


@pytest.mark.parametrize("name", NAMES)
def test_costs_are_exact_and_differences_positive(name):
    problem = get_problem(name)
    X = np.concatenate([problem.space.sample(50, np.random.default_rng(1)), problem.xl[None], problem.xu[None]])
    found = problem.values(X, all_values=True)
    expected = cost_matrix(problem.space.layers, problem.space.decode(X))
    assert np.array_equal(np.stack([found["size"], found["bops"]], axis=1), expected)
    assert (found["difference"] > 0).all()
    assert found["difference"][-2] > 10 * found["difference"][-1]  # 2 bits everywhere and 8 bits everywhere


@pytest.mark.parametrize("name", NAMES)
def test_every_problem_has_a_frozen_reference_that_no_random_policy_beats(name):
    problem = get_problem(name)
    reference = problem.reference
    assert reference.objectives == problem.objectives
    assert reference.provenance
    points = reference.scaled_points()
    assert nondominated(points).all()
    assert points.min() == pytest.approx(0, abs=1e-9)
    assert points.max() == pytest.approx(1, abs=1e-9)
    X = problem.space.sample(2000, np.random.default_rng(2))
    values = problem.evaluate(X, return_as_dictionary=True)
    feasible = (values["G"] <= 0).all(axis=1) if problem.budgets else np.ones(len(X), dtype=bool)
    F = reference.scaled(values["F"][feasible])
    ideal, nadir = np.zeros(len(reference.ideal)), np.ones(len(reference.ideal))
    volume = normalized_hypervolume(points, ideal=ideal, reference=nadir)
    both = normalized_hypervolume(np.concatenate([points, F]), ideal=ideal, reference=nadir)
    assert both == pytest.approx(volume, abs=1e-3)


@pytest.mark.parametrize("name", [name for name in NAMES if "-additive-" in name])
def test_additive_problems_have_the_front_of_dynamic_programming(name):
    """Points of the table's exact front (or one of a stated error) are where the problem's own values say."""
    problem = get_problem(name)
    cost = "size_mib" if name.endswith("size") else "gbops"
    spread = float(np.ptp(problem.reference.points[:, 1]))
    front = additive_front(problem.sensitivity, cost=cost, resolution=spread / 2000, progress=False)
    rows = np.unique(np.linspace(0, len(front) - 1, 50).astype(int))
    F = problem.evaluate(front.vectors(rows))
    assert F[:, 0] == pytest.approx(front.differences[rows], rel=1e-9)
    assert F[:, 1] == pytest.approx(front.costs[rows], rel=1e-12)
    assert igd_plus(problem.reference.scaled(F), reference_set=problem.reference.scaled_points()) < 0.02


def test_the_capped_problem_limits_the_size_to_four_bits():
    name = next(name for name in NAMES if name.endswith("-bops-capped"))
    problem = get_problem(name)
    uniform = np.stack([problem.space.uniform(bits) for bits in (CAPPED_BITS, CAPPED_BITS + 1)])
    G = problem.evaluate(uniform, return_as_dictionary=True)["G"][:, 0]
    assert G[0] == 0
    assert G[1] > 0


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("-size-bops")])
def test_a_surrogate_states_its_fidelity_and_origin(name):
    surrogate = get_problem(name).surrogate
    held_out = surrogate.fidelity["held_out"]
    assert held_out["policies"] >= 40
    assert 0.7 < held_out["tau"] <= 1  # the least is of 239 evaluations, most of them where the difference saturates
    for key in ("identity", "samples", "evaluations", "fitted_on", "scripts"):
        assert key in surrogate.provenance


def test_two_hundred_thousand_policies_a_second():
    """The issue asks for them on one idle core; a loaded machine gets a fourth here."""
    problem = get_problem(max(NAMES, key=lambda name: get_problem(name).n_var))
    X = problem.space.sample(20_000, np.random.default_rng(0))
    problem.evaluate(X[:100])
    start = time.process_time()
    problem.evaluate(X)
    assert len(X) / (time.process_time() - start) > 50_000


def test_sums_over_layers_are_the_sums_over_genes():
    """Of a space with gaps, tied, pinned and fixed layers."""
    rng = np.random.default_rng(3)
    layers = [LayerInfo(name=f"l{i}", kind="Conv2d", params=int(p), macs=int(10 * p)) for i, p in enumerate((7, 50, 9))]
    options = {"pinned": {"l0": 8}, "overrides": {"l2": {"activation_bits": [4]}}}
    for tied in (False, True):
        space = SearchSpace.build(
            layers,
            weight_bits=[2, 4, 8],
            activation_bits=[2, 4, 8],
            tied=tied,
            **({} if tied else options),
        )
        terms = rng.normal(size=(space.n_var, 3, 2))
        X = space.sample(40, rng)
        sums = LayerSums(space, known_costs(), terms, (2, 4, 8))(X)
        columns = np.searchsorted([2, 4, 8], X)
        expected = terms[np.arange(space.n_var), columns].sum(axis=1)
        assert sums[:, 2:] == pytest.approx(expected, abs=1e-12)
        costs = cost_matrix(space.layers, space.decode(X))
        assert np.array_equal(sums[:, 0] / 8 / 2**20, costs[:, 0])
        assert np.array_equal(sums[:, 1] / 1e9, costs[:, 1])


@pytest.mark.parametrize("wrong", [1, 9, 33, -1, 3.5, np.nan])
def test_a_value_that_is_not_allowed_is_refused(wrong):
    problem = get_problem("digits-bops")
    X = problem.space.sample(2, np.random.default_rng(0)).astype(type(wrong) if isinstance(wrong, int) else float)
    X[1, 3] = wrong
    with pytest.raises(BitWidthError):
        problem.evaluate(X)


def test_unknown_names_get_a_suggestion():
    with pytest.raises(UnknownNameError, match="did you mean 'digits-bops'"):
        get_problem("digit-bops")


def test_files_round_trip_and_damage_is_noticed():
    problem = get_problem("digits-bops")
    data = write_surrogate(problem.surrogate, {"bops": problem.reference})
    surrogate, references = read_surrogate(data)
    again = SurrogateProblem(surrogate)
    X = problem.space.sample(20, np.random.default_rng(0))
    assert np.array_equal(problem.evaluate(X), again.evaluate(X))
    assert np.array_equal(references["bops"].points, problem.reference.points)
    with pytest.raises(FormatError, match="damaged"):
        read_surrogate(data[:-100])
    other = io.BytesIO()
    np.savez(other, meta=np.frombuffer(b'{"format": "x", "version": 1}', dtype=np.uint8))
    with pytest.raises(FormatError, match="given 'x'"):
        read_surrogate(other.getvalue())
    with pytest.raises(FormatError, match="AdditiveModel"):
        write_surrogate(get_problem("digits-additive-bops").surrogate, {})


def test_copies_through_pickle_evaluate_alike():
    problem = get_problem("digits-size-bops")
    copied = pickle.loads(pickle.dumps(problem))
    X = problem.space.sample(10, np.random.default_rng(0))
    assert np.array_equal(problem.evaluate(X), copied.evaluate(X))


def test_true_evaluate_is_the_real_network():
    """On the digits network, which is at hand; a surrogate ranks it well."""
    problem = get_problem("digits-size-bops")
    network = evoq.Recipe(model="digits", difference="kl")(threads=1)
    X = problem.space.sample(12, np.random.default_rng(5))
    X[0], X[1] = problem.xl, problem.xu
    true = problem.true_evaluate(X, network)
    predicted = problem.evaluate(X)
    for x, f in zip(X, true, strict=True):
        found = network.evaluate(network.space.policy(x))
        assert f.tolist() == [found.difference, found.size_mib, found.gbops]
    assert np.array_equal(true[:, 1:], predicted[:, 1:])
    assert np.abs(np.log(predicted[:, 0] / true[:, 0])).mean() < 0.5
    network.identity = "trained on another processor"  # its weights, and so the surrogate's, came out different there
    assert np.array_equal(problem.true_evaluate(X, network), true)
    other = evoq.Recipe(model="digits")(threads=1)
    with pytest.raises(ArgumentError, match="network: its difference is 'nmse'; allowed: 'kl'"):
        problem.true_evaluate(X, other)
    tied = evoq.Recipe(model="digits", difference="kl", tied=True)(threads=1)
    with pytest.raises(ArgumentError, match="network: given one of identity"):
        problem.true_evaluate(X, tied)
    with pytest.raises(ArgumentError, match="network: given str"):
        problem.true_evaluate(X, "digits")


def test_a_surrogate_problem_checks_its_argument():
    with pytest.raises(ArgumentError, match="surrogate: given"):
        SurrogateProblem("digits")
