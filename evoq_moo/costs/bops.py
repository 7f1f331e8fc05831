"""Bit operations, as HAWQ-V3 (Yao et al., ICML 2021) counts them; the anchors are in the tests."""

from collections.abc import Sequence

import numpy as np

from evoq_moo.costs._cost import Cost, register
from evoq_moo.space import ALLOWED_BITS, IntArray, LayerInfo


@register
class BitOperations(Cost):
    """Bit operations of one sample (10^9 BOPs): the sum over layers of `MACs * weight_bits * activation_bits`."""

    name, unit, label, column = "bops", "GBOPs", "bit operations", "gbops"
    scale = 10**9

    def layer_counts(self, layers: Sequence[LayerInfo]) -> IntArray:
        """Return the bit operations of each layer at every pair of bit-widths, int64 `(layers, 9, 9)`."""
        macs = np.array([layer.macs for layer in layers], dtype=np.int64)
        bits = np.array(ALLOWED_BITS)
        return np.asarray(macs[:, None, None] * bits[:, None] * bits[None, :])
