import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoq_moo import Policy
from evoq_moo.errors import ArgumentError, EvoqError, FormatError, MissingFileError
from evoq_moo.export import read_bits, write_bits

POLICY = Policy(("a.0", "b, c"), (4, 32), (8, 2))


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_round_trip(tmp_path, suffix):
    write_bits(POLICY, tmp_path / f"bits.{suffix}")
    assert read_bits(tmp_path / f"bits.{suffix}") == POLICY


def test_the_table_is_plain(tmp_path):
    write_bits(POLICY, tmp_path / "bits.csv")
    assert (tmp_path / "bits.csv").read_text() == 'layer,weight_bits,activation_bits\na.0,4,8\n"b, c",32,2\n'


@pytest.mark.parametrize(
    "text",
    ["", "a,b\n", "layer,weight_bits,activation_bits\na,9,8\n", "layer,weight_bits,activation_bits\na,8\n",
     "layer,weight_bits,activation_bits\na,8,8\na,8,8\n", "layer,weight_bits,activation_bits\na,x,8\n"],
)  # fmt: skip
def test_bad_tables(tmp_path, text):
    (tmp_path / "bits.csv").write_text(text)
    with pytest.raises(FormatError):
        read_bits(tmp_path / "bits.csv")


def test_bad_names(tmp_path):
    with pytest.raises(ArgumentError, match=r"\.csv or \.json"):
        write_bits(POLICY, tmp_path / "bits.txt")
    with pytest.raises(MissingFileError):
        read_bits(tmp_path / "bits.csv")


@given(content=st.binary(max_size=60), suffix=st.sampled_from(["csv", "json"]))
def test_any_bytes_give_our_error_or_a_policy(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("fuzz") / f"bits.{suffix}"
    head = b"layer,weight_bits,activation_bits\n" if suffix == "csv" else b'{"format":"evoq-moo/bits","version":1,'
    path.write_bytes(head + content)
    try:
        read_bits(path)
    except EvoqError:
        return
