"""What measured tables share: values of pairs of bit-widths, and writing them as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from evoq_moo.costs._cost import UNKNOWN
from evoq_moo.errors import ArgumentError, check_number, quoted
from evoq_moo.files import write_atomically
from evoq_moo.space import ALLOWED_BITS, FloatArray, IntArray

Pairs = Mapping[tuple[int, int], float]
"""For (weight bits, activation bits), a value."""


def check_pairs(what: str, pairs: Pairs, most: float, unit: str) -> None:
    """Raise unless values of pairs of bit-widths are numbers from 0 to `most`.

    Args:
        what: What they are of, for the message.
        pairs: The values.
        most: Largest allowed value.
        unit: Unit of the values, for the message.

    Raises:
        ArgumentError: A bit-width is not an allowed one, or a value is no such number.
    """
    for (weight, activation), value in pairs.items():
        if weight not in ALLOWED_BITS or activation not in ALLOWED_BITS:
            raise ArgumentError(f"{what} has W{quoted(weight)} A{quoted(activation)}; allowed: {list(ALLOWED_BITS)}")
        check_number(f"{what} at W{weight} A{activation} ({unit})", value, 0, most)


def filled_pairs(pairs: Pairs) -> FloatArray:
    """Return values at all pairs of `ALLOWED_BITS`, float64 `(9, 9)`.

    A pair that is not given takes the smallest value of those given that are at least as wide on both sides: hardware
    without 4-bit kernels runs such a layer in its 8-bit ones. Infinite where no pair is as wide.
    """
    given = np.full((len(ALLOWED_BITS), len(ALLOWED_BITS)), np.inf)
    for (weight, activation), value in pairs.items():
        given[ALLOWED_BITS.index(weight), ALLOWED_BITS.index(activation)] = value
    wider = np.minimum.accumulate(given[::-1], axis=0)[::-1]
    wider = np.minimum.accumulate(wider[:, ::-1], axis=1)[:, ::-1]
    return np.where(np.isfinite(given), given, wider)


def to_counts(values: FloatArray, scale: float) -> IntArray:
    """Return values times a scale as whole numbers, int64; `UNKNOWN` where a value is infinite."""
    known = np.isfinite(values)
    return np.where(known, np.rint(np.where(known, values, 0.0) * scale), UNKNOWN).astype(np.int64)


def write_csv(path: str | Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table as CSV, whole or not at all."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([columns, *rows])
    write_atomically(path, buffer.getvalue().encode())


def add_pair(pairs: dict[tuple[int, int], float], weight: int, activation: int, value: float) -> None:
    """Take a row of a table into its pairs.

    Raises:
        ValueError: The pair is there already.
    """
    if (weight, activation) in pairs:
        raise ValueError(f"W{weight} A{activation} is given twice")
    pairs[weight, activation] = value
