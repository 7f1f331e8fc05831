"""A copy of a network with its layers replaced, and the maps of its heads behind it: what every exporter traces."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from evoq_moo.calibration import OutputMap, map_heads
from evoq_moo.difference import skeleton
from evoq_moo.export._shipment import Shipment
from evoq_moo.graph import Product


class AffineMap(nn.Module):
    """An output map that torch.export can follow."""

    scale: Tensor
    shift: Tensor

    def __init__(self, found: OutputMap) -> None:
        super().__init__()
        self.axis = found.axis
        self.register_buffer("scale", found.scale)
        self.register_buffer("shift", found.shift)

    def forward(self, head: Tensor) -> Tensor:
        """Return a head, mapped."""
        shape = [1] * head.dim()
        if head.dim() > 1:
            shape[self.axis] = -1
        return head * self.scale.reshape(shape) + self.shift.reshape(shape)


class Whole(nn.Module):
    """A network and the maps behind it, of tensors alone: no mapping or class of the caller's stands in the way.

    Args:
        network: The network.
        maps: One for each head, or none.
        names: The network's keyword arguments, in order; none where it takes positional ones.
        flat: Return the tensors of the output as a tuple, in order.
    """

    def __init__(
        self, network: nn.Module, maps: Sequence[OutputMap], names: Sequence[str] = (), *, flat: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.names = tuple(names)
        self.flat = flat
        self.maps = nn.ModuleList(nn.Identity() if m.is_identity else AffineMap(m) for m in maps)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Run the network and map its heads."""
        if self.names:
            result = self.network(**dict(zip(self.names, inputs, strict=True)))
        else:
            result = self.network(*inputs, **named)
        if len(self.maps):
            result = map_heads(result, iter(self.maps))
        return tuple(skeleton(result)[0]) if self.flat else result


def replaced(
    shipment: Shipment,
    replacement: Callable[[Product, int], Product],
    results: Mapping[str, nn.Module],
    names: Sequence[str] = (),
    *,
    flat: bool = False,
) -> Whole:
    """Return a copy of a network with its layers replaced, and its maps, ready for torch.export.

    Args:
        shipment: The network.
        replacement: Makes what takes the place of a layer, from the layer and its index.
        results: What some results pass, by name.
        names: As :class:`Whole` has it.
        flat: Likewise.
    """
    network = copy.deepcopy(shipment.graph)
    for i, (p, layer) in enumerate(zip(shipment.layers, network.products, strict=True)):
        if isinstance(layer, Product):
            network.replace(p.name, replacement(layer, i))
    network.place_results(results)
    return Whole(network, shipment.maps, names, flat=flat).eval()
