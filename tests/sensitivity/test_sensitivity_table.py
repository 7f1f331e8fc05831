import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoq_moo.errors import ArgumentError, BitWidthError, FormatError, MissingFileError, UnknownNameError
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import LayerInfo, SearchSpace

LAYERS = [LayerInfo(name=f"layer{i}", kind="Linear", params=10, macs=10) for i in range(2)]
SPACE = SearchSpace.build(
    LAYERS, weight_bits=[2, 4, 8, 32], activation_bits=[8], overrides={"layer1": {"activation_bits": [3, 8]}}
)
BITS = (2, 3, 4, 8, 32)
NAN = np.nan
VALUES = np.array(
    [
        [1.0, NAN, 0.25, 0.125, 0.0],
        [2.0, NAN, 0.5, 0.0625, 0.0],
        [NAN, 4.0, NAN, 0.03125, NAN],
    ]
)


def table(**changes):
    arguments = {"space": SPACE, "bits": BITS, "values": VALUES, "metric": "kl"}
    return SensitivityTable(**arguments | changes)


def test_predict_adds_up_the_genes():
    assert SPACE.gene_names == ("layer0.weight", "layer1.weight", "layer1.activation")
    predicted = table().predict([[2, 4, 3], [32, 32, 8], [8, 2, 8]])
    assert predicted.tolist() == [1.0 + 0.5 + 4.0, 0.03125, 0.125 + 2.0 + 0.03125]
    assert table().predict([2, 4, 3]).tolist() == [5.5]
    assert table().columns([[2, 4, 3]]).tolist() == [[0, 2, 1]]
    with pytest.raises(BitWidthError, match=r"layer1\.activation"):
        table().predict([[2, 4, 4]])


def test_lookup():
    assert table().lookup("layer1", "activation", 3) == 4.0
    assert table().lookup("layer0", "weight", 32) == 0.0
    with pytest.raises(UnknownNameError, match="did you mean 'layer1'"):
        table().lookup("layer9", "weight", 8)
    with pytest.raises(UnknownNameError, match=r"layer0\.activation"):
        table().lookup("layer0", "activation", 8)
    with pytest.raises(ArgumentError, match=r"bits: given 3; allowed for layer0.weight: \[2, 4, 8, 32\]"):
        table().lookup("layer0", "weight", 3)


def test_allowed():
    assert (table().allowed == ~np.isnan(VALUES)).all()


@pytest.mark.parametrize(
    "values", [VALUES[:2], VALUES[:, :4], *(np.where(VALUES == 2, x, VALUES) for x in (NAN, np.inf))]
)
def test_bad_values_are_refused(values):
    with pytest.raises(ArgumentError, match="values"):
        table(values=values)


@settings(max_examples=50, deadline=None)
@given(
    numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=8, max_size=8),
    tied=st.booleans(),
    metric=st.text(),
)
def test_save_and_load_give_the_same_table_bit_for_bit(tmp_path_factory, numbers, tied, metric):
    both = {"weight_bits": [2, 8], "activation_bits": [2, 8]}
    space = SearchSpace.build(LAYERS, **both, tied=tied)
    saved = SensitivityTable(
        space=space, bits=(2, 8), values=np.array(numbers).reshape(-1, 2)[: space.n_var], metric=metric
    )
    path = tmp_path_factory.mktemp("table") / "new folder" / "table.json"
    saved.save(path)
    loaded = SensitivityTable.load(path)
    assert loaded.values.tobytes() == saved.values.tobytes()
    assert (loaded.bits, loaded.metric) == (saved.bits, saved.metric)
    assert (loaded.space.genes, loaded.space.layers) == (space.genes, space.layers)


def test_save_keeps_gaps_and_is_plain_json(tmp_path):
    path = tmp_path / "table.json"
    table().save(path)
    loaded = SensitivityTable.load(path)
    np.testing.assert_array_equal(loaded.values, VALUES)
    assert (loaded.allowed == table().allowed).all()
    data = json.loads(path.read_text())
    assert (data["format"], data["version"], data["values"][0][1]) == ("evoq-moo/sensitivity", 1, None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.json"]  # no temporary file left


def test_missing_file(tmp_path):
    with pytest.raises(MissingFileError, match=r"none\.json"):
        SensitivityTable.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[1, 2]", r"given \[1, 2\]; allowed: a table"),
        (b'{"format": "evoq-moo/front", "version": 1}', "given format 'evoq-moo/front'"),
        (b'{"format": "evoq-moo/sensitivity", "version": 2}', "given version 2"),
        (b'{"format": "evoq-moo/sensitivity", "version": 1}', "not evoq-moo/sensitivity: space is needed"),
    ],
)
def test_bad_files(tmp_path, content, match):
    path = tmp_path / "table.json"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=match) as caught:
        SensitivityTable.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        {"values": None},
        {"values": [[1.0]]},
        {"values": [[1.0, None, None, 0.1, 0.0]] * 3},
        {"values": [["a", None, 0.2, 0.1, 0.0]] * 3},
        {"bits": 8},
        {"bits": [2, 3, 4, 8]},
        {"space": {}},
        {"space": []},
    ],
)
def test_damaged_files(tmp_path, damage):
    path = tmp_path / "table.json"
    table().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(FormatError, match="not (a sensitivity table|evoq-moo/sensitivity)"):
        SensitivityTable.load(path)


def test_truncated_file(tmp_path):
    path = tmp_path / "table.json"
    table().save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FormatError, match="not JSON"):
        SensitivityTable.load(path)
