"""A captured network as stages: each is one call of a layer and what runs before the next one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from evoq_moo.difference import heads_of
from evoq_moo.errors import NetworkError
from evoq_moo.graph.inputs import Samples, leaves
from evoq_moo.graph.network import GraphNetwork, LayerCall, SizedGraph, Values, output_leaves
from evoq_moo.graph.ops import Clip, Geometry, Op, Ref
from evoq_moo.graph.products import Product, product

Passed = Mapping[str, Callable[[Tensor], Tensor]]
"""What results pass, by their names."""
_NONE: Passed = {}


@dataclass(frozen=True)
class Stage:
    """Operations in execution order, of which at most the first is a layer's call.

    Attributes:
        ops: The operations.
        dead: For each operation, results that nobody reads after it.
    """

    ops: tuple[Op, ...]
    dead: tuple[tuple[str, ...], ...]

    @property
    def layer(self) -> int | None:
        """Index of the layer called by the first operation, if it is one."""
        return self.ops[0].layer if self.ops else None


@dataclass(frozen=True)
class LayerWeights:
    """What a layer computes with in float.

    Attributes:
        weight: `(out, in / groups, kernel...)`.
        bias: `(out,)` or None.
        geometry: How it is computed.
    """

    weight: Tensor
    bias: Tensor | None
    geometry: Geometry

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the layer."""
        return product(x, self.weight, self.bias, self.geometry)


class StagedNetwork:
    """A captured float network, to be run stage by stage.

    Args:
        network: The network.

    Attributes:
        layers: What each layer computes with.
        stages: The stages, for any number of samples that the graph takes.
        calls: How many times each layer is called in one pass.
        size: The number of samples the graph takes; None for any.

    Raises:
        NetworkError: The network was not captured, or an output is a constant.
    """

    def __init__(self, network: object) -> None:
        if not isinstance(network, GraphNetwork):
            raise NetworkError(
                "network: calibration needs the network as a graph, which torch.export could not give (see its notes)"
            )
        graph = network.graph
        if any(not isinstance(output, Ref) for output in graph.outputs):
            raise NetworkError("network: calibration needs outputs that are computed; one is a constant")
        self._network = network
        self.layers = tuple(
            LayerWeights(module.weight.detach(), None if module.bias is None else module.bias.detach(), module.geometry)
            for module in network.products
            if isinstance(module, Product)
        )
        self.calls = graph.calls
        self.size = None if graph.any_size else graph.samples
        starts = [0] + [i for i, op in enumerate(graph.ops) if op.layer is not None and i > 0]
        ends = [*starts[1:], len(graph.ops)]
        self.stages = tuple(Stage(graph.ops[a:b], graph.dead[a:b]) for a, b in zip(starts, ends, strict=True))
        self._constants = network.constants

    @property
    def sized(self) -> SizedGraph:
        """The graph at the number of samples it was captured with, for the shapes of its results."""
        return self._network.graph.at(self._network.graph.samples)

    def with_layers(self, layers: Mapping[int, LayerWeights]) -> "StagedNetwork":
        """Return the network with some layers computing with other weights; it shares everything else."""
        other = StagedNetwork(self._network)
        other.layers = tuple(layers.get(i, layer) for i, layer in enumerate(self.layers))
        return other

    def start(self, batch: Samples) -> Values:
        """Return the values before the first stage."""
        return dict(zip(self._network.graph.inputs, leaves(batch), strict=True))

    def heads(self, values: Values) -> list[Tensor]:
        """Return the network's heads from the values behind the last stage."""
        graph = self._network.graph
        return heads_of(graph.rebuild(output_leaves(graph.outputs, values, self._constants)))

    def run(self, batch: Samples, call: LayerCall, passed: Passed = _NONE) -> list[Tensor]:
        """Return the heads of a micro-batch with each layer computed by `call`; `passed` as in :meth:`run_stage`."""
        values = self.start(batch)
        for stage in self.stages:
            self.run_stage(stage, values, call, passed)
        return self.heads(values)

    def run_stage(self, stage: Stage, values: Values, call: LayerCall, passed: Passed = _NONE) -> None:
        """Run a stage: its results go into `values`, those that nobody reads any more leave.

        Args:
            stage: The stage.
            values: What was computed before.
            call: Computes a layer.
            passed: What some results pass as soon as they are computed, by name.
        """
        for op, dead in zip(stage.ops, stage.dead, strict=True):
            if op.layer is not None:
                values[op.name] = call(op, values[op.inputs[0]])
            else:
                values[op.name] = op.compute(values, self._constants)
            if op.name in passed:
                values[op.name] = passed[op.name](values[op.name])
            for name in dead:
                values.pop(name, None)

    def float_call(self, op: Op, x: Tensor) -> Tensor:
        """Compute a layer's call with its float weights."""
        return self.layers[op.layer or 0](x)

    def clip_behind(self, op: Op) -> Clip:
        """Return the bounds of a clip that alone reads a layer's output; without bounds if there is none."""
        return self.sized.clip_behind(op)
