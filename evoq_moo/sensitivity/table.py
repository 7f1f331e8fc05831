"""The sensitivity table: how much the output changes when one gene alone is quantized.

EvoQ's abstract says that each layer's quantization sensitivity shapes the mutation; how it is measured is not public.
Our choice: the difference of the network's output on the search's own samples when one gene (a layer's weights, its
input activation, or both where they are tied) has a bit-width and everything else stays float.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from evoq_moo.errors import ArgumentError, check_name
from evoq_moo.files import BitWidth, Number, read_json, reading, write_atomically
from evoq_moo.space import FloatArray, IntArray, SearchSpace, SpaceData

FORMAT = "evoq-moo/sensitivity"


class _TableData(Struct):
    space: SpaceData
    bits: tuple[BitWidth, ...]
    values: tuple[tuple[Number | None, ...], ...]
    metric: str


@dataclass(frozen=True, kw_only=True, eq=False)
class SensitivityTable:
    """Differences of single-gene quantizations.

    Attributes:
        space: The search space whose genes were measured.
        bits: Bit-widths of the columns, ascending.
        values: Float64 `(n_var, len(bits))`: the difference with gene `j` alone at `bits[k]` and everything else
            float. At 16 and 32 bits the difference of the float network to itself, 0 for most metrics; NaN where the
            gene does not allow the bit-width.
        metric: Name of the difference.
    """

    space: SearchSpace
    bits: tuple[int, ...]
    values: FloatArray = field(repr=False)
    metric: str

    def __post_init__(self) -> None:
        needed = {b for gene in self.space.genes for b in gene.choices}
        if list(self.bits) != sorted(set(self.bits)) or not needed <= set(self.bits):
            raise ArgumentError(f"bits: given {self.bits}; allowed: ascending, with each of {sorted(needed)}")
        shape = (self.space.n_var, len(self.bits))
        if self.values.shape != shape:
            raise ArgumentError(f"values: given shape {self.values.shape}; allowed: (genes, bit-widths) = {shape}")
        allowed = self.allowed
        if not np.isfinite(self.values[allowed]).all():
            raise ArgumentError("values: holds NaN or infinity for an allowed bit-width; allowed: finite differences")

    @property
    def allowed(self) -> npt.NDArray[np.bool_]:
        """Bool `(n_var, len(bits))`: which gene allows which bit-width."""
        allowed = [[b in gene.choices for b in self.bits] for gene in self.space.genes]
        return np.array(allowed, dtype=bool).reshape(self.space.n_var, len(self.bits))

    def columns(self, X: npt.ArrayLike) -> IntArray:
        """Return the column of each value of vectors `(n, n_var)`, int64 of the same shape."""
        return np.searchsorted(self.bits, self.space.check(X)).astype(np.int64)

    def predict(self, X: npt.ArrayLike) -> FloatArray:
        """Return the additive prediction of vectors: the sum of their genes' differences, float64 `(n,)`.

        Interactions between layers are ignored; that is what the search is for.

        Args:
            X: Vectors `(n, n_var)`.
        """
        columns = self.columns(X)
        return np.asarray(self.values[np.arange(self.space.n_var)[None, :], columns].sum(axis=1))

    def lookup(self, layer: str, kind: str, bits: int) -> float:
        """Return the difference of one gene at one bit-width.

        Args:
            layer: Name of the layer.
            kind: ``"weight"``, ``"activation"`` or ``"both"``.
            bits: Bit-width (bits).

        Raises:
            UnknownNameError: No such layer or gene.
            ArgumentError: The gene does not allow the bit-width.
        """
        check_name("layer", layer, self.space.layer_names)
        check_name("kind", f"{layer}.{kind}", self.space.gene_names)
        j = self.space.gene_names.index(f"{layer}.{kind}")
        if bits not in self.space.genes[j].choices:
            raise ArgumentError(
                f"bits: given {bits!r}; allowed for {layer}.{kind}: {list(self.space.genes[j].choices)}"
            )
        return float(self.values[j, self.bits.index(bits)])

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, whole or not at all."""
        values = [[None if math.isnan(v) else v for v in row] for row in self.values.tolist()]
        data = {
            "format": FORMAT,
            "version": 1,
            "space": self.space.to_json(),
            "bits": list(self.bits),
            "values": values,
            "metric": self.metric,
        }
        write_atomically(path, json.dumps(data).encode())

    @classmethod
    def load(cls, path: str | Path) -> "SensitivityTable":
        """Read a table that :meth:`save` wrote.

        Raises:
            MissingFileError: No such file.
            FormatError: The file is not a sensitivity table, is damaged, or of an unknown version.
        """
        data = read_json(path, _TableData, format_name=FORMAT, version=1)
        with reading(f"{path}: not a sensitivity table"):
            values = np.array([[math.nan if v is None else v for v in row] for row in data.values], dtype=np.float64)
            return cls(
                space=data.space.space(),
                bits=data.bits,
                values=values.reshape(-1, len(data.bits)),
                metric=data.metric,
            )


def check_sensitivity(sensitivity: Any) -> SensitivityTable:
    """Return a sensitivity table of a space with genes.

    Raises:
        ArgumentError: It is not such a table.
    """
    if not isinstance(sensitivity, SensitivityTable):
        raise ArgumentError(f"sensitivity: given {type(sensitivity).__name__}; allowed: a SensitivityTable")
    if not sensitivity.space.genes:
        raise ArgumentError("sensitivity: its space has no genes; allowed: one or more")
    return sensitivity
