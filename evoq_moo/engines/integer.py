"""The integer engine: the reference's arithmetic on int8 kernels, for a fraction of a float forward."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor

from evoq_moo._compute import ComputePool
from evoq_moo.engines._captured import CapturedRunner
from evoq_moo.engines._kernels import integer_supported
from evoq_moo.engines._layers import integer_layers
from evoq_moo.errors import ArgumentError, NetworkError, check_count
from evoq_moo.graph import GraphNetwork, Samples, count, device_of, relative_error
from evoq_moo.quantizer import FLOAT_RESULTS, LayerRanges, ResultRanges
from evoq_moo.space import IntArray, LayerInfo, whole_bits

__all__ = ["IntegerEngine", "integer_supported"]


class IntegerEngine:
    """Computes a network's heads under given bit-widths, products of quantized layers in integers.

    Where one layer alone reads a result, its levels are made straight from the int32 sums; a clip, a max-pooling, a
    concatenation or another move in between runs on levels. Results of 8 bits are kept as levels too. Where several
    others read a result, it is float32 and is quantized once for each distinct quantizer.

    A layer with one side at 16 or 32 bits, and a layer there is no exact integer kernel for, computes in float32 as
    in the reference. On processors without int8 dot-product instructions that is any layer with both sides at 8 bits.

    Results do not depend on the number of threads or, on the micro-batch size, except through
    operators between layers that mix samples or whose own rounding depends on it (none of those in torchvision's
    classifiers). They differ from the reference's where its float32 sums round across the border of a level: one such
    flip re-rounds everything behind it. `benchmarks/engine_agreement.py` compares both with float64, and with float64
    whose results are rounded once to float32, which no float32 arithmetic can be closer than.

    Args:
        network: The captured float network.
        samples: The samples.
        layers: Its layers, in policy order.
        ranges: Ranges for each layer's name.
        results: Those of results between layers.
        batch_size: Samples in a micro-batch; None for a size that keeps results in cache.
        pool: Where micro-batches run.

    Attributes:
        fallbacks: Why layers never compute in integers, by name.

    Raises:
        ArgumentError: This processor does not compute int8 products exactly, there are no samples or the micro-batch
            size is not positive.
    """

    name = "integer"

    def __init__(
        self,
        *,
        network: GraphNetwork,
        samples: Samples,
        layers: Sequence[LayerInfo],
        ranges: Mapping[str, LayerRanges],
        results: ResultRanges = FLOAT_RESULTS,
        batch_size: int | None = None,
        pool: ComputePool,
    ) -> None:
        supported, reason = pool.run(integer_supported)
        if not supported:
            raise ArgumentError(f"engine: 'integer' can't run here: {reason}; allowed: 'reference'")
        if count(samples) == 0:
            raise ArgumentError("samples: given no samples; allowed: at least one")
        if batch_size is not None:
            check_count("batch_size", batch_size)
        if device_of(samples).type != "cpu":
            raise ArgumentError(f"engine: 'integer' runs on the CPU, given samples on {device_of(samples)}")
        if tuple(layer.name for layer in layers) != network.graph.layers:
            raise ArgumentError("layers: given layers of another network; allowed: those of the graph, in its order")
        self._layers = integer_layers(network, ranges)
        self.fallbacks = {layer.name: layer.refusal for layer in self._layers if layer.refusal}
        self._runner = CapturedRunner(
            network=network, samples=samples, layers=self._layers, results=results, batch_size=batch_size, pool=pool
        )

    def check(self, float_heads: Sequence[Tensor], largest: float) -> None:
        """Raise unless all layers in float give the float network's heads.

        Args:
            float_heads: The float network's heads on the samples.
            largest: Largest relative error allowed.

        Raises:
            NetworkError: They don't.
        """
        error = relative_error(float_heads, self.heads(np.full((len(self._layers), 2), 32, dtype=np.int64)))
        if error > largest:
            raise NetworkError(f"engine: with all layers in float it is off by a relative error of {error:.2g}")

    def _checked(self, bits: IntArray, dims: int) -> IntArray:
        array = whole_bits("bits", bits)
        if array.ndim != dims or array.shape[-2:] != (len(self._layers), 2):
            shape = f"{'(policies, ' if dims == 3 else '('}{len(self._layers)}, 2)"
            raise ArgumentError(f"bits: given shape {array.shape}; allowed: {shape}")
        return array

    def heads(self, bits: IntArray) -> list[Tensor]:
        """Return the network's heads under bit-widths `(layers, 2)`, float32 `(samples, ...)` each.

        Raises:
            ArgumentError: `bits` has another shape.
            NonFiniteError: An operator between layers makes NaN or infinity.
        """
        return self._runner.heads(self._checked(bits, 2))

    def scan(self, bits: IntArray) -> Iterator[list[Tensor]]:
        """Give the heads under each of many bit-widths `(policies, layers, 2)` that leave most layers in float.

        The float network runs once on each micro-batch, and each policy computes only what
        comes behind its first quantized layer.

        Raises:
            ArgumentError: `bits` has another shape.
            NonFiniteError: An operator between layers makes NaN or infinity.
        """
        return self._runner.scan(self._checked(bits, 3))
