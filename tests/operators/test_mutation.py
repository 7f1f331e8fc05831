import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymoo.core.population import Population
from pymoo.problems import get_problem
from scipy.stats import binomtest, chisquare

from evoq_moo.costs import as_cost, cost_matrix, gene_tables
from evoq_moo.errors import ArgumentError, BitWidthError, UnknownNameError
from evoq_moo.operators import SensitivityGuidedMutation, move_probabilities
from evoq_moo.operators._moves import COST_FLOOR, DIFFERENCE_FLOOR
from evoq_moo.problems import traded_costs
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.testing.testing import check_mutation

COSTS = ("size", "bops")

SPACES = [
    {},
    {"tied": True},
    {"weight_bits": [2, 4, 8]},
    {"activation_bits": [8]},
    {"weight_bits": [2, 3, 8, 16, 32], "pinned": {"layer0": 8}},
]


def reference_probabilities(table, x, cost, temperature, epsilon, max_step):
    """The documented distribution, move by move: {(gene, bits): probability}."""
    space = table.space
    values = [{b: table.lookup(space.layers[g.layer].name, g.kind, b) for b in g.choices} for g in space.genes]
    smallest = min((abs(v) for row in values for v in row.values() if v != 0), default=None)
    column = COSTS.index(cost)
    old = cost_matrix(space.layers, space.decode(x))[0, column]
    uniform, down, up = {}, {}, {}
    for j, gene in enumerate(space.genes):
        for b in gene.choices:
            if b == x[j]:
                continue
            uniform[j, b] = 1 / space.n_var / (len(gene.choices) - 1)
            moved = x.copy()
            moved[j] = b
            change = cost_matrix(space.layers, space.decode(moved))[0, column] - old
            narrow, wide = values[j][min(b, x[j])], values[j][max(b, x[j])]
            floor = max(DIFFERENCE_FLOOR * max(abs(narrow), abs(wide)), DIFFERENCE_FLOOR * smallest if smallest else 1)
            if max_step is None or abs(gene.choices.index(b) - gene.choices.index(x[j])) <= max_step:
                (down if b < x[j] else up)[j, b] = (abs(change), max(narrow - wide, floor))
    down = {move: (saved / added) ** (1 / temperature) for move, (saved, added) in down.items() if saved > 0}
    costing = [added for added, _ in up.values() if added > 0]
    least = COST_FLOOR * sum(costing) / len(costing) if costing else 1.0
    up = {move: (removed / max(added, least)) ** (1 / temperature) for move, (added, removed) in up.items()}
    sides = [{m: v / sum(side.values()) for m, v in side.items()} for side in (down, up) if side]
    share = 1 - epsilon if sides else 0.0
    return {
        m: (1 - share) * p + share * sum(side.get(m, 0.0) for side in sides) / max(len(sides), 1)
        for m, p in uniform.items()
    }


@settings(max_examples=60, deadline=None)
@given(
    options=st.sampled_from(SPACES),
    seed=st.integers(0, 2**32 - 1),
    cost=st.sampled_from(COSTS),
    temperature=st.sampled_from([0.2, 1.0, 3.0]),
    epsilon=st.sampled_from([0.0, 0.1, 1.0]),
    max_step=st.sampled_from([None, 1, 2]),
    start=st.sampled_from(["random", "widest", "narrowest"]),
)
def test_probabilities_are_the_documented_ones(toys_module, options, seed, cost, temperature, epsilon, max_step, start):
    rng = np.random.default_rng(seed)
    space = toys_module.space(3, seed=seed, **options)
    shape = (space.n_var, len(gene_tables(space).bits))
    values = np.where(gene_tables(space).allowed, rng.normal(size=shape) * rng.integers(0, 2, size=shape), np.nan)
    table = SensitivityTable(space=space, bits=tuple(gene_tables(space).bits.tolist()), values=values, metric="noise")
    x = {"random": space.sample(1, rng)[0], "widest": space.upper, "narrowest": space.lower}[start]
    probabilities = move_probabilities(
        table, x[None], cost=cost, temperature=temperature, epsilon=epsilon, max_step=max_step
    )[0]
    expected = np.zeros(shape)
    for (j, b), p in reference_probabilities(table, x, cost, temperature, epsilon, max_step).items():
        expected[j, table.bits.index(b)] = p
    assert probabilities.sum() == pytest.approx(1)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(options=st.sampled_from(SPACES), seed=st.integers(0, 2**32 - 1), cost=st.sampled_from(COSTS))
def test_cost_changes_are_those_of_the_cost_module(toys_module, options, seed, cost):
    space = toys_module.space(4, seed=seed, **options)
    tables = gene_tables(space)
    X = space.sample(5, np.random.default_rng(seed))
    changes = as_cost(cost).change(tables, X) / as_cost(cost).scale
    column = COSTS.index(cost)
    before = cost_matrix(space.layers, space.decode(X))[:, column]
    for j, gene in enumerate(space.genes):
        for b in gene.choices:
            moved = X.copy()
            moved[:, j] = b
            after = cost_matrix(space.layers, space.decode(moved))[:, column]
            found = changes[:, j, tables.bits.tolist().index(b)]
            np.testing.assert_allclose(found, after - before, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("options", SPACES)
def test_conforms(toys, options):
    problem = toys.problem(toys.space(10, **options))
    check_mutation(SensitivityGuidedMutation(problem.sensitivity()), problem)
    check_mutation(SensitivityGuidedMutation(problem.sensitivity(), prob=0.6, moves=3.0, cost="size"), problem)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("max_step", [None, 1])
def test_moves_follow_the_probabilities(toys, cost, max_step):
    problem = toys.problem(toys.space(2, weight_bits=[2, 4, 8], activation_bits=[3, 8]))
    table = problem.sensitivity()
    x = np.array([4, 8, 3, 8])
    n = 20_000
    operator = SensitivityGuidedMutation(table, moves=1, epsilon=0.3, temperature=2.0, max_step=max_step, cost=cost)
    X = operator._do(problem, np.tile(x, (n, 1)), random_state=np.random.default_rng(11))
    assert ((x != X).sum(axis=1) == 1).all()
    exact = move_probabilities(table, x[None], cost=cost, epsilon=0.3, temperature=2.0, max_step=max_step)[0]
    seen = np.array([[((X[:, j] == b) & (x[j] != b)).sum() for b in table.bits] for j in range(4)])
    possible = exact > 0
    assert seen[~possible].sum() == 0
    assert chisquare(seen[possible], n * exact[possible]).pvalue > 1e-4


def test_number_of_moves(toys):
    problem = toys.problem(toys.space(100))
    operator = SensitivityGuidedMutation(problem.sensitivity(), moves=3.0, temperature=1000.0)
    X = np.tile(problem.space.uniform(5), (2000, 1))
    changed = (operator._do(problem, X, random_state=np.random.default_rng(2)) != X).sum(axis=1)
    assert changed.min() == 1  # always at least one; with this many genes hardly any is hit twice
    assert changed.mean() == pytest.approx(3.0, abs=0.15)


def test_every_policy_stays_reachable(toys):
    problem = toys.problem(toys.space(2, weight_bits=[2, 4, 8], activation_bits=[3, 8]))
    table = problem.sensitivity()
    everything = np.array(list(problem.space.enumerate()))
    for cost in COSTS:
        probabilities = move_probabilities(table, everything, cost=cost, epsilon=0.1)
        other = gene_tables(problem.space).allowed & (np.array(table.bits) != everything[:, :, None])
        assert (probabilities[other] > 0).all()
        assert (probabilities[~other] == 0).all()


def test_prefers_insensitive_layers_on_the_way_down_and_sensitive_ones_on_the_way_up(toys):
    space = toys.space(2, activation_bits=[8])
    values = np.array([[scale * 4.0**-b for b in range(2, 9)] for scale in (1.0, 100.0)])
    info = space.layers[0]
    same_cost = type(space)(
        layers=(info, type(info)(**(vars(info) | {"name": "layer1"}))), genes=space.genes, base=space.base
    )
    table = SensitivityTable(space=same_cost, bits=tuple(range(2, 9)), values=values, metric="toy")
    p = move_probabilities(table, [[5, 5]], cost="bops", epsilon=0.0)[0]
    down, up = p[:, 2], p[:, 4]
    assert down[0] / down[1] == pytest.approx(100)
    assert up[1] / up[0] == pytest.approx(100)


def test_free_moves_are_finite(toys):
    problem = toys.problem(toys.space(3), objectives=("difference", "size"))
    table = problem.sensitivity()
    p = move_probabilities(table, problem.space.uniform(4)[None], cost="size", epsilon=0.0)[0]
    activations = p[3:]
    bits = np.array(table.bits)
    assert np.isfinite(p).all()
    assert (activations[:, bits < 4] == 0).all()  # narrower activations save nothing
    assert (activations[:, bits == 5] > 0).all()
    # nothing but free moves, all of them done: any move
    only_activations = toys.problem(toys.space(3, weight_bits=[8]))
    p = move_probabilities(
        only_activations.sensitivity(), only_activations.space.upper[None], cost="size", epsilon=0.0
    )[0]
    assert p[:, :-1] == pytest.approx(np.full((3, 6), 1 / 18))


def test_one_direction_where_the_other_has_no_move(toys):
    problem = toys.problem(toys.space(3))
    for x, wrong in ((problem.space.upper, 1), (problem.space.lower, -1)):
        operator = SensitivityGuidedMutation(problem.sensitivity(), moves=1, epsilon=0.0)
        X = operator._do(problem, np.tile(x, (50, 1)), random_state=np.random.default_rng(0))
        assert (np.abs(X - x).sum(axis=1) == 1).all()
        assert (np.sign(X - x) != wrong).all()


@pytest.mark.parametrize("values", [0.0, 1.0, -1.0])
def test_flat_tables_work(toys, values):
    problem = toys.problem(toys.space(3))
    table = SensitivityTable(
        space=problem.space, bits=tuple(range(2, 9)), values=np.full((6, 7), values), metric="flat"
    )
    check_mutation(SensitivityGuidedMutation(table), problem)


@pytest.mark.parametrize(
    ("objectives", "budgets", "expected"),
    [
        (("difference", "bops"), {}, ("bops",)),
        (("size", "difference"), {}, ("size",)),
        (("difference",), {"size": 3.0}, ("size",)),
        (("difference",), {"bops": 3.0}, ("bops",)),
        (("difference", "bops"), {"size": 3.0}, COSTS),
        (("difference", "size", "bops"), {}, COSTS),
        (("size", "bops"), {"difference": 0.1}, COSTS),
        (("difference",), {}, COSTS),
    ],
)
def test_costs_come_from_objectives_and_budgets(toys, objectives, budgets, expected):
    problem = toys.problem(toys.space(2), objectives=objectives)
    problem.budgets = budgets
    assert tuple(cost.name for cost in traded_costs(problem)) == expected


def test_cost_is_drawn_for_each_individual_where_both_count(toys):
    problem = toys.problem(toys.space(3), objectives=("difference", "size", "bops"))
    table = problem.sensitivity()
    x = problem.space.uniform(5)
    n = 20_000
    operator = SensitivityGuidedMutation(table, moves=1, epsilon=0.0)
    X = operator._do(problem, np.tile(x, (n, 1)), random_state=np.random.default_rng(5))
    exact = np.mean([move_probabilities(table, x[None], cost=cost, epsilon=0.0)[0] for cost in COSTS], axis=0)
    assert binomtest(int((x > X).sum()), n, 0.5).pvalue > 1e-4
    for direction in (range(3), range(4, 7)):  # columns of 2-4 and of 6-8 bits
        for j in range(6):
            seen = int(np.isin(X[:, j], np.array(table.bits)[list(direction)]).sum())
            assert binomtest(seen, n, exact[j, list(direction)].sum()).pvalue > 1e-4


def test_fast_enough(toys):
    problem = toys.problem(toys.space(50))
    operator = SensitivityGuidedMutation(problem.sensitivity())
    rng = np.random.default_rng(0)
    X = problem.space.sample(40, rng)

    def seconds():
        start = time.perf_counter()
        operator._do(problem, X, random_state=rng)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(20)) / len(X) < 200e-6  # of a generation, for 100 genes


def test_refuses_bad_arguments(toys):
    problem = toys.problem(toys.space(2))
    table = problem.sensitivity()
    for arguments in (
        {"prob": 2},
        {"moves": 0.5},
        {"moves": math.inf},
        {"temperature": 0},
        {"temperature": -1.0},
        {"epsilon": 1.5},
        {"epsilon": None},
        {"max_step": 0},
        {"max_step": 1.5},
        {"cost": "bytes"},
    ):
        with pytest.raises(ArgumentError, match=next(iter(arguments))):
            SensitivityGuidedMutation(table, **arguments)
    with pytest.raises(ArgumentError, match="sensitivity"):
        SensitivityGuidedMutation(None)
    with pytest.raises(UnknownNameError, match="bops"):
        move_probabilities(table, problem.space.upper[None], cost="bop")
    for bits in ((2, 3), (8, 7, 6, 5, 4, 3, 2)):
        with pytest.raises(ArgumentError, match="bits: given"):
            SensitivityTable(space=problem.space, bits=bits, values=np.zeros((4, len(bits))), metric="toy")


def test_refuses_other_problems(toys):
    problem = toys.problem(toys.space(2))
    operator = SensitivityGuidedMutation(problem.sensitivity())

    def mutate(other, X):
        operator(other, Population.new("X", X), random_state=np.random.default_rng(0))

    mutate(toys.problem(toys.space(2, seed=1)), np.full((1, 4), 8))  # another object with the same genes
    with pytest.raises(ArgumentError, match="space"):
        mutate(get_problem("zdt1"), np.zeros((1, 30)))
    with pytest.raises(ArgumentError, match="4 genes; the problem has 6"):
        mutate(toys.problem(toys.space(3)), np.full((1, 6), 8))
    with pytest.raises(ArgumentError, match=r"layer0.weight.*\[2, 8\]"):
        mutate(toys.problem(toys.space(2, weight_bits=[2, 8])), np.full((1, 4), 8))
    with pytest.raises(BitWidthError, match=r"allowed: \[2, 3"):
        mutate(problem, np.full((1, 4), 9))
