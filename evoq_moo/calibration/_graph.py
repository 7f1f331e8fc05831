"""A network as stages: each is one call of a quantizable layer and what runs before the next one."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from evoq_moo.difference import heads_of
from evoq_moo.engines._capture import NO_CLIP, CaptureError, Graph, Op, Ref, capture
from evoq_moo.engines._kernels import Clip
from evoq_moo.engines._lower import clip_of
from evoq_moo.errors import NetworkError

MICRO_BATCH = 5
"""Samples that are computed together, at most: few keep the activations of ImageNet networks in cache (measured)."""
Values = dict[str, Tensor]
"""Results that later operations still read, by name."""
LayerCall = Callable[[Op, Tensor], Tensor]
"""Computes one layer's call on its input."""


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


class CapturedNetwork:
    """A float network's graph, captured for every batch size it is asked to run.

    Args:
        network: The folded float network in evaluation mode.
        layers: Names of its quantizable layers, in policy order.
        samples: Samples of the shape it will run on.
        batch_size: Size of most micro-batches.

    Attributes:
        calls: How many times each layer is called in one pass.

    Raises:
        NetworkError: The network can't be captured as a graph.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], samples: Tensor, batch_size: int) -> None:
        self._network = network
        self._layers = {name: i for i, name in enumerate(layers)}
        self._sample = samples[:1]
        self._graphs: dict[int, Graph] = {}
        self._stages: dict[int, tuple[Stage, ...]] = {}
        self.prepare(batch_size)
        self.calls = [0] * len(layers)
        for stage in self.stages(batch_size):
            if stage.layer is not None:
                self.calls[stage.layer] += 1

    def prepare(self, batch_size: int) -> None:
        """Capture the network for micro-batches of this size."""
        if batch_size in self._graphs:
            return
        batch = self._sample.expand(batch_size, *self._sample.shape[1:]).contiguous()
        try:
            graph = capture(self._network, batch, self._layers)
        except CaptureError as error:
            raise NetworkError(
                f"network: calibration needs the network as a graph, which torch.export can't give: {error}"
            ) from error
        if any(not isinstance(output, Ref) for output in graph.outputs if isinstance(output, Tensor | Ref)):
            raise NetworkError("network: calibration needs outputs that are computed; one is a constant")
        self._graphs[batch_size] = graph
        self._stages[batch_size] = _stages(graph)

    def stages(self, batch_size: int) -> tuple[Stage, ...]:
        """Return the stages for micro-batches of a prepared size; the same number for each size."""
        return self._stages[batch_size]

    def uses(self, batch_size: int) -> Mapping[str, int]:
        """Return how many operations and outputs read each result."""
        return self._graphs[batch_size].uses

    def scaled(self, made: Mapping[int, Tensor], read: Mapping[int, Tensor]) -> "CapturedNetwork":
        """Return the network with channels scaled between layers; it shares everything else with this one.

        Args:
            made: For a layer's index, the factor on each of its output channels.
            read: For a depthwise layer's index, the factor on each of its input channels, which it divides by.
        """
        other = copy.copy(self)

        def changed(stage: Stage) -> Stage:
            op = stage.ops[0] if stage.ops else None
            if op is None or op.layer is None or (op.layer not in made and op.layer not in read):
                return stage
            weight, bias = op.args[1], op.args[2] if len(op.args) > 2 else None
            shape = (-1, *(1,) * (weight.dim() - 1))
            if op.layer in read:
                factor = read[op.layer]
                weight = weight / factor.repeat_interleave(len(weight) // len(factor)).reshape(shape)
            if op.layer in made:
                weight = weight * made[op.layer].reshape(shape)
                bias = None if bias is None else bias * made[op.layer]
            return Stage((replace(op, args=(op.args[0], weight, bias, *op.args[3:])), *stage.ops[1:]), stage.dead)

        other._stages = {size: tuple(map(changed, stages)) for size, stages in self._stages.items()}
        return other

    def input_name(self, batch_size: int) -> str:
        """Return the name of the network's input."""
        return self._graphs[batch_size].input

    def single_output(self, batch_size: int) -> str | None:
        """Return the name of the network's output if it is one tensor."""
        names = {output.name for output in self._graphs[batch_size].outputs if isinstance(output, Ref)}
        return next(iter(names)) if len(names) == 1 else None

    def start(self, batch: Tensor) -> Values:
        """Return the values before the first stage."""
        return {self._graphs[len(batch)].input: batch}

    def heads(self, values: Mapping[str, Tensor], batch_size: int) -> list[Tensor]:
        """Return the network's heads from the values behind the last stage."""
        graph = self._graphs[batch_size]
        flat = [values[o.name] if isinstance(o, Ref) else o for o in graph.outputs]
        return heads_of(graph.unflatten(flat))

    def run(self, batch: Tensor, call: LayerCall) -> list[Tensor]:
        """Return the heads of a micro-batch with each layer computed by `call`."""
        values = self.start(batch)
        for stage in self.stages(len(batch)):
            run_stage(stage, values, call)
        return self.heads(values, len(batch))


def run_stage(stage: Stage, values: Values, call: LayerCall) -> None:
    """Run a stage: its results go into `values`, those that nobody reads any more leave."""
    for op, dead in zip(stage.ops, stage.dead, strict=True):
        if op.layer is not None:
            values[op.name] = call(op, values[op.args[0].name])
        else:
            values[op.name] = compute(op, values)
        for name in dead:
            values.pop(name, None)


def compute(op: Op, values: Mapping[str, Any]) -> Any:
    """Return the result of an operation that is no layer's call."""
    args, kwargs = tree_map_only(Ref, lambda ref: values[ref.name], (op.args, op.kwargs))
    return op.target(*args, **kwargs)


def clip_behind(network: CapturedNetwork, stage: Stage, batch_size: int) -> Clip:
    """Return the bounds of a clip that alone reads the output of a stage's layer; without bounds if there is none."""
    made, *others = stage.ops
    if network.uses(batch_size)[made.name] != 1:
        return NO_CLIP
    readers = (clip_of(op) for op in others if made.name in op.inputs)
    return next(readers, None) or NO_CLIP


def float_call(op: Op, x: Tensor) -> Tensor:
    """Compute a layer's call with its float weights."""
    result: Tensor = op.target(x, *op.args[1:], **op.kwargs)
    return result


def call_with(op: Op, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute a layer's call with other weights and bias."""
    result: Tensor = op.target(x, weight, bias, *op.args[3:], **op.kwargs)
    return result


def _stages(graph: Graph) -> tuple[Stage, ...]:
    last: dict[str, int] = {}
    for i, op in enumerate(graph.ops):
        last[op.name] = i
        for name in op.inputs:
            last[name] = i
    kept = {output.name for output in graph.outputs if isinstance(output, Ref)}
    dead: list[list[str]] = [[] for _ in graph.ops]
    for name, i in last.items():
        if name not in kept:
            dead[i].append(name)
    starts = [0] + [i for i, op in enumerate(graph.ops) if op.layer is not None and i > 0]
    ends = [*starts[1:], len(graph.ops)]
    return tuple(
        Stage(tuple(graph.ops[a:b]), tuple(tuple(names) for names in dead[a:b]))
        for a, b in zip(starts, ends, strict=True)
    )
