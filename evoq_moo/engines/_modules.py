"""Integer layers inside a network that can't be captured: float32 in, levels inside, float32 out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evoq_moo._compute import ComputePool
from evoq_moo.difference import heads_of
from evoq_moo.engines._capture import NO_CLIP, Op, geometry_of
from evoq_moo.engines._kernels import epilogue, levels_of
from evoq_moo.engines._layers import BoundLayer, IntegerLayer
from evoq_moo.engines._steps import product
from evoq_moo.engines.reference import QuantizedLayer, replace_modules
from evoq_moo.errors import NonFiniteError
from evoq_moo.ranges import LayerRanges
from evoq_moo.space import IntArray

_FORWARDS: dict[type[nn.Module], int] = {nn.Linear: 0, nn.Conv1d: 1, nn.Conv2d: 2}


class IntegerModule(QuantizedLayer):
    """A layer that computes in integers where the policy and its class allow, else as the reference does.

    Args:
        layer: The float layer.
        ranges: Its ranges.
        weights: Its weights as levels.
    """

    def __init__(self, layer: nn.Module, ranges: LayerRanges, weights: IntegerLayer) -> None:
        super().__init__(layer, ranges)
        self.bound: BoundLayer | None = None
        plain = next((cls for cls in _FORWARDS if _computes_as(layer, cls)), None)
        self.dims = -1 if plain is None or weights.refusal else _FORWARDS[plain]
        if self.dims >= 0:
            self.geometry = geometry_of(_as_call(layer, weights.weight))
            weights.place(self.geometry, None)

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: A002 - the name torch's layers use
        """Run the layer on the quantized input."""
        bound = self.bound
        if bound is None or bound.quantizer is None:
            return super().forward(input, *args, **kwargs)
        if not input.isfinite().all():
            raise NonFiniteError("the quantized network computes NaN or infinity on the samples")
        alone = self.dims > 0 and input.dim() == self.dims + 1
        levels = levels_of(input.unsqueeze(0) if alone else input, bound.quantizer)
        y = product(levels, bound, self.geometry, self.dims, epilogue(NO_CLIP, None))
        return y.squeeze(0) if alone else y


def _computes_as(layer: nn.Module, cls: type[nn.Module]) -> bool:
    """Return whether a layer's forward is that of one of torch's classes, with zeros around the input."""
    same = type(layer).forward is cls.forward
    inner = getattr(type(layer), "_conv_forward", None) is getattr(cls, "_conv_forward", None)
    return same and inner and getattr(layer, "padding_mode", "zeros") == "zeros"


def _as_call(layer: Any, weight: Tensor) -> Op:
    """Return the call that a layer's forward makes, for its geometry."""
    if isinstance(layer, nn.Linear):
        return Op("", torch.ops.aten.linear.default, (None, weight), {}, None)
    args = (None, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    return Op("", torch.ops.aten.conv2d.default, args, {}, None)


def replace_with_integers(
    network: nn.Module, ranges: Mapping[str, LayerRanges], layers: Sequence[IntegerLayer]
) -> list[IntegerModule]:
    """Wrap the named layers of a network, in place, wherever they are registered.

    Args:
        network: The network.
        ranges: Ranges for each layer's name, in policy order.
        layers: Their weights as levels, in the same order.

    Returns:
        The wrapped layers, in the same order.
    """
    modules = dict(network.named_modules(remove_duplicate=False))
    wrapped = {
        modules[name]: IntegerModule(modules[name], found, layer)
        for (name, found), layer in zip(ranges.items(), layers, strict=True)
    }
    replace_modules(network, wrapped)
    return [wrapped[modules[name]] for name in ranges]


class ReplacedRunner:
    """Runs a network module by module, its layers in integers where they can be.

    Args:
        network: The folded float network; it is changed: its layers are wrapped.
        samples: Float32 `(samples, ...)`.
        ranges: Ranges for each layer's name, in policy order.
        layers: The layers' weights, in the same order.
        batch_size: Samples in a micro-batch.
        pool: Where micro-batches run.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        samples: Tensor,
        ranges: Mapping[str, LayerRanges],
        layers: Sequence[IntegerLayer],
        batch_size: int,
        pool: ComputePool,
    ) -> None:
        self._network = network
        self._layers = layers
        self._modules = replace_with_integers(network, ranges, layers)
        self._batches = torch.split(samples, batch_size)
        self._pool = pool

    def heads(self, bits: IntArray) -> list[Tensor]:
        """Return the heads under bit-widths `(layers, 2)`."""

        def set_layer(i: int) -> None:
            weights, module, (w, a) = self._layers[i], self._modules[i], bits[i].tolist()
            if module.dims >= 0 and weights.is_integer(w, a):
                module.bound = weights.bind(w, a)
            else:
                module.bound = None
                module.set_bits(w, a, float_weight=weights.weight)

        self._pool.map(set_layer, range(len(self._layers)))
        parts = self._pool.map(lambda batch: heads_of(self._network(batch)), self._batches)
        return [torch.cat(head) for head in zip(*parts, strict=True)]

    def scan(self, policies: IntArray) -> Iterator[list[Tensor]]:
        """Give the heads under each of some bit-widths `(policies, layers, 2)`."""
        for bits in policies:
            yield self.heads(bits)
