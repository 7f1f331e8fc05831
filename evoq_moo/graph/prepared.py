"""`Prepared`: a network made ready to be quantized, and what a user should know of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from evoq_moo.graph.network import NetworkGraph
from evoq_moo.space import LayerInfo


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A network made ready to be quantized.

    Attributes:
        network: Computes what the given network computes; its layers are submodules under their names.
        graph: What it does; None where it could not be captured and runs module by module.
        layers: The quantizable layers in the order they first run.
        first: Names of layers that no other layer feeds.
        last: Names of layers that feed no other layer.
        notes: What a user should know, one sentence each.
        reason: Why it was not captured, or only for one number of samples; empty if it was.
        float_macs: Multiply-accumulates, for one sample, of products that stay in float, by what they are.
        parameters: Parameters of the given network.
    """

    network: nn.Module
    graph: NetworkGraph | None
    layers: tuple[LayerInfo, ...]
    first: tuple[str, ...]
    last: tuple[str, ...]
    notes: tuple[str, ...] = ()
    reason: str = ""
    float_macs: Mapping[str, int] = field(default_factory=dict)
    parameters: int = 0

    @property
    def macs_quantized(self) -> float:
        """Share of the multiply-accumulates that quantized layers compute, 0..1."""
        inside = sum(layer.macs for layer in self.layers)
        total = inside + sum(self.float_macs.values())
        return inside / total if total else 0.0

    @property
    def parameters_quantized(self) -> float:
        """Share of the parameters that are weights of quantized layers, 0..1."""
        inside = sum(layer.params for layer in self.layers)
        return min(1.0, inside / self.parameters) if self.parameters else 0.0
