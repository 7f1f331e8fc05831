"""What a network of the zoo costs, found without computing anything: on torch's device ``meta``."""

from dataclasses import dataclass
from functools import cache

import torch

from evoq_moo.graph import prepare
from evoq_moo.zoo._entries import ZooEntry


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Counts of one network at its input size.

    Attributes:
        macs: Multiply-accumulates of the quantizable layers for one image.
        parameters: All parameters.
        layers: Quantizable layers.
        genes: Bit-widths a search chooses by default: of weights and activations, first and last layers pinned.
    """

    macs: int
    parameters: int
    layers: int
    genes: int


@cache
def figures_of(entry: ZooEntry) -> Figures:
    """Return the counts of a network.

    Raises:
        MissingPackageError: The network needs an extra of evoq-moo.
    """
    with torch.device("meta"):
        network = entry.build().eval()
    found = prepare(network, torch.empty(2, *entry.input_size, device="meta"), dynamic=False)
    free = len(found.layers) - len({*found.first, *found.last})
    return Figures(
        macs=sum(layer.macs for layer in found.layers),
        parameters=sum(p.numel() for p in network.parameters()),
        layers=len(found.layers),
        genes=2 * free,
    )
