"""`NetworkGraph`: what a captured network does; `GraphNetwork`: the module that does it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from evoq_moo.difference import Rebuild
from evoq_moo.errors import NetworkError
from evoq_moo.graph.capture import at_size
from evoq_moo.graph.inputs import Samples, leaves
from evoq_moo.graph.ops import NO_CLIP, Clip, Const, Geometry, Op, Ref, clip_of
from evoq_moo.graph.passes import Lowered
from evoq_moo.graph.products import Product

CARRIED = ("preprocess", "decoder", "class_names")
"""What networks say of themselves and of what their output means."""
_RESULTS = "_results"
LayerCall = Callable[[Op, Tensor], Tensor]
"""Computes one layer's call on its input."""
Values = dict[str, Any]
"""Results that later operations still read, by name."""


@dataclass(frozen=True)
class SizedGraph:
    """A network's operations on one number of samples: no shape or number is open.

    Attributes:
        inputs: Names of the network's inputs.
        ops: Operations in execution order.
        outputs: What each tensor of the output is.
        samples: The number of samples.
    """

    inputs: tuple[str, ...]
    ops: tuple[Op, ...]
    outputs: tuple[Ref | Const, ...]
    samples: int

    @cached_property
    def uses(self) -> dict[str, int]:
        """How many operations and outputs read each result."""
        uses = dict.fromkeys((*self.inputs, *(op.name for op in self.ops)), 0)
        for op in self.ops:
            for name in op.inputs:
                uses[name] += 1
        for output in self.outputs:
            if isinstance(output, Ref):
                uses[output.name] += 1
        return uses

    def clip_behind(self, op: Op) -> Clip:
        """Return the bounds of a clip that alone reads an operation's result; without bounds if there is none."""
        if self.uses[op.name] != 1:
            return NO_CLIP
        reader = next((o for o in self.ops if op.name in o.inputs), None)
        return (clip_of(reader) if reader is not None else None) or NO_CLIP


@dataclass(frozen=True, eq=False)
class NetworkGraph:
    """What a captured network does, behind all passes; it holds no tensors.

    Attributes:
        inputs: Names of the network's inputs.
        ops: Operations in execution order, for any number of samples.
        outputs: What each tensor of the output is.
        rebuild: Makes the output of these.
        layers: Name of each layer, in the order they first run.
        geometries: How each layer is computed.
        shapes: Shape of each result, with the symbol of the number of samples.
        numbers: Results that are numbers.
        symbol: The symbol of the number of samples; None where the graph takes `samples` samples only.
        samples: The number of samples it was captured with.
        folded: Paths of BatchNorms folded into layers.
        unfolded: Paths of BatchNorms that stay in float.
        mutated: What the forward pass would change in place, and the graph does not.
        parameters: For each layer, the parameter that is its weight; None where the weight is computed.
    """

    inputs: tuple[str, ...]
    ops: tuple[Op, ...]
    outputs: tuple[Ref | Const, ...]
    rebuild: Rebuild
    layers: tuple[str, ...]
    geometries: tuple[Geometry, ...]
    shapes: Mapping[str, tuple[Any, ...]]
    numbers: Mapping[str, Any]
    symbol: Any
    samples: int
    folded: tuple[str, ...] = ()
    unfolded: tuple[str, ...] = ()
    mutated: tuple[str, ...] = ()
    parameters: tuple[str | None, ...] = ()
    _sized: dict[int, SizedGraph] = field(default_factory=dict, repr=False)

    @property
    def any_size(self) -> bool:
        """Whether the graph takes any number of samples."""
        return self.symbol is not None

    @cached_property
    def calls(self) -> tuple[int, ...]:
        """How many times each layer is called."""
        counts = [0] * len(self.layers)
        for op in self.ops:
            if op.layer is not None:
                counts[op.layer] += 1
        return tuple(counts)

    def at(self, samples: int) -> SizedGraph:
        """Return the operations on a number of samples."""
        if not self.any_size and samples != self.samples:
            raise ValueError(f"the graph takes {self.samples} samples, given {samples}")
        if samples not in self._sized:
            ops = at_size(self.ops, self.shapes, self.numbers, self.symbol, samples)
            self._sized[samples] = SizedGraph(self.inputs, ops, self.outputs, samples)
        return self._sized[samples]

    @cached_property
    def predecessors(self) -> tuple[frozenset[int], ...]:
        """For each layer, the layers whose results reach its input through anything but layers."""
        reached: dict[str, frozenset[int]] = {}
        found: list[frozenset[int]] = [frozenset()] * len(self.layers)
        for op in self.ops:
            sources = frozenset[int]().union(*(reached.get(name, frozenset()) for name in op.inputs))
            if op.layer is not None:
                found[op.layer] |= sources - {op.layer}
                sources = frozenset({op.layer})
            reached[op.name] = sources
        return tuple(found)

    @cached_property
    def dead(self) -> tuple[tuple[str, ...], ...]:
        """For each operation, the results that nothing reads behind it."""
        return dead_after(self.ops, self.outputs)

    def __deepcopy__(self, memo: Any) -> "NetworkGraph":
        return self


def dead_after(ops: Sequence[Op], outputs: Sequence[Ref | Const]) -> tuple[tuple[str, ...], ...]:
    """Return, for each operation, the results that nothing reads behind it."""
    last: dict[str, int] = {}
    for i, op in enumerate(ops):
        last[op.name] = i
        for name in op.inputs:
            last[name] = i
    kept = {output.name for output in outputs if isinstance(output, Ref)}
    dead: list[list[str]] = [[] for _ in ops]
    for name, i in last.items():
        if name not in kept:
            dead[i].append(name)
    return tuple(tuple(names) for names in dead)


class GraphNetwork(nn.Module):
    """A captured network as a module: its layers are submodules under their names, all else runs as captured.

    Args:
        graph: What it does.
        products: Its layers, in the graph's order.
        constants: What other operations read, by name.
        carried: Attributes of the given network that say what its input and output mean.
    """

    def __init__(
        self,
        graph: NetworkGraph,
        products: Sequence[Product],
        constants: Mapping[str, Tensor],
        carried: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self._graph = graph
        self._constants = nn.Module()
        for name, value in constants.items():
            self._constants.register_buffer(_buffer_name(name), value)
        for name, module in zip(graph.layers, products, strict=True):
            parent: nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if part not in parent._modules:
                    parent._modules[part] = nn.Module()
                parent = parent._modules[part]  # type: ignore[assignment]
            if last in parent._modules:
                for child, held in parent._modules[last]._modules.items():  # type: ignore[union-attr]
                    module._modules[child] = held
            parent._modules[last] = module
        for name, value in carried.items():
            object.__setattr__(self, name, value)
        self.eval()

    @property
    def graph(self) -> NetworkGraph:
        """What it does."""
        return self._graph

    @property
    def constants(self) -> dict[str, Tensor]:
        """What operations other than layers read, by name."""
        return {_name(key): value for key, value in self._constants._buffers.items() if value is not None}

    @property
    def products(self) -> tuple[nn.Module, ...]:
        """Its layers, in the graph's order."""
        return tuple(self.get_submodule(name) for name in self._graph.layers)

    def replace(self, name: str, layer: nn.Module) -> None:
        """Put another module in the place of a layer, what lies below its name included."""
        path, _, last = name.rpartition(".")
        parent = self.get_submodule(path)
        old = parent._modules[last]
        parent._modules[last] = layer
        for child, held in old._modules.items() if old is not None else ():
            layer._modules.setdefault(child, held)

    @property
    def results(self) -> dict[str, nn.Module]:
        """What results pass as soon as they are computed, by the name of the result."""
        held = self._modules.get(_RESULTS)
        return {} if held is None else {_name(key): m for key, m in held._modules.items() if m is not None}

    def place_results(self, modules: Mapping[str, nn.Module]) -> None:
        """Let results pass modules as soon as they are computed, in the place of those that did.

        Args:
            modules: By the name of the result; none takes all away.

        Raises:
            NetworkError: The graph has no such result.
        """
        unknown = sorted(modules.keys() - {op.name for op in self._graph.ops})
        if unknown:
            raise NetworkError(f"results: given {unknown[:3]}; the network has no such results")
        self._modules.pop(_RESULTS, None)
        if modules:
            held = nn.Module()
            for name, module in modules.items():
                held.add_module(_buffer_name(name), module)
            self._modules[_RESULTS] = held

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        """Run the network on samples, as the given network takes them."""
        inputs = (*args, *kwargs.values())
        if self._graph.any_size:  # asking for the number of samples would fix it where this is traced
            return self._graph.rebuild(self._run(inputs))
        size, number = self._graph.samples, len(inputs[0])
        parts: list[list[Tensor]] = []
        for start in range(0, number, size):
            chunk = [x[start : start + size] for x in inputs]
            missing = size - len(chunk[0])
            full = [torch.cat([x, *[x[:1]] * missing]) for x in chunk]
            parts.append([y[: size - missing] if y.dim() and len(y) == size else y for y in self._run(full)])
        joined = [torch.cat(leaf) if leaf[0].dim() else leaf[0] for leaf in zip(*parts, strict=True)]
        return self._graph.rebuild(joined)

    def sources(self, samples: Samples) -> list[tuple[str, Tensor]]:
        """Return the result of every operation on samples, with the path of the module that called it."""
        found: list[tuple[str, Tensor]] = []

        def keep(op: Op, value: Any) -> None:
            if isinstance(value, Tensor) and value.is_floating_point():
                found.append((op.source, value))

        self._run(leaves(samples), keep)
        return found

    def _run(self, inputs: Sequence[Tensor], keep: Callable[[Op, Any], None] | None = None) -> list[Tensor]:
        values: Values = dict(zip(self._graph.inputs, inputs, strict=True))
        products, constants, results = self.products, self.constants, self.results
        for op, dead in zip(self._graph.ops, self._graph.dead, strict=True):
            if op.layer is not None:
                values[op.name] = products[op.layer](values[op.inputs[0]])
            else:
                values[op.name] = op.compute(values, constants)
            if op.name in results:
                values[op.name] = results[op.name](values[op.name])
            if keep is not None:
                keep(op, values[op.name])
            for name in dead:
                values.pop(name, None)
        return output_leaves(self._graph.outputs, values, constants)


def output_leaves(
    outputs: Sequence[Ref | Const], values: Mapping[str, Any], constants: Mapping[str, Tensor]
) -> list[Tensor]:
    """Return the tensors of an output."""
    return [values[o.name] if isinstance(o, Ref) else constants[o.name] for o in outputs]


def _buffer_name(name: str) -> str:
    return name.replace(".", "/")


def _name(key: str) -> str:
    return key.replace("/", ".")


def graph_network(lowered: Lowered, network: nn.Module) -> GraphNetwork:
    """Return the module of a lowered graph.

    Args:
        lowered: The graph.
        network: The given network, for what it says of itself.
    """
    captured = lowered.captured
    names = {op.name for op in lowered.ops}
    graph = NetworkGraph(
        inputs=captured.inputs,
        ops=tuple(lowered.ops),
        outputs=lowered.outputs,
        rebuild=captured.rebuild,
        layers=tuple(layer.name for layer in lowered.layers),
        geometries=tuple(layer.geometry for layer in lowered.layers),
        shapes={n: s for n, s in lowered.shapes.items() if n in names or n in captured.inputs},
        numbers={n: v for n, v in captured.numbers.items() if n in names},
        symbol=captured.symbol,
        samples=captured.batch,
        folded=lowered.folded,
        unfolded=lowered.unfolded,
        mutated=captured.mutated,
        parameters=tuple(layer.parameter for layer in lowered.layers),
    )
    products = [
        Product(layer.weight.clone(memory_format=torch.contiguous_format), layer.bias, layer.geometry)
        for layer in lowered.layers
    ]
    carried = {name: getattr(network, name) for name in CARRIED if hasattr(network, name)}
    return GraphNetwork(graph, products, lowered.constants, carried)
