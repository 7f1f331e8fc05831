"""The reference engine: any network on any device, in float32 fake quantization: the definition."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from evoq_moo._compute import ComputePool
from evoq_moo.difference import heads_of
from evoq_moo.graph import Samples, run, split
from evoq_moo.quantizer import (
    FLOAT_RESULTS,
    LayerParameters,
    LayerRanges,
    QuantizedLayer,
    ResultRanges,
    parameters_of,
    quantize_results,
)
from evoq_moo.space import IntArray, LayerInfo, whole_bits


class ReferenceEngine:
    """Computes a network's heads under given bit-widths, in float32.

    Args:
        network: The float network; it is changed: its layers are made quantized ones.
        samples: The samples.
        layers: Its layers, in policy order.
        ranges: Ranges for each layer's name.
        results: Those of results between layers.
        batch_size: Samples in a micro-batch.
        pool: Where micro-batches run.
    """

    name = "reference"

    def __init__(
        self,
        *,
        network: nn.Module,
        samples: Samples,
        layers: Sequence[LayerInfo],
        ranges: Mapping[str, LayerRanges],
        results: ResultRanges = FLOAT_RESULTS,
        batch_size: int,
        pool: ComputePool,
    ) -> None:
        self._network = network
        self._batches = split(samples, batch_size)
        self._pool = pool
        self._infos = tuple(layers)
        self._ranges = ranges
        self._results = results
        modules = dict(network.named_modules())
        self._layers = [QuantizedLayer(modules[info.name]) for info in layers]

    @contextmanager
    def bits(self, bits: IntArray) -> Iterator[nn.Module]:
        """Give the network with bit-widths `(layers, 2)` set; the float network is always restored."""
        pairs = whole_bits("bits", bits).tolist()

        def set_layer(i: int) -> LayerParameters:
            layer, info = self._layers[i], self._infos[i]
            ranges = self._ranges[info.name]
            parameters = parameters_of(info, layer.float_weight, layer.float_bias, ranges, pairs[i])
            layer.set(parameters)
            return parameters

        try:
            parameters = self._pool.map(set_layer, range(len(self._layers)))
            quantize_results(self._network, self._results.of(parameters))
            yield self._network
        finally:
            quantize_results(self._network, ())
            for layer in self._layers:
                layer.reset()

    def scan(self, bits: IntArray) -> Iterator[list[Tensor]]:
        """Give the heads under each of many bit-widths `(policies, layers, 2)`, one full pass each."""
        return (self.heads(policy) for policy in bits)

    def heads(self, bits: IntArray) -> list[Tensor]:
        """Return the network's heads under bit-widths `(layers, 2)`, float32 `(samples, ...)` each."""
        with self.bits(bits) as network:
            parts = self._pool.map(lambda batch: heads_of(run(network, batch)), self._batches)
        return [torch.cat(head) for head in zip(*parts, strict=True)]
