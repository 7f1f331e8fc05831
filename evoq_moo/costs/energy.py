"""Energy as a cost: what one multiply-accumulate takes at each pair of bit-widths, times the MACs of each layer.

A table holds picojoules of one MAC for pairs of (weight bits, activation bits) of one piece of hardware; energy of
memory is not in it. A pair that it lacks takes the smallest energy of those it has that are at least as wide on both
sides. That rule is ours; published tables are e.g. in Horowitz, "Computing's energy problem" (ISSCC 2014).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from msgspec import Struct

from evoq_moo.costs._cost import MeasuredCost, register
from evoq_moo.costs._table import add_pair, check_pairs, filled_pairs, to_counts, write_csv
from evoq_moo.errors import ArgumentError
from evoq_moo.files import Amount, BitWidth, convert, read_csv, reading
from evoq_moo.space import IntArray, LayerInfo

COLUMNS = ("weight_bits", "activation_bits", "picojoules_per_mac")
LARGEST = 1e4
"""Most energy of one MAC (pJ): sums over networks of 10^14 MACs stay within 64 bits."""


class _Row(Struct):
    weight_bits: BitWidth
    activation_bits: BitWidth
    picojoules_per_mac: Amount


@register
@dataclass(frozen=True, kw_only=True)
class EnergyTable(MeasuredCost):
    """Energy of one MAC of some hardware; a policy's energy on one sample is counted in picojoules.

    Attributes:
        picojoules: For (weight bits, activation bits), the energy of one MAC (pJ).
        source: What was measured, in words.
    """

    name, unit, label, column = "energy", "mJ", "energy of the MACs", "energy_mj"
    scale = 10**9

    picojoules: Mapping[tuple[int, int], float]
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.picojoules:
            raise ArgumentError("energy: given no pairs of bit-widths; allowed: at least one")
        check_pairs("energy: the table", self.picojoules, LARGEST, "pJ")

    def layer_counts(self, layers: Sequence[LayerInfo]) -> IntArray:
        """Return the picojoules of each layer at every pair of bit-widths, int64 `(layers, 9, 9)`."""
        one = filled_pairs(self.picojoules)
        return np.array([to_counts(one, layer.macs) for layer in layers], dtype=np.int64).reshape(-1, *one.shape)

    def save(self, path: str | Path) -> None:
        """Write the table as CSV with the columns `weight_bits,activation_bits,picojoules_per_mac`."""
        write_csv(path, COLUMNS, [(*pair, repr(float(value))) for pair, value in sorted(self.picojoules.items())])

    @classmethod
    def load(cls, path: str | Path) -> "EnergyTable":
        """Read a table, of :meth:`save` or of a data sheet.

        Raises:
            MissingFileError: No such file.
            FormatError: Not such a table; the message names the line.
        """
        pairs: dict[tuple[int, int], float] = {}
        for where, row in read_csv(path, COLUMNS):
            with reading(where):
                found = convert(row, _Row, text=True)
                add_pair(pairs, found.weight_bits, found.activation_bits, found.picojoules_per_mac)
        with reading(f"{path}: not a table of energies"):
            return cls(picojoules=pairs, source=str(path))
