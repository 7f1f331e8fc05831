"""Model size: the bits of the weights, and apart what comes on top of them.

The definition is that of HAWQ-V3 (Yao et al., ICML 2021) and its ResNet18 table; the anchors are in the tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evoq_moo.costs._cost import Cost, CostValues, known_costs, register
from evoq_moo.space import ALLOWED_BITS, IntArray, LayerInfo, whole_bits

MIB = 2**20
_FLOAT_BYTES = 4
_RANGE_BYTES = 5
"""One float32 scale and one 8-bit zero point."""


@register
class Size(Cost):
    """Size of the quantized weights (MiB): the sum over layers of `params * weight_bits`, / 8 / 2^20."""

    name, unit, label, column = "size", "MiB", "weight size", "size_mib"
    scale = 8 * MIB

    def layer_counts(self, layers: Sequence[LayerInfo]) -> IntArray:
        """Return the weight bits of each layer at every pair of bit-widths, int64 `(layers, 9, 9)`."""
        params = np.array([layer.params for layer in layers], dtype=np.int64)
        bits = params[:, None, None] * np.array(ALLOWED_BITS)[None, :, None]
        return np.broadcast_to(bits, (len(layers), len(ALLOWED_BITS), len(ALLOWED_BITS)))


def overhead_bytes(layers: Sequence[LayerInfo], bits: IntArray, *, float_params: int = 0) -> int:
    """Return what one policy stores beside quantized weights (bytes).

    These are float32 biases, a float32 scale for each output channel of quantized weights, one float32 scale and one
    8-bit zero point for each quantized activation, and the parameters of what is not quantized at all.

    Args:
        layers: The quantizable layers.
        bits: Bit-widths `(layers, 2)`.
        float_params: Bytes of all parameters and buffers outside the quantizable layers, which stay float.
    """
    return float_params + sum(
        _FLOAT_BYTES * layer.bias_params
        + (_FLOAT_BYTES * layer.output_channels if w <= 8 else 0)
        + (_RANGE_BYTES if a <= 8 else 0)
        for layer, (w, a) in zip(layers, bits.tolist(), strict=True)
    )


@dataclass(frozen=True, kw_only=True)
class PolicyCost(CostValues):
    """Costs of one policy.

    Attributes:
        costs: Every cost that needs no table, by name.
        overhead_mib: What is stored beside quantized weights, see :func:`overhead_bytes` (MiB).
    """

    overhead_mib: float


def policy_cost(layers: Sequence[LayerInfo], bits: npt.ArrayLike, *, float_params: int = 0) -> PolicyCost:
    """Return the costs of one policy.

    Args:
        layers: The quantizable layers.
        bits: Bit-widths `(layers, 2)`.
        float_params: As :func:`overhead_bytes` takes it.

    Raises:
        BitWidthError: A value is not an allowed bit-width.
    """
    array = whole_bits("bits", bits)
    return PolicyCost(
        costs={cost.name: float(cost.of(layers, array)) for cost in known_costs()},
        overhead_mib=overhead_bytes(layers, array, float_params=float_params) / MIB,
    )
