"""Fronts: domination against moocore and brute force, choosing, files."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.optimize import minimize
from pymoo.util.archive import MultiObjectiveArchive
from rich.console import Console

import evoq_moo as evoq
from evoq_moo.errors import ArgumentError, FormatError, InfeasibleBudgetError, MissingFileError, UnknownNameError
from evoq_moo.front import FrontPoint, ParetoFront, check_costs
from evoq_moo.operators import BitWidthRepair
from evoq_moo.problems import MixedPrecisionProblem


@pytest.fixture
def front(front_of):
    return front_of([(1.0, 1.0, 1.0), (0.01, 1.5, 2.0), (0.008, 2.5, 5.0), (0.001, 2.0, 10.0)])


@pytest.fixture
def network(tiny_model, tiny_samples):
    return evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False)


def test_from_result_is_what_the_algorithm_found(network):
    problem = MixedPrecisionProblem(network)
    result = minimize(problem, NSGA2(pop_size=12, repair=BitWidthRepair()), ("n_eval", 60), seed=1)
    front = ParetoFront.from_result(result)
    found = {(p.difference, p.gbops) for p in front}
    assert found == {tuple(f) for f in result.F}
    for point in front:
        assert point.difference == network.difference_of(point.policy.to_array())
        assert point.gbops == network.cost(point.policy).gbops
        assert point.size_mib == network.cost(point.policy).size_mib


def test_an_archive_adds_what_the_population_lost(network):
    problem = MixedPrecisionProblem(network)
    algorithm = NSGA2(pop_size=8, repair=BitWidthRepair(), archive=MultiObjectiveArchive())
    result = minimize(problem, algorithm, ("n_eval", 160), seed=1)
    assert len(ParetoFront.from_result(result)) >= len({tuple(f) for f in result.F})


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=25))
def test_domination_equals_brute_force(rows):
    space = evoq.SearchSpace.build(
        [evoq.LayerInfo(name=n, kind="Conv2d", params=1, macs=1) for n in "ab"],
        weight_bits=range(2, 9),
        activation_bits=range(2, 9),
    )
    X = np.unique(space.sample(len(rows), np.random.default_rng(0)), axis=0)
    F = np.array(rows, dtype=float)[: len(X)]
    table = {x.tobytes(): f for x, f in zip(X, F, strict=True)}

    def values(vectors, *, all_values=False):
        found = np.array([table[x.tobytes()] for x in vectors])
        return {"difference": found[:, 0], "bops": found[:, 1], "size": found[:, 1]}

    problem = SimpleNamespace(space=space, objectives=("difference", "bops"), values=values)
    front = ParetoFront.from_vectors(problem, X)
    expected = {tuple(f) for f in F if not any((g <= f).all() and (g < f).any() for g in F)}
    assert {(p.difference, p.gbops) for p in front} == expected
    assert len(front) == len(expected)
    assert list(front.values("bops")) == sorted(front.values("bops"))


def test_under_and_best(front):
    assert front.under(bops=5.0).best("difference") == front[2].policy
    assert front.under(bops=5.0, size_mib=2.0).best("difference") == front[1].policy
    assert front.best("size") == front[0].policy
    assert len(front.under(difference=0.01)) == 3
    with pytest.raises(InfeasibleBudgetError, match="bops: given at most 0.5; the smallest on this front is 1"):
        front.under(bops=0.5)
    with pytest.raises(InfeasibleBudgetError, match="within the other limits is 1"):
        front.under(difference=0.01, size_mib=0.1, bops=9)
    with pytest.raises(UnknownNameError, match="did you mean 'bops'"):
        front.best("bop")


def test_knee_is_farthest_below_the_chord(front):
    x = (front.values("bops") - 1) / 9
    y = (np.log10(front.values("difference")) + 3) / 3
    distance = (1 - x - y) / np.sqrt(2)
    assert front.knee() == front[int(distance.argmax())].policy == front[1].policy


def test_knees_of_degenerate_fronts(front_of):
    one = front_of([(0.1, 1, 1)])
    assert one.knee() == one[0].policy
    equal = front_of([(0.1, 1, 1), (0.1, 1, 1)])
    assert equal.knee() == equal[0].policy
    zero = front_of([(0.0, 1, 2), (0.5, 1, 1)])
    assert zero.knee() in {p.policy for p in zero}
    three = front_of([(1, 1, 5), (0.1, 2, 2), (0.05, 3, 1)], objectives=("difference", "size", "bops"))
    assert three.knee() == three[1].policy


def test_knee_of_a_negative_difference_is_on_a_linear_scale(front_of):
    front = front_of([(-40.0, 1, 10), (-38.0, 1, 2), (-5.0, 1, 1)])
    assert front.knee() == front[1].policy


def test_pick(front):
    assert front.pick("knee") == front.knee()
    assert front.pick("2") == front[2].policy
    assert front.pick("difference") == front[3].policy
    for wrong in ("4", "-1", "kneee", ""):
        with pytest.raises(ArgumentError, match="pick: given"):
            front.pick(wrong)


def test_an_empty_front_says_so():
    empty = ParetoFront(points=(), objectives=("difference", "bops"))
    for call in (empty.knee, lambda: empty.best("bops"), lambda: empty.under(bops=1)):
        with pytest.raises(ArgumentError, match="is empty"):
            call()
    assert empty.table().row_count == 0


def test_round_trip(front, tmp_path):
    path = tmp_path / "front.json"
    front.save(path)
    loaded = ParetoFront.load(path)
    assert loaded == front
    front.save(path)
    assert ParetoFront.load(path) == front
    assert [p.name for p in tmp_path.iterdir()] == ["front.json"]


def test_damaged_files(front, tmp_path):
    path = tmp_path / "front.json"
    with pytest.raises(MissingFileError, match="no such file"):
        ParetoFront.load(path)
    front.save(path)
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match="not JSON"):
        ParetoFront.load(path)
    path.write_text("[1, 2]")
    with pytest.raises(FormatError, match=r"given \[1, 2\]; allowed: a table"):
        ParetoFront.load(path)
    for change in ({"version": 9}, {"format": "other"}, {"points": [{}]}, {"objectives": ["x"]}, {"layers": 3}):
        path.write_text(json.dumps(json.loads(whole) | change))
        with pytest.raises(FormatError, match=r"front\.json"):
            ParetoFront.load(path)
    damaged = json.loads(whole)
    damaged["points"][0]["weight_bits"][0] = 77
    path.write_text(json.dumps(damaged))
    with pytest.raises(FormatError, match=r"points\[0\]\.weight_bits\[0\]: given 77"):
        ParetoFront.load(path)


def test_costs_of_another_network_are_noticed(front, network):
    with pytest.raises(FormatError, match="another network's layers"):
        check_costs(front.points, network.space)
    policy = network.uniform(4)
    with pytest.raises(FormatError, match="another network or input size"):
        check_costs([FrontPoint(policy=policy, difference=0, costs={"size": 1, "bops": 1})], network.space)


def test_table_shows_every_point_and_the_knee(front):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - pytest closes it
    with console.file:
        console.print(front.table())
        text = console.export_text()
    assert text.count("knee") == 1
    assert "GBOPs" in text
    assert "0.001" in text
    assert front.table(max_rows=2).row_count == 2


def test_results_of_other_problems_are_refused():
    with pytest.raises(ArgumentError, match="problem: given NoneType.*allowed: a PolicyProblem"):
        ParetoFront.from_result(SimpleNamespace(problem=None, X=None))
