"""The reference engine: any network, by module replacement, in float32 fake quantization."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from evoq_moo._compute import ComputePool
from evoq_moo.arithmetic import activation_range, dequantize, per_channel, quantize, weight_range
from evoq_moo.difference import heads_of
from evoq_moo.layers import channel_dim, weight_of
from evoq_moo.ranges import LayerRanges
from evoq_moo.space import ACTIVATION, WEIGHT, IntArray


class WrappedLayer(nn.Module):
    """A layer in the place of another, `layer`, whose attributes are found on it: `conv.in_channels` still works."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


class QuantizedLayer(WrappedLayer):
    """A layer that computes with quantized weights and a quantized input.

    Everything else (stride, padding, bias, a subclass's own padding) is the wrapped layer's.

    Args:
        layer: The float layer. It is kept and its `weight` is replaced while weights are quantized.
        ranges: Its ranges for every allowed bit-width.
    """

    activation_scale: Tensor
    activation_zero_point: Tensor

    def __init__(self, layer: nn.Module, ranges: LayerRanges) -> None:
        super().__init__(layer)
        self.ranges = ranges
        self.weight_bits = 32
        self.activation_bits = 32
        device = weight_of(layer).device
        self.register_buffer("activation_scale", torch.ones(1, device=device))
        self.register_buffer("activation_zero_point", torch.zeros(1, dtype=torch.int32, device=device))

    def set_bits(self, weight_bits: int, activation_bits: int, *, float_weight: Tensor) -> None:
        """Quantize at these bit-widths from now on; 16 and 32 mean float.

        Args:
            weight_bits: Weight bit-width (bits).
            activation_bits: Bit-width of the input (bits).
            float_weight: The layer's weight in float32.
        """
        if weight_bits != self.weight_bits:
            weight = float_weight
            if weight_bits in self.ranges.weight_scales:
                scales = self.ranges.weight_scales[weight_bits].to(weight.device)
                scale = per_channel(scales, weight, channel_dim(self.layer))
                weight = dequantize(quantize(weight, scale, 0, *weight_range(weight_bits)), scale, 0)
            self.layer.weight = nn.Parameter(weight, requires_grad=False)
            self.weight_bits = weight_bits
        if activation_bits in self.ranges.activation:
            found = self.ranges.activation[activation_bits]
            self.activation_scale.fill_(found.scale)
            self.activation_zero_point.fill_(found.zero_point)
        self.activation_bits = activation_bits

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: A002 - the name torch's layers use
        """Run the layer on the quantized input."""
        if self.activation_bits in self.ranges.activation:
            lowest, highest = activation_range(self.activation_bits)
            levels = quantize(input, self.activation_scale, self.activation_zero_point, lowest, highest)
            input = dequantize(levels, self.activation_scale, self.activation_zero_point)  # noqa: A001
        return self.layer(input, *args, **kwargs)

    def extra_repr(self) -> str:
        """Show the bit-widths."""
        return f"W{self.weight_bits} A{self.activation_bits}"


def replace_modules(network: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Put other modules in the place of some, in place, wherever those are registered.

    Args:
        network: The network.
        replacements: For a module of the network, what takes its place.
    """
    for parent in list(network.modules()):
        for attribute, child in list(parent._modules.items()):
            if child is not None and child in replacements:
                parent._modules[attribute] = replacements[child]


def replace_layers(network: nn.Module, ranges: Mapping[str, LayerRanges]) -> list[QuantizedLayer]:
    """Wrap the named layers of a network, in place, wherever they are registered.

    Args:
        network: The network.
        ranges: Ranges for each layer's name, in policy order.

    Returns:
        The wrapped layers in the same order.
    """
    modules = dict(network.named_modules())
    wrapped = {modules[name]: QuantizedLayer(modules[name], found) for name, found in ranges.items()}
    replace_modules(network, wrapped)
    return [wrapped[modules[name]] for name in ranges]


class ReferenceEngine:
    """Computes a network's heads under given bit-widths, in float32.

    Args:
        network: The folded float network; it is changed: its layers are wrapped.
        samples: Float32 `(samples, ...)`.
        ranges: Ranges for each layer's name, in policy order.
        batch_size: Samples in a micro-batch.
        pool: Where micro-batches run.
    """

    name = "reference"

    def __init__(
        self,
        *,
        network: nn.Module,
        samples: Tensor,
        ranges: Mapping[str, LayerRanges],
        batch_size: int,
        pool: ComputePool,
    ) -> None:
        self._network = network
        self._batches: Sequence[Tensor] = torch.split(samples, batch_size)
        self._pool = pool
        self.layers = replace_layers(network, ranges)
        self._float_weights: list[Tensor] = [weight_of(layer.layer) for layer in self.layers]

    @contextmanager
    def bits(self, bits: IntArray) -> Iterator[nn.Module]:
        """Give the network with bit-widths `(layers, 2)` set; the float network is always restored."""

        def set_layer(i: int) -> None:
            w, a = int(bits[i, WEIGHT]), int(bits[i, ACTIVATION])
            self.layers[i].set_bits(w, a, float_weight=self._float_weights[i])

        try:
            self._pool.map(set_layer, range(len(self.layers)))
            yield self._network
        finally:
            for layer, float_weight in zip(self.layers, self._float_weights, strict=True):
                layer.set_bits(32, 32, float_weight=float_weight)

    def scan(self, bits: IntArray) -> Iterator[list[Tensor]]:
        """Give the heads under each of many bit-widths `(policies, layers, 2)`, one full pass each."""
        return (self.heads(policy) for policy in bits)

    def heads(self, bits: IntArray) -> list[Tensor]:
        """Return the network's heads under bit-widths `(layers, 2)`, float32 `(samples, ...)` each."""
        with self.bits(bits) as network:
            parts = self._pool.map(lambda batch: heads_of(network(batch)), self._batches)
        return [torch.cat(head) for head in zip(*parts, strict=True)]
