"""Fitted models of the difference: what a network's policies cost in output, from a few numbers a gene.

Our choice, by validation (`benchmarks/surrogate_training.py`). Quantization noise adds up: gene `j` at `b` bits adds an
error of magnitude `u_jb`, and errors of different genes are correlated through a few shared directions `v_jb` (all
pairs of genes interact, in a low-rank form):

    D = floor + sum_j u_jb^2 + |sum_j v_jb|^2
    L = link(log D) + sum_j m_jb

with a smooth link, as the divergence saturates where noise is large, and a main effect `m_jb` of each gene. What
interactions this leaves over, a layer of rectified units `k` learns, whose inputs are sums over genes too:

    log(difference) = L + sum_k r_k max(0, sum_j h_jbk + l_k L + o_k)
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseModel:
    """The fitted model.

    Attributes:
        own: Float64 `(n_var, bits)`: `u_jb^2`.
        shared: Float64 `(n_var, bits, directions)`: `v_jb`.
        shift: Float64 `(n_var, bits)`: `m_jb`.
        floor: Noise of what has no gene.
        slope: Intercept and slope of the link's straight part, `(2,)`.
        knots: Float64 `(knots,)`: where the link bends.
        bends: Float64 `(knots,)`: how much the slope changes there (softplus hinges).
        hidden: Float64 `(n_var, bits, units)`: `h_jbk`; there may be no unit.
        levels: Float64 `(units,)`: `l_k`.
        offsets: Float64 `(units,)`: `o_k`.
        readout: Float64 `(units,)`: `r_k`.
    """

    own: FloatArray = field(repr=False)
    shared: FloatArray = field(repr=False)
    shift: FloatArray = field(repr=False)
    floor: float
    slope: FloatArray = field(repr=False)
    knots: FloatArray = field(repr=False)
    bends: FloatArray = field(repr=False)
    hidden: FloatArray = field(repr=False)
    levels: FloatArray = field(repr=False)
    offsets: FloatArray = field(repr=False)
    readout: FloatArray = field(repr=False)

    @property
    def terms(self) -> FloatArray:
        """What each gene adds, float64 `(n_var, bits, 2 + directions + units)`.

        In this order: own noise, main effect, shared noise, inputs of the units.
        """
        return np.concatenate([self.own[..., None], self.shift[..., None], self.shared, self.hidden], axis=2)

    def differences(self, sums: FloatArray) -> FloatArray:
        """Return differences from the sums of terms over genes, float64 `(n, 2 + directions + units)`."""
        first_unit = 2 + self.shared.shape[2]
        noise = self.floor + sums[:, 0]
        for k in range(2, first_unit):  # column by column: one policy gives the same as many
            noise += sums[:, k] * sums[:, k]
        level = np.log(noise)
        value = self.slope[0] + self.slope[1] * level + sums[:, 1]
        for knot, bend in zip(self.knots.tolist(), self.bends.tolist(), strict=True):
            value += bend * np.logaddexp(0.0, level - knot)
        logs = value.copy()
        for k, weight in enumerate(self.readout.tolist()):
            unit = sums[:, first_unit + k] + self.levels[k] * value + self.offsets[k]
            logs += weight * np.maximum(unit, 0.0)
        return np.asarray(np.exp(logs))

    def arrays(self) -> dict[str, Any]:
        """Return the numbers as arrays by name."""
        return {
            "own": self.own,
            "shared": self.shared,
            "shift": self.shift,
            "floor": np.array(self.floor),
            "slope": self.slope,
            "knots": self.knots,
            "bends": self.bends,
            "hidden": self.hidden,
            "levels": self.levels,
            "offsets": self.offsets,
            "readout": self.readout,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any]) -> "NoiseModel":
        """Rebuild a model from what :meth:`arrays` gave."""
        return cls(**{**arrays, "floor": float(arrays["floor"])})


@dataclass(frozen=True, kw_only=True, eq=False)
class AdditiveModel:
    """The sum of the sensitivity table's entries: no interactions, and an exact front by dynamic programming.

    Attributes:
        sensitivity: The table.
    """

    sensitivity: SensitivityTable

    @property
    def terms(self) -> FloatArray:
        """What each gene adds, float64 `(n_var, bits, 1)`."""
        return np.nan_to_num(self.sensitivity.values)[..., None]

    def differences(self, sums: FloatArray) -> FloatArray:
        """Return differences from the sums of terms over genes, float64 `(n, 1)`."""
        return np.asarray(sums[:, 0])


Model = NoiseModel | AdditiveModel
