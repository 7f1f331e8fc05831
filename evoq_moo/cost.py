"""Model size and bit operations of policies, in the field's definitions.

The definitions are those of HAWQ-V3 (Yao et al., ICML 2021) and its ResNet18 table; the anchors are in the tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evoq_moo.errors import check_name
from evoq_moo.space import ACTIVATION, WEIGHT, FloatArray, IntArray, LayerInfo, whole_bits

COSTS = ("size_mib", "gbops")
"""Names of the cost columns."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Costs of one policy.

    Attributes:
        size_mib: Size of the quantized weights (MiB); scales and biases are in `overhead_mib`.
        gbops: Bit operations of one forward pass on one sample (10^9 BOPs).
        overhead_mib: Size of the float32 weight scales and biases, and of one float32 scale and one 8-bit
            zero-point for each quantized activation (MiB).
    """

    size_mib: float
    gbops: float
    overhead_mib: float


def weight_bit_count(layers: Sequence[LayerInfo], bits: IntArray) -> IntArray:
    """Return the exact number of weight bits of each policy.

    Args:
        layers: The quantizable layers.
        bits: Int64 `(..., layers, 2)`.

    Returns:
        Int64 `(...)`: the sum over layers of `params * weight_bits`.
    """
    params = np.array([layer.params for layer in layers], dtype=np.int64)
    return np.asarray(bits[..., WEIGHT] @ params)


def bit_operations(layers: Sequence[LayerInfo], bits: IntArray) -> IntArray:
    """Return the exact number of bit operations of each policy.

    Args:
        layers: The quantizable layers.
        bits: Int64 `(..., layers, 2)`.

    Returns:
        Int64 `(...)`: the sum over layers of `MACs * weight_bits * activation_bits`.
    """
    macs = np.array([layer.macs for layer in layers], dtype=np.int64)
    return np.asarray((bits[..., WEIGHT] * bits[..., ACTIVATION]) @ macs)


def size_mib(layers: Sequence[LayerInfo], bits: IntArray) -> FloatArray:
    """Return the weight size of each policy in MiB: weight bits / 8 / 2^20. Shapes as `weight_bit_count`."""
    return np.asarray(weight_bit_count(layers, bits) / 8 / 2**20)


def gbops(layers: Sequence[LayerInfo], bits: IntArray) -> FloatArray:
    """Return the bit operations of each policy in 10^9 BOPs. Shapes as `bit_operations`."""
    return np.asarray(bit_operations(layers, bits) / 1e9)


def cost_matrix(layers: Sequence[LayerInfo], bits: IntArray) -> FloatArray:
    """Return float64 `(n, 2)`: size (MiB) and GBOPs of bit-widths `(n, layers, 2)`."""
    return np.stack([size_mib(layers, bits), gbops(layers, bits)], axis=-1)


def cost_by_layer(layers: Sequence[LayerInfo], bits: IntArray, cost: str) -> FloatArray:
    """Return what each layer contributes to a cost, float64 `(..., layers)` (MiB or GBOPs).

    Args:
        layers: The quantizable layers.
        bits: Int64 `(..., layers, 2)`.
        cost: ``"size_mib"`` or ``"gbops"``.

    Raises:
        UnknownNameError: `cost` is not a cost.
    """
    check_name("cost", cost, COSTS)
    if cost == "size_mib":
        return np.asarray(bits[..., WEIGHT] * [layer.params for layer in layers] / 8 / 2**20)
    return np.asarray(bits[..., WEIGHT] * bits[..., ACTIVATION] * [layer.macs for layer in layers] / 1e9)


def policy_cost(layers: Sequence[LayerInfo], bits: npt.ArrayLike) -> Cost:
    """Return the costs of one policy.

    Args:
        layers: The quantizable layers.
        bits: Bit-widths `(layers, 2)`.

    Raises:
        BitWidthError: A value is not a whole number.
    """
    array = whole_bits("bits", bits)
    overhead_bytes = sum(
        4 * layer.bias_params + (4 * layer.output_channels if w <= 8 else 0) + (5 if a <= 8 else 0)
        for layer, (w, a) in zip(layers, array.tolist(), strict=True)
    )
    return Cost(
        size_mib=float(size_mib(layers, array)),
        gbops=float(gbops(layers, array)),
        overhead_mib=overhead_bytes / 2**20,
    )


def check_cost(cost: str | None) -> None:
    """Raise unless `cost` is None or the name of a cost.

    Raises:
        UnknownNameError: It is neither.
    """
    if cost is not None:
        check_name("cost", cost, COSTS)
