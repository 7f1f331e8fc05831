import dataclasses
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoq_moo.costs import policy_cost
from evoq_moo.errors import ArgumentError, BitWidthError, EvoqError, UnknownNameError
from evoq_moo.space import ALLOWED_BITS, LayerInfo, Policy, SearchSpace

LAYERS = tuple(LayerInfo(name=f"features.{i}", kind="Conv2d", params=10 * i + 1, macs=100 * i + 1) for i in range(4))
NAMES = [layer.name for layer in LAYERS]

bit_sets = st.sets(st.sampled_from(ALLOWED_BITS), min_size=1, max_size=5)


@st.composite
def build_arguments(draw):
    """Arguments of a space with gaps, pins, overrides, tied or not."""
    tied = draw(st.booleans())
    weight_bits = draw(bit_sets)
    activation_bits = weight_bits if tied else draw(bit_sets)
    overrides = {}
    for name in draw(st.sets(st.sampled_from(NAMES), max_size=2)):
        bits = draw(bit_sets)
        keys = ("weight_bits", "activation_bits")
        if not tied:
            keys = draw(st.sets(st.sampled_from(keys), min_size=1))
        overrides[name] = dict.fromkeys(keys, bits)
    pinned = draw(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(ALLOWED_BITS), max_size=2))
    return {
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
        "tied": tied,
        "overrides": overrides,
        "pinned": pinned,
    }


def expected_choices(arguments, name, key):
    """The documented rule: overrides win over pins, pins over the defaults."""
    if key in arguments["overrides"].get(name, {}):
        return sorted(arguments["overrides"][name][key])
    return [arguments["pinned"][name]] if name in arguments["pinned"] else sorted(arguments[key])


@settings(max_examples=200, deadline=None)
@given(arguments=build_arguments(), seed=st.integers(0, 2**32 - 1))
def test_any_space(arguments, seed):
    space = SearchSpace.build(LAYERS, **arguments)
    cardinality = 1
    for i, name in enumerate(NAMES):
        for column, key in enumerate(("weight_bits", "activation_bits")):
            wanted = expected_choices(arguments, name, key)
            genes = [g for g in space.genes if g.layer == i and column in g.columns]
            assert [list(g.choices) for g in genes] == ([wanted] if len(wanted) > 1 else [])
            if not genes:
                assert space.base[i, column] == wanted[-1]
            elif not (arguments["tied"] and column):
                cardinality *= len(wanted)
    assert space.cardinality == cardinality
    assert space.n_var == len(space.genes) == len(set(space.gene_names))
    assert (space.lower < space.upper).all()
    kinds = [g.kind for g in space.genes]
    assert kinds == sorted(kinds, key=("weight", "both", "activation").index)  # weights first

    X = space.sample(5, np.random.default_rng(seed))
    assert X.dtype == np.int64
    assert X.shape == (5, space.n_var)
    assert (space.check(X) == X).all()
    assert (space.snap(X) == X).all()
    bits = space.decode(X)
    assert bits.shape == (5, len(LAYERS), 2)
    for x, decoded in zip(X, bits, strict=True):
        policy = space.policy(x)
        assert (policy.to_array() == decoded).all()
        assert (space.encode(policy) == x).all()

    again = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert (again.layers, again.genes) == (space.layers, space.genes)
    assert (again.decode(X) == bits).all()


@settings(max_examples=50, deadline=None)
@given(arguments=build_arguments(), value=st.floats(-100, 100))
def test_snap_goes_to_the_nearest(arguments, value):
    space = SearchSpace.build(LAYERS, **arguments)
    snapped = space.snap(np.full((2, space.n_var), value))
    assert snapped.dtype == np.int64
    for j, gene in enumerate(space.genes):
        nearest = min(abs(value - b) for b in gene.choices)
        assert snapped[0, j] == min(b for b in gene.choices if abs(value - b) == nearest)


def test_vector_order_and_names():
    space = SearchSpace.build(LAYERS, weight_bits=[8, 2, 4], activation_bits=[3, 8], pinned={"features.0": 8})
    assert space.gene_names == (
        "features.1.weight",
        "features.2.weight",
        "features.3.weight",
        "features.1.activation",
        "features.2.activation",
        "features.3.activation",
    )
    assert space.decode([2, 4, 8, 3, 8, 3])[0].tolist() == [[8, 8], [2, 3], [4, 8], [8, 3]]
    assert space.uniform(6).tolist() == [4, 4, 4, 8, 8, 8]
    assert space.lower.tolist() == [2, 2, 2, 3, 3, 3]
    assert space.upper.tolist() == [8] * 6
    assert str(space.policy(space.lower)).splitlines()[1] == "features.1  W2 A3"


def test_enumerate_yields_every_vector_once():
    space = SearchSpace.build(LAYERS[:2], weight_bits=[2, 4, 8], activation_bits=[3, 8])
    X = np.array(list(space.enumerate()))
    assert X.shape == (space.cardinality, 4) == (36, 4)
    assert len(np.unique(X, axis=0)) == 36
    space.check(X)


def test_cardinality_of_large_spaces_is_exact():
    layers = [LayerInfo(name=str(i), kind="Linear", params=1, macs=1) for i in range(100)]
    space = SearchSpace.build(layers, weight_bits=range(2, 9), activation_bits=range(2, 9))
    assert space.cardinality == 7**200


def test_sampling_is_uniform_and_seeded():
    space = SearchSpace.build(LAYERS, weight_bits=[2, 4, 8], activation_bits=[8])
    X = space.sample(3000, np.random.default_rng(1))
    assert np.array_equal(X, space.sample(3000, np.random.default_rng(1)))
    for b in (2, 4, 8):
        assert np.count_nonzero(b == X) / X.size == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"weight_bits": []}, ArgumentError, "weight_bits: given an empty set"),
        ({"weight_bits": [1, 2]}, ArgumentError, r"weight_bits: given \[1\]"),
        ({"activation_bits": [9]}, ArgumentError, r"activation_bits: given \[9\]"),
        ({"activation_bits": [4.0]}, ArgumentError, r"given \[4.0\]"),
        ({"activation_bits": [True]}, ArgumentError, r"given \[True\]"),
        ({"weight_bits": 8}, ArgumentError, "given 8; allowed: a collection"),
        ({"tied": True, "activation_bits": [8]}, ArgumentError, "tied: .*'features.0'"),
        ({"pinned": {"features.0": 1}}, ArgumentError, r"pinned\['features.0'\]"),
        ({"pinned": {"feature.0": 8}}, UnknownNameError, "did you mean 'features.0'"),
        ({"overrides": {"head": {}}}, UnknownNameError, "overrides"),
        ({"overrides": {"features.0": {"weights": [8]}}}, UnknownNameError, "did you mean 'weight_bits'"),
        ({"overrides": {"features.0": {"weight_bits": []}}}, ArgumentError, r"overrides\['features.0'\]"),
    ],
)
def test_build_refuses(change, error, match):
    with pytest.raises(error, match=match):
        SearchSpace.build(LAYERS, **{"weight_bits": [2, 8], "activation_bits": [2, 8]} | change)


@pytest.mark.parametrize(
    ("X", "match"),
    [
        ([[2, 2, 2, 2.5]], r"X\[0, 3\] \(features.3.weight\): given 2.5; allowed: \[2, 4, 8\].*BitWidthRepair"),
        ([[2, 2, 2, 2], [2, 3, 2, 2]], r"X\[1, 1\]"),
        ([[2, 2, 2]], r"shape \(1, 3\); allowed: \(n, 4\)"),
        ([[[2, 2, 2, 2]]], "shape"),
        ([[2, 2, 2, math.nan]], "X"),
        ([[2, 2, 2, math.inf]], "X"),
        ([[2, 2, 2, None]], "X"),
        ([[2, 2, 2, -2]], "given -2"),
    ],
)
def test_check_refuses(X, match):
    space = SearchSpace.build(LAYERS, weight_bits=[2, 4, 8], activation_bits=[8])
    with pytest.raises(BitWidthError, match=match):
        space.check(X)


def test_check_takes_whole_floats_and_single_vectors():
    space = SearchSpace.build(LAYERS, weight_bits=[2, 4, 8], activation_bits=[8])
    checked = space.check([2.0, 4.0, 8.0, 2.0])
    assert checked.dtype == np.int64
    assert checked.tolist() == [[2, 4, 8, 2]]
    assert space.check(np.empty((0, 4))).shape == (0, 4)


def test_snap_refuses_nan():
    space = SearchSpace.build(LAYERS, weight_bits=[2, 4, 8], activation_bits=[8])
    with pytest.raises(BitWidthError, match="NaN"):
        space.snap([[2, 2, math.nan, 2]])


def test_policies():
    space = SearchSpace.build(LAYERS, weight_bits=[2, 4, 8], activation_bits=[8])
    policy = space.policy([2, 4, 8, 2])
    assert policy == Policy(tuple(NAMES), (2, 4, 8, 2), (8, 8, 8, 8))
    with pytest.raises(BitWidthError, match=r"features\.1.*W3 A8.*W2 A8"):
        space.encode(Policy(tuple(NAMES), (2, 3, 8, 2), (8, 8, 8, 8)))
    with pytest.raises(BitWidthError, match=r"features\.2.*W8 A4.*holds is W8 A8"):
        space.encode(Policy(tuple(NAMES), (2, 4, 8, 2), (8, 8, 4, 8)))
    with pytest.raises(ArgumentError, match="policy: is of layers"):
        space.encode(Policy(("other",), (2,), (8,)))
    with pytest.raises(ArgumentError, match="1 layers need as many"):
        Policy(("a",), (2, 3), (8,))
    with pytest.raises(BitWidthError, match=r"activation_bits holds \[9\]"):
        Policy(("a",), (2,), (9,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.weight_bits = (8, 8, 8, 8)


def test_tied_policies_must_be_tied():
    space = SearchSpace.build(LAYERS, weight_bits=[2, 4, 8], activation_bits=[2, 4, 8], tied=True)
    assert space.n_var == 4
    with pytest.raises(BitWidthError, match="W2 A4"):
        space.encode(Policy(tuple(NAMES), (2, 2, 2, 2), (4, 2, 2, 2)))


@pytest.mark.parametrize(
    "damage",
    [
        {"layers": None},
        {"layers": [{"name": "a"}]},
        {"genes": [{"layer": 9, "kind": "weight", "choices": [2, 8]}]},
        {"genes": [{"layer": 0, "kind": "bias", "choices": [2, 8]}]},
        {"genes": [{"layer": 0, "kind": "weight", "choices": [2, 80]}]},
        {"base": [[8, 8]]},
    ],
)
def test_damaged_data_is_refused(damage):
    data = SearchSpace.build(LAYERS, weight_bits=[2, 8], activation_bits=[8]).to_json()
    SearchSpace.from_json(data)
    with pytest.raises((KeyError, TypeError, ValueError)):
        SearchSpace.from_json(data | damage)


@pytest.mark.parametrize(
    ("bits", "given"),
    [
        ([[4.9, 8]], "4.9"),
        ([[8, 7.999999]], "7.999999"),
        ([[np.nan, 8]], "nan"),
        ([[np.inf, 8]], "inf"),
        ([[-1e300, 8]], "-1e[+]300"),
        ([[True, False]], "values of bool"),
        ([["4", "8"]], "values of <U1"),
        ([[4, None]], "values of object"),
        ([[4 + 1j, 8]], "values of complex128"),
        ([[10**400, 8]], "values of object"),
        ([[4, 8], [4]], "rows of different lengths"),
    ],
)
def test_bits_are_never_truncated(bits, given):
    """Bug: 4.9 bits were 4."""
    data = SearchSpace.build(LAYERS[:1], weight_bits=[4, 8], activation_bits=[8]).to_json()
    for use in (
        lambda: Policy.from_array(NAMES[:1], bits),
        lambda: policy_cost(LAYERS[:1], bits),
    ):
        with pytest.raises(BitWidthError, match=f"given {given}; allowed: (an array of )?whole numbers"):
            use()
    with pytest.raises(EvoqError):
        SearchSpace.from_json(data | {"base": bits})


def test_whole_numbers_of_any_type_are_bits():
    for bits in ([[4.0, 8.0]], np.array([[4, 8]], dtype=np.uint8), ((4, 8),)):
        policy = Policy.from_array(NAMES[:1], bits)
        assert policy == Policy(tuple(NAMES[:1]), (4,), (8,))
        assert policy_cost(LAYERS[:1], bits) == policy_cost(LAYERS[:1], policy.to_array())
    widths = Policy(tuple(NAMES[:1]), (np.int64(4),), (8.0,))
    assert json.dumps([widths.weight_bits, widths.activation_bits]) == "[[4], [8]]"


def test_bits_of_another_shape_are_refused():
    for bits, shape in (([4, 8], "(2,)"), ([[4, 8, 2]], "(1, 3)"), ([[4, 8]] * 2, "(2, 2)"), ([], "(0,)")):
        with pytest.raises(ArgumentError, match=re.escape(f"bits: given shape {shape}; allowed: (layers, 2) = (1, 2)")):
            Policy.from_array(NAMES[:1], bits)
    with pytest.raises(BitWidthError, match="an array of whole numbers"):
        Policy.from_array(NAMES[:1], [[4, 8], [4]])


def test_a_layer_whose_name_no_file_can_hold_is_refused():
    layer = LayerInfo(name="a\ud800", kind="Linear", params=1, macs=1)
    with pytest.raises(ArgumentError, match=r"layers: given 'a\\ud800'; allowed: text in UTF-8"):
        SearchSpace.build([layer], weight_bits=[2], activation_bits=[2])


@pytest.mark.parametrize("given", [10**400, "4", None, {"a": 1}, 4 + 1j, True])
def test_vectors_are_of_numbers(given):
    """Bug: `uniform(10**400)` and strings in vectors ended in a traceback of NumPy's."""
    space = SearchSpace.build(LAYERS, weight_bits=[2, 8], activation_bits=[8])
    for use in (lambda: space.uniform(given), lambda: space.check([[given] * space.n_var])):
        with pytest.raises(BitWidthError, match="X: given values of .*; allowed: numbers"):
            use()
    with pytest.raises(BitWidthError, match="X: given rows of different lengths"):
        space.snap([[2] * space.n_var, [2]])
