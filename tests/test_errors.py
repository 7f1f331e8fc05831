"""The door of messages: quotes are cut, what can't be printed is escaped."""

import pickle

import numpy as np
import pytest
import torch

from evoq_moo.costs import LatencyTable
from evoq_moo.errors import (
    QUOTE,
    ArgumentError,
    EvoqError,
    FormatError,
    MissingFileError,
    OutOfMemoryError,
    StoreError,
    check_count,
    check_memory,
    check_number,
    check_text,
)
from evoq_moo.network import QuantizedNetwork
from evoq_moo.space import Policy, check_bits


@pytest.mark.parametrize("kind", [ArgumentError, FormatError, MissingFileError, StoreError])
@pytest.mark.parametrize(
    "given", ["a" * 5000, ["layer"] * 5000, {"a": list(range(5000))}, tuple(range(5000)), 'it\'s "x"' * 900]
)
def test_quotes_are_cut(kind, given):
    error = kind(f"policy: given {given!r}; it isn't allowed (only short ones are); allowed: 'short'")
    text = str(error)
    assert len(text) < QUOTE + 100
    assert text.startswith("policy: given ")
    assert text.endswith("; it isn't allowed (only short ones are); allowed: 'short'")
    assert "..." in text
    assert str(pickle.loads(pickle.dumps(error))) == text


def test_short_messages_stay_as_they_are():
    text = "layers: given ['a', 'b'] (see the how-to), which isn't it; allowed: {'x': 1}, or \"y\"\nand a second line"
    assert str(EvoqError(text)) == text


def test_what_no_terminal_prints_is_escaped():
    assert str(FormatError("name 'a\ud800b\x1b[31m\x00'")) == r"name 'a\ud800b\x1b[31m\x00'"


def test_words_and_messages_without_end_are_cut():
    assert len(str(FormatError(f"/folder/{'x' * 10_000}/end is missing"))) < 600
    assert len(str(FormatError("word " * 10_000))) <= 4000
    assert len(str(FormatError("(['" * 10**6))) <= 4000


def test_names_that_no_file_can_hold_are_refused_before_anything_is_written():
    check_text("samples", "photos \u00e9")
    check_text("samples", None)
    for given in ("photos\udcff", "a\0b"):
        with pytest.raises(ArgumentError, match="samples: given .*; allowed: text in UTF-8"):
            check_text("samples", given)


def test_counts_have_a_highest_value():
    assert check_count("seed", 2**63 - 1) == 2**63 - 1
    with pytest.raises(ArgumentError, match="seed: given 99999999999999999999; allowed: an integer of at most"):
        check_count("seed", 99999999999999999999)
    for value in (10**5000, -(10**5000)):
        with pytest.raises(ArgumentError, match="seed: given an integer of 16610 bits"):
            check_count("seed", value)


def test_numbers_that_no_float_holds():
    for value in (10**400, -(10**400), 10**5000, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="share: given .*; allowed: a number from 0 to 1"):
            check_number("share", value, 0, 1)
    with pytest.raises(ArgumentError, match="time: given .*; allowed: a number from 0"):
        check_number("time", 10**400, 0, float("inf"))


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64, np.int64, np.uint8, int, float])
def test_numbers_may_be_numpys(kind):
    """Bug: `budgets={"bops": np.float32(3)}` was "not a number"."""
    found = check_number("budget", kind(3), 0, float("inf"))
    assert found == 3.0
    assert type(found) is float


def test_integers_that_python_cannot_write():
    """Bug: `weight_bits=[10**5000]` ended in Python's own ValueError about its limit of digits."""
    for use in (
        lambda: check_bits("weight_bits", [10**5000]),
        lambda: Policy(("conv",), (10**5000,), (8,)),
        lambda: LatencyTable(milliseconds={"conv": {(10**5000, 8): 1.0}}),
    ):
        with pytest.raises(ArgumentError, match="thousands of digits|an integer of 16610 bits"):
            use()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("can't start new thread"),
        RuntimeError("could not create a primitive"),
        ImportError("libx.so: failed to map segment from shared object: Cannot allocate memory"),
        type("Fail", (Exception,), {})("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bad allocation"),
    ],
)
def test_memory_that_ran_out_is_known_in_all_its_forms(error):
    with pytest.raises(OutOfMemoryError, match="^not enough memory"):
        check_memory(error)
    with pytest.raises(MemoryError):
        check_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("could not create a primitive descriptor for the forward propagation"),
        ValueError("given 'std::bad_alloc'"),
        FormatError("front.json: given 'out of memory'"),
    ],
)
def test_other_errors_are_not_for_want_of_memory(error):
    check_memory(error)


@pytest.mark.parametrize("place", ["forward", "export"])
def test_a_network_is_not_blamed_for_want_of_memory(place, monkeypatch):
    """Bug: "the network can't run on a batch: RuntimeError: can't start new thread", and a quiet change of engines."""

    def fail(*_, **__):
        raise RuntimeError("std::bad_alloc")

    if place == "export":
        monkeypatch.setattr(torch.export, "export", fail)
    else:
        monkeypatch.setattr(torch.nn.Linear, "forward", fail)
    with pytest.raises(OutOfMemoryError, match=r"not enough memory \(std::bad_alloc\)"):
        QuantizedNetwork(torch.nn.Linear(3, 2), torch.rand(4, 3), progress=False)
