"""No part may take narrower for cheaper: costs of random tables, constant, inverted and joint ones."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from pymoo.core.population import Population

import evoq_moo as evoq
from evoq_moo.algorithms.level_switch import LevelSwitch
from evoq_moo.baselines import additive_front, additive_optimum, budget_grid, greedy_path, random_policies
from evoq_moo.costs import gene_tables
from evoq_moo.operators import (
    BudgetRepair,
    FrontAwareCrossover,
    SensitivityGuidedMutation,
    SensitivitySampling,
    move_probabilities,
)
from evoq_moo.problems import MixedPrecisionProblem, Surrogate, SurrogateProblem
from evoq_moo.problems._surrogate_model import AdditiveModel
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import LayerInfo, SearchSpace

BITS = (2, 4, 8)
SPACE = SearchSpace.build(
    [LayerInfo(name=f"l{i}", kind="Conv2d", params=10 * i + 5, macs=100) for i in range(4)],
    weight_bits=BITS,
    activation_bits=BITS,
    pinned={"l0": 8},
)
TABLE = SensitivityTable(
    space=SPACE,
    bits=BITS,
    values=np.array([[4.0**-b * (j + 1) for b in BITS] for j in range(SPACE.n_var)]),
    metric="toy",
)
PAIRS = [(w, a) for w in BITS for a in BITS]
FUZZ = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])


def times(of_pair, rest=1.0):
    """Return a table in which each layer's time is given by its index and bit-widths."""
    return evoq.LatencyTable(
        milliseconds={f"l{i}": {(w, a): of_pair(i, w, a) for w, a in PAIRS} for i in range(4)}, rest=rest
    )


CONSTANT = times(lambda i, w, a: 1.0)
INVERTED = times(lambda i, w, a: 10.0 - w - 0.1 * a)
JOINT = times(lambda i, w, a: 1.0 if (w, a) == (8, 8) else 9.0)
"""Fast only where both bit-widths fit: no gene alone can save from elsewhere."""
COSTS = {"constant": CONSTANT, "inverted": INVERTED, "joint": JOINT}


@st.composite
def random_times(draw):
    values = draw(st.lists(st.sampled_from([0.0, 1.0, 1.5, 2.0, 7.0]), min_size=36, max_size=36))
    return times(lambda i, w, a: values[i * 9 + PAIRS.index((w, a))])


def problem_on(cost, **options):
    surrogate = Surrogate(
        network="toy", sensitivity=TABLE, model=AdditiveModel(sensitivity=TABLE), provenance={}, fidelity={}
    )
    return SurrogateProblem(surrogate, **{"objectives": ("difference", "latency"), "costs": [cost]} | options)


def spent(cost, X):
    return cost.of(SPACE.layers, SPACE.decode(X))


@FUZZ
@given(cost=st.one_of(random_times(), st.sampled_from(list(COSTS.values()))), seed=st.integers(0, 2**32 - 1))
def test_operators_and_baselines(cost, seed):
    note(f"seed {seed}")
    rng = np.random.default_rng(seed)
    everything = np.array(list(SPACE.enumerate()))
    costs = spent(cost, everything)
    low, high = cost.bounds(SPACE)
    assert (low, high) == (costs.min(), costs.max())
    assert spent(cost, cost.cheapest(SPACE)[None])[0] == low

    problem = problem_on(cost)
    X = SPACE.sample(12, rng)
    changes = cost.change(gene_tables(SPACE), X) / cost.scale
    moved = X.copy()
    moved[:, 3] = 4
    np.testing.assert_allclose(changes[:, 3, 1], spent(cost, moved) - spent(cost, X), atol=1e-9)
    np.testing.assert_allclose(move_probabilities(TABLE, X, cost=cost).sum(axis=(1, 2)), 1.0)

    pop = Population.new("X", X)
    for paired in (0.0, 1.0):
        mutated = SensitivityGuidedMutation(TABLE, paired=paired)(problem, pop, random_state=rng, to_numpy=True)
        SPACE.check(mutated)
    FrontAwareCrossover()(problem, pop.reshape(-1, 2), random_state=rng)
    assert len(SensitivitySampling(TABLE)(problem, 20, random_state=rng)) == 20

    limit = float(rng.choice(costs))
    repaired = BudgetRepair(TABLE, budgets={"latency": limit}, costs=[cost])(problem, pop, random_state=rng)
    assert (spent(cost, repaired.get("X").astype(np.int64)) <= limit + 1e-9).all()

    front = additive_front(TABLE, cost=cost, progress=False)
    best = [TABLE.predict(everything[costs <= c]).min() for c in front.costs]
    np.testing.assert_allclose(front.differences, best, rtol=1e-9)
    assert len(greedy_path(TABLE, cost))
    X = random_policies(SPACE, 5, 1, cost=cost)
    assert (spent(cost, X) <= [grid["latency"] for grid in budget_grid(SPACE, cost=cost, n=5)]).all()
    x = additive_optimum(TABLE, budgets={"latency": limit}, costs=[cost])
    assert spent(cost, x[None])[0] <= limit
    assert TABLE.predict(x[None])[0] == pytest.approx(TABLE.predict(everything[costs <= limit]).min())

    algorithm = LevelSwitch(cost=cost, limits=[limit])
    algorithm.setup(problem, termination=("n_eval", 30), seed=1)
    while algorithm.has_next():
        children = algorithm.ask()
        algorithm.evaluator.eval(problem, children)
        algorithm.tell(infills=children)
        assert (spent(cost, children.get("X").astype(np.int64)) <= limit + 1e-9).all()


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("objectives", [("difference", "latency"), ("latency", "size", "difference"), ("difference",)])
def test_searches(tiny_model, tiny_samples, name, objectives):
    network = evoq.QuantizedNetwork(
        tiny_model, tiny_samples, weight_bits=BITS, activation_bits=BITS, engine="reference", progress=False
    )
    pairs = COSTS[name].milliseconds["l1"]
    cost = evoq.LatencyTable(milliseconds=dict.fromkeys(network.space.layer_names, pairs))
    low, high = cost.bounds(network.space)
    budgets = {"latency": (low + high) / 2} if objectives == ("difference",) else {}
    run = evoq.search(
        network, objectives=objectives, budgets=budgets, costs=[cost], evaluations=40, pop_size=10, progress=False
    )
    assert run.trace[-1].evaluations == 40
    assert len(run.front)
    if name == "constant" and len(objectives) == 2:
        assert len(run.front) == 1  # the smallest difference
    if len(objectives) > 1:
        hypervolumes = [row.hypervolume for row in run.trace]
        assert 0 < hypervolumes[0] <= hypervolumes[-1]


def test_weights_of_one_bit_width_leave_the_size_constant(tiny_model, tiny_samples):
    network = evoq.QuantizedNetwork(tiny_model, tiny_samples, weight_bits=[4], engine="reference", progress=False)
    run = evoq.search(network, objectives=("difference", "size"), evaluations=60, pop_size=10, progress=False)
    assert len(run.front) == 1
    best = run.front[0].difference
    assert best <= network.evaluate(network.uniform(8)).difference


def test_a_search_evaluates_nothing_outside_its_budget(tiny_model, tiny_samples, tmp_path):
    network = evoq.QuantizedNetwork(
        tiny_model, tiny_samples, weight_bits=BITS, activation_bits=BITS, engine="reference", progress=False
    )
    problem = MixedPrecisionProblem(network)
    table = evoq.measure_sensitivity(network, evaluator=problem.evaluator, method="sparse", progress=False)
    scanned = problem.evaluator.computed
    algorithm = evoq.guided_nsga2(table, pop_size=8)
    run = evoq.run_search(problem, algorithm, evaluations=20, progress=False)
    assert run.trace[-1].evaluations == 20
    assert problem.evaluator.computed - scanned <= 20
