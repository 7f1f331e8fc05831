"""Latency tables, and latency as an objective and a budget."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import evoq_moo as evoq
from evoq_moo.errors import ArgumentError, EvoqError, FormatError, InfeasibleBudgetError, MissingFileError
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.space import LayerInfo, SearchSpace

LAYERS = [LayerInfo(name=name, kind="Linear", params=10, macs=10) for name in ("a", "b")]


def table(**changes):
    times = {"a": {(8, 8): 3.0, (4, 8): 2.5, (4, 4): 1.0}, "b": {(8, 8): 5.0, (32, 32): 9.0}}
    return evoq.LatencyTable(milliseconds=times, rest=0.5, **changes)


def test_a_missing_pair_takes_the_cheapest_wider_one():
    bits = np.array([[[8, 8], [8, 8]], [[4, 4], [2, 3]], [[3, 5], [16, 8]], [[2, 2], [32, 32]], [[5, 4], [8, 8]]])
    np.testing.assert_array_equal(table().of(LAYERS, bits), [8.5, 6.5, 12.0, 10.5, 8.5])
    with pytest.raises(ArgumentError, match="layer 'a' has no time for W16 A8"):
        table().of(LAYERS, np.array([[16, 8], [8, 8]]))
    with pytest.raises(ArgumentError, match=r"no times of layers \['c'\]"):
        table().of([LayerInfo(name="c", kind="Linear", params=1, macs=1)], np.array([[8, 8]]))


def test_bounds_are_those_of_every_policy():
    pairs = list(itertools.product([2, 4, 8], repeat=2))
    bits = np.array(list(itertools.product(pairs, pairs)))
    space = SearchSpace.build(LAYERS, weight_bits=[2, 4, 8], activation_bits=[2, 4, 8])
    times = table().of(LAYERS, bits)
    assert table().bounds(space) == (times.min(), times.max())
    assert table().of(LAYERS, space.decode(table().cheapest(space)))[0] == times.min()


def test_files_round_trip(tmp_path):
    table().save(tmp_path / "t.csv")
    assert evoq.LatencyTable.load(tmp_path / "t.csv") == table()
    text = (tmp_path / "t.csv").read_text()
    assert text.startswith("layer,weight_bits,activation_bits,milliseconds\n(rest),,,0.5\na,4,4,1.0\n")
    with pytest.raises(MissingFileError):
        evoq.LatencyTable.load(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "given the columns"),
        ("layer,bits,ms\n", "given the columns"),
        ("layer,weight_bits,activation_bits,milliseconds\n", "given no layers"),
        ("layer,weight_bits,activation_bits,milliseconds\na,8,8,nan\n", "given 'nan'"),
        ("layer,weight_bits,activation_bits,milliseconds\na,8,8,-1\n", "given '-1'"),
        ("layer,weight_bits,activation_bits,milliseconds\na,9,8,1\n", "W9 A8"),
        ("layer,weight_bits,activation_bits,milliseconds\na,8,8\n", "line 2"),
        ("layer,weight_bits,activation_bits,milliseconds\na,8,8,1\na,8,8,1\n", "given twice"),
        ("layer,weight_bits,activation_bits,milliseconds\na,8,x,1\n", "line 2"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(FormatError, match=message):
        evoq.LatencyTable.load(tmp_path / "t.csv")


@given(content=st.binary(max_size=80))
def test_any_bytes_give_our_error_or_a_table(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "t.csv"
    path.write_bytes(b"layer,weight_bits,activation_bits,milliseconds\n" + content)
    try:
        evoq.LatencyTable.load(path)
    except EvoqError:
        return


@pytest.fixture
def network(tiny_model, tiny_samples):
    return evoq.QuantizedNetwork(
        tiny_model, tiny_samples, weight_bits=[4, 8], activation_bits=[4, 8], engine="reference", progress=False
    )


@pytest.fixture
def times(network):
    return evoq.LatencyTable(
        milliseconds={
            layer.name: {(w, a): 1e-3 * w * a * (i + 1) for w in (4, 8) for a in (4, 8)}
            for i, layer in enumerate(network.space.layers)
        },
        rest=1.0,
    )


def test_a_search_on_latency(network, times, tmp_path):
    run = evoq.search(
        network,
        objectives=("difference", "latency"),
        costs=[times],
        evaluations=40,
        pop_size=10,
        seed=1,
        progress=False,
    )
    latencies = run.front.values("latency")
    assert (np.diff(latencies) > 0).all()
    bits = np.stack([point.policy.to_array() for point in run.front])
    np.testing.assert_allclose(latencies, times.of(network.space.layers, bits))
    run.front.save(tmp_path / "front.json")
    loaded = evoq.ParetoFront.load(tmp_path / "front.json")
    assert loaded == run.front
    assert loaded.best("latency") == loaded[0].policy
    assert len(loaded.under(latency_ms=float(np.median(latencies)))) < len(loaded)
    assert "latency (ms)" in [column.header for column in loaded.table().columns]


def test_a_budget_of_latency(network, times):
    problem = MixedPrecisionProblem(network, budgets={"latency_ms": 1.6}, costs=[times])
    X = np.stack([network.space.uniform(4), network.space.uniform(8)])
    G = problem.evaluate(X, return_values_of=["G"])
    np.testing.assert_allclose(G[:, 0], problem.values(X)["latency"] / 1.6 - 1)
    with pytest.raises(InfeasibleBudgetError, match="smallest reachable is 1.5"):
        MixedPrecisionProblem(network, budgets={"latency_ms": 1.01}, costs=[times])
    with pytest.raises(ArgumentError, match="latency: given no table"):
        MixedPrecisionProblem(network, objectives=("difference", "latency"))
    with pytest.raises(ArgumentError, match="costs: given dict"):
        MixedPrecisionProblem(network, costs=[{}])


def test_a_front_without_times_says_so(network):
    front = evoq.ParetoFront.from_vectors(MixedPrecisionProblem(network), network.space.uniform(8)[None])
    with pytest.raises(ArgumentError, match="not known of this policy"):
        front.values("latency")
    assert "latency (ms)" not in [column.header for column in front.table().columns]
