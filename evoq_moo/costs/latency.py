"""Latency as a cost: the time of each layer at each pair of bit-widths, measured here or on a device, and added up.

A table holds milliseconds for pairs of (weight bits, activation bits) of each layer, and for what runs between layers.
A pair that it lacks takes the time of the cheapest pair it has that is at least as wide on both sides. That rule, and
that layers' times add up, are ours; :func:`evoq_moo.export.profile_latency` says how far the sum is from the whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from msgspec import Struct

from evoq_moo.costs._cost import MeasuredCost, register
from evoq_moo.costs._table import add_pair, check_pairs, filled_pairs, to_counts, write_csv
from evoq_moo.errors import ArgumentError, check_number
from evoq_moo.files import Amount, BitWidth, Text, convert, read_csv, reading
from evoq_moo.space import ALLOWED_BITS, IntArray, LayerInfo

COLUMNS = ("layer", "weight_bits", "activation_bits", "milliseconds")
REST = "(rest)"
"""In a file, the name of the row for what runs between layers."""
LARGEST = 1e6
"""Longest time of a layer (ms): sums of picoseconds stay within 64 bits."""


class _Rest(Struct):
    milliseconds: Amount


class _Row(_Rest):
    layer: Text
    weight_bits: BitWidth
    activation_bits: BitWidth


@register
@dataclass(frozen=True, kw_only=True)
class LatencyTable(MeasuredCost):
    """Times of the layers of one network, counted in picoseconds.

    Attributes:
        milliseconds: For each layer's name, the time (ms) of (weight bits, activation bits).
        rest: Time of what runs between layers, whatever the policy (ms).
        source: What was measured, in words.
    """

    name, unit, label, column = "latency", "ms", "latency", "latency_ms"
    scale = 10**9

    milliseconds: Mapping[str, Mapping[tuple[int, int], float]]
    rest: float = 0.0
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.milliseconds:
            raise ArgumentError("latency: given no layers; allowed: at least one")
        check_number("latency: rest (ms)", self.rest, 0, LARGEST)
        for name, times in self.milliseconds.items():
            check_pairs(f"latency: layer {name!r}", times, LARGEST, "ms")

    @property
    def fixed(self) -> int:
        """Picoseconds of what runs between layers."""
        return round(self.rest * self.scale)

    def layer_counts(self, layers: Sequence[LayerInfo]) -> IntArray:
        """Return the picoseconds of each layer at every pair of bit-widths, int64 `(layers, 9, 9)`.

        Raises:
            ArgumentError: The table lacks a layer.
        """
        missing = [layer.name for layer in layers if layer.name not in self.milliseconds]
        if missing:
            raise ArgumentError(f"latency: has no times of layers {missing[:5]}; allowed: a table of every layer")
        found = [to_counts(filled_pairs(self.milliseconds[layer.name]), self.scale) for layer in layers]
        return np.array(found, dtype=np.int64).reshape(len(layers), len(ALLOWED_BITS), len(ALLOWED_BITS))

    def _no_value(self, layer: LayerInfo, weight: int, activation: int) -> str:
        return (
            f"latency: layer {layer.name!r} has no time for W{weight} A{activation}, nor for a wider pair; "
            f"given pairs: {sorted(self.milliseconds[layer.name])}"
        )

    def save(self, path: str | Path) -> None:
        """Write the table as CSV with the columns `layer,weight_bits,activation_bits,milliseconds`."""
        rows: list[tuple[object, ...]] = [(REST, "", "", repr(float(self.rest)))]
        for name, times in self.milliseconds.items():
            rows += [(name, *pair, repr(float(value))) for pair, value in sorted(times.items())]
        write_csv(path, COLUMNS, rows)

    @classmethod
    def load(cls, path: str | Path) -> "LatencyTable":
        """Read a table, of :meth:`save` or of a device.

        Raises:
            MissingFileError: No such file.
            FormatError: Not such a table; the message names the line.
        """
        times: dict[str, dict[tuple[int, int], float]] = {}
        rest: float | None = None
        for where, row in read_csv(path, COLUMNS):
            with reading(where):
                if row["layer"] == REST:
                    if rest is not None:
                        raise ValueError(f"{REST} is given twice")
                    rest = convert(row, _Rest, text=True).milliseconds
                    continue
                found = convert(row, _Row, text=True)
                pairs = times.setdefault(found.layer, {})
                add_pair(pairs, found.weight_bits, found.activation_bits, found.milliseconds)
        with reading(f"{path}: not a table of latencies"):
            return cls(milliseconds=times, rest=rest or 0.0, source=str(path))
