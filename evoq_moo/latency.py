"""Latency as a cost: the time of each layer at each pair of bit-widths, measured here or on a device, and added up.

A table holds milliseconds for pairs of (weight bits, activation bits) of each layer, and for what runs between layers.
A pair that it lacks takes the time of the cheapest pair it has that is at least as wide on both sides: a device without
4-bit kernels runs such a layer in its 8-bit ones. That rule, and that layers' times add up, are ours;
:func:`evoq_moo.profile_latency` says how far the sum is from the whole.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from msgspec import Struct

from evoq_moo._files import write_atomically
from evoq_moo._schema import Amount, BitWidth, Text, convert, read_csv, reading
from evoq_moo.errors import ArgumentError
from evoq_moo.space import ACTIVATION, ALLOWED_BITS, WEIGHT, FloatArray, IntArray, LayerInfo

COLUMNS = ("layer", "weight_bits", "activation_bits", "milliseconds")
REST = "(rest)"
"""In a file, the name of the row for what runs between layers."""
_WIDEST = max(ALLOWED_BITS)


class _Rest(Struct):
    milliseconds: Amount


class _Row(_Rest):
    layer: Text
    weight_bits: BitWidth
    activation_bits: BitWidth


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Times of the layers of one network.

    Attributes:
        milliseconds: For each layer's name, the time (ms) of (weight bits, activation bits).
        rest: Time of what runs between layers, whatever the policy (ms).
        source: What was measured, in words.
    """

    milliseconds: Mapping[str, Mapping[tuple[int, int], float]]
    rest: float = 0.0
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.milliseconds:
            raise ArgumentError("latency: given no layers; allowed: at least one")
        _check_time("rest", self.rest)
        for name, times in self.milliseconds.items():
            for (weight, activation), value in times.items():
                if weight not in ALLOWED_BITS or activation not in ALLOWED_BITS:
                    raise ArgumentError(
                        f"latency: layer {name!r} has W{weight} A{activation}; allowed: {list(ALLOWED_BITS)}"
                    )
                _check_time(f"layer {name!r} at W{weight} A{activation}", value)

    @cached_property
    def _times(self) -> dict[str, FloatArray]:
        """For each layer, float64 `(33, 33)`: the time of a pair, by the rule; infinite where no pair is as wide."""
        found = {}
        for name, times in self.milliseconds.items():
            array = np.full((_WIDEST + 2, _WIDEST + 2), np.inf)
            for (weight, activation), value in times.items():
                array[weight, activation] = value
            cheapest = np.minimum.accumulate(array[::-1], axis=0)[::-1]
            cheapest = np.minimum.accumulate(cheapest[:, ::-1], axis=1)[:, ::-1]
            found[name] = np.where(np.isfinite(array), array, cheapest)
        return found

    def check(self, layers: Sequence[LayerInfo], bits: IntArray) -> None:
        """Raise unless the table has a time for every layer at some bit-widths.

        Args:
            layers: The network's layers.
            bits: Bit-widths `(..., layers, 2)`.

        Raises:
            ArgumentError: A layer is missing, or no pair is as wide as one that is asked for.
        """
        missing = [layer.name for layer in layers if layer.name not in self.milliseconds]
        if missing:
            raise ArgumentError(f"latency: has no times of layers {missing[:5]}; allowed: a table of every layer")
        for i, layer in enumerate(layers):
            times = self._times[layer.name][bits[..., i, WEIGHT], bits[..., i, ACTIVATION]]
            if not np.isfinite(times).all():
                weight, activation = (int(b) for b in bits[..., i, :][~np.isfinite(times)].reshape(-1, 2)[0])
                raise ArgumentError(
                    f"latency: layer {layer.name!r} has no time for W{weight} A{activation}, nor for a wider pair; "
                    f"given pairs: {sorted(self.milliseconds[layer.name])}"
                )

    def of(self, layers: Sequence[LayerInfo], bits: IntArray) -> FloatArray:
        """Return the latency of policies (ms).

        Args:
            layers: The network's layers.
            bits: Bit-widths `(..., layers, 2)`.

        Returns:
            Float64 `(...)`.

        Raises:
            ArgumentError: As :meth:`check`.
        """
        self.check(layers, bits)
        total = np.full(bits.shape[:-2], self.rest, dtype=np.float64)
        for i, layer in enumerate(layers):
            total += self._times[layer.name][bits[..., i, WEIGHT], bits[..., i, ACTIVATION]]
        return total

    def smallest(self, layers: Sequence[LayerInfo], bits: IntArray) -> float:
        """Return a lower bound of the latency of any policy at least as wide as one (ms).

        Args:
            layers: The network's layers.
            bits: The narrowest bit-widths `(layers, 2)`.
        """
        least = [
            float(self._times[layer.name][w:, a:].min()) for layer, (w, a) in zip(layers, bits.tolist(), strict=True)
        ]
        return self.rest + sum(least)

    def save(self, path: str | Path) -> None:
        """Write the table as CSV with the columns `layer,weight_bits,activation_bits,milliseconds`."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerow([REST, "", "", repr(float(self.rest))])
        for name, times in self.milliseconds.items():
            for (weight, activation), value in sorted(times.items()):
                writer.writerow([name, weight, activation, repr(float(value))])
        write_atomically(path, buffer.getvalue().encode())

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
                pair = (found.weight_bits, found.activation_bits)
                if pair in times.setdefault(found.layer, {}):
                    raise ValueError(f"{found.layer} at W{pair[0]} A{pair[1]} is given twice")
                times[found.layer][pair] = found.milliseconds
        with reading(f"{path}: not a table of latencies"):
            return cls(milliseconds=times, rest=rest or 0.0, source=str(path))


def _check_time(what: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ArgumentError(f"latency: {what}: given {value!r}; allowed: milliseconds of 0 or more")
