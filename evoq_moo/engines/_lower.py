"""Lowering a captured graph to the few kinds of operations that integer plans are made of.

A move takes values to other places, or the largest of some, or clips them: it commutes with the quantization behind it,
which is monotone and elementwise, so it may run on uint8 levels instead of float32 values.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from evoq_moo.engines._kernels import Quantizer
from evoq_moo.graph import (
    JOINS,
    MOVES,
    NO_CLIP,
    Clip,
    Const,
    Geometry,
    GraphNetwork,
    Op,
    Ref,
    SizedGraph,
    aten,
    clip_of,
    is_sum,
)

_MOVES = MOVES | {aten.slice.Tensor, aten.select.int}

RESULTS = -2
"""Wanted as the levels of the first result that is quantized; less by 1 for each further one."""
MoveLevels = Callable[[list[Tensor], Quantizer], Tensor]
MoveFloats = Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True)
class Layer:
    """A call of a quantizable layer on one input."""

    name: str
    inputs: tuple[str, ...]
    index: int
    geometry: Geometry
    clip: Clip = NO_CLIP


@dataclass(frozen=True)
class Add:
    """A sum of two tensors of one shape."""

    name: str
    inputs: tuple[str, ...]
    clip: Clip = NO_CLIP


@dataclass(frozen=True)
class Move:
    """A move of values, in float32 or as levels."""

    name: str
    inputs: tuple[str, ...]
    floats: MoveFloats
    levels: MoveLevels


@dataclass(frozen=True)
class Compute:
    """Anything else: runs in float32 as captured."""

    name: str
    inputs: tuple[str, ...]
    op: Op


@dataclass(frozen=True)
class Result:
    """The quantization of a result to 8 bits, behind the operation that makes it.

    Attributes:
        name: Its name.
        inputs: The result.
        target: What its levels are wanted as.
    """

    name: str
    inputs: tuple[str, ...]
    target: int


Lowered = Layer | Add | Move | Compute | Result


@dataclass(frozen=True)
class Program:
    """A lowered graph.

    Attributes:
        graph: What it came from.
        ops: Operations in execution order.
        outputs: What each tensor of the output is, named by this program's operations.
        constants: Constants by name.
        renamed: Name of the operation that a clip was fused into, by that of the clip.
    """

    graph: SizedGraph
    ops: tuple[Lowered, ...]
    outputs: tuple[Ref | Const, ...]
    constants: Mapping[str, Tensor]
    renamed: Mapping[str, str]

    @cached_property
    def _targets(self) -> dict[str, int]:
        return {op.name: op.target for op in self.ops if isinstance(op, Result)}

    def result_targets(self, op: Lowered) -> dict[str, int]:
        """Return what the operands of a sum are levels of, by name; empty unless both are quantized results."""
        both = isinstance(op, Add) and all(name in self._targets for name in op.inputs)
        return {name: self._targets[name] for name in op.inputs} if both else {}

    def with_results(self, names: Sequence[str]) -> "Program":
        """Return the program with some results quantized: all that reads them reads their values on levels.

        Args:
            names: Of the results in the graph; the levels of number `i` are wanted as `RESULTS - i`.
        """
        targets = {self.renamed.get(name, name): RESULTS - i for i, name in enumerate(names)}
        read = {name: f"{name} on levels" for name in targets}
        ops: list[Lowered] = []
        for op in self.ops:
            inputs = tuple(read.get(name, name) for name in op.inputs)
            if isinstance(op, Compute):
                ops.append(replace(op, inputs=inputs, op=op.op.renamed(read)))
            else:
                ops.append(replace(op, inputs=inputs))
            if op.name in targets:
                ops.append(Result(read[op.name], (op.name,), targets[op.name]))
        outputs = tuple(Ref(read.get(o.name, o.name)) if isinstance(o, Ref) else o for o in self.outputs)
        return replace(self, ops=tuple(ops), outputs=outputs)


def lower(graph: SizedGraph, network: GraphNetwork) -> Program:
    """Return the program of a captured graph of a network."""
    geometries = network.graph.geometries
    by_name = {op.name: op for op in graph.ops}
    shapes = {op.name: op.shape for op in graph.ops}
    lowered: dict[str, Lowered] = {}
    renamed: dict[str, str] = {}
    for op in graph.ops:
        inputs = tuple(renamed.get(name, name) for name in op.inputs)
        clip = clip_of(op)
        if op.layer is not None:
            lowered[op.name] = Layer(op.name, inputs[:1], op.layer, geometries[op.layer])
        elif clip is not None:
            source = lowered.get(inputs[0])
            if isinstance(source, Layer | Add) and source.clip == NO_CLIP and graph.uses[op.inputs[0]] == 1:
                lowered[inputs[0]] = replace(source, clip=clip)
                renamed[op.name] = inputs[0]
            else:
                lowered[op.name] = Move(op.name, inputs, _clip_floats(clip), _clip_levels(clip))
        elif is_sum(op, shapes):
            lowered[op.name] = Add(op.name, inputs)
        else:
            move = _move_of(op, by_name, renamed, shapes)
            lowered[op.name] = move if move is not None else Compute(op.name, inputs, op.renamed(renamed))
    outputs = tuple(
        Ref(renamed.get(output.name, output.name)) if isinstance(output, Ref) else output for output in graph.outputs
    )
    return Program(graph, tuple(lowered.values()), outputs, network.constants, renamed)


def _clip_floats(clip: Clip) -> MoveFloats:
    return lambda tensors: tensors[0].clamp(clip.low, clip.high)


def _clip_levels(clip: Clip) -> MoveLevels:
    def move(tensors: list[Tensor], quantizer: Quantizer) -> Tensor:
        return tensors[0].clamp(*quantizer.bounds(clip))

    return move


def _same(function: MoveFloats) -> tuple[MoveFloats, MoveLevels]:
    return function, lambda tensors, _quantizer: function(tensors)


def _move_of(
    op: Op, by_name: dict[str, Op], renamed: dict[str, str], shapes: Mapping[str, tuple[int, ...] | None]
) -> Move | None:
    names = [renamed.get(name, name) for name in op.inputs]
    made: tuple[MoveFloats, MoveLevels] | None = None
    if op.target is aten.reshape.default and len(names) == 1:
        source = _shuffle_source(op, by_name)
        if source is not None:
            shuffled, groups = source
            names = [renamed.get(shuffled, shuffled)]
            made = _same(lambda tensors: _shuffle(tensors[0], groups))
        else:
            shape = list(op.args[1])
            made = _same(lambda tensors: tensors[0].reshape(shape))
    elif op.target in _MOVES and len(names) == 1:
        made = _same(lambda tensors: op.target(tensors[0], *op.args[1:], **op.kwargs))
    elif op.target in JOINS and len(names) == len(op.args[0]):
        made = _same(lambda tensors: op.target(tensors, *op.args[1:], **op.kwargs))
    elif op.target is operator.getitem:
        split = by_name.get(names[0])
        if split is not None and (part := _part_of(split, op, shapes)) is not None:
            names = [renamed.get(split.inputs[0], split.inputs[0])]
            made = _same(lambda tensors: tensors[0].narrow(*part))
    elif op.target is aten.max_pool2d.default and op.shape is not None and len(op.shape) == 4:
        made = _max_pool(op)
    elif op.target is aten.constant_pad_nd.default and not any(op.args[2:3]):
        pad = list(op.args[1])
        made = (
            lambda tensors: torch.nn.functional.pad(tensors[0], pad),
            lambda tensors, quantizer: torch.nn.functional.pad(tensors[0], pad, value=quantizer.zero_point),
        )
    return None if made is None else Move(op.name, tuple(names), *made)


def _part_of(split: Op, part: Op, shapes: Mapping[str, tuple[int, ...] | None]) -> tuple[int, int, int] | None:
    """Return (dimension, start, length) of one part of a split."""
    known = (aten.split.Tensor, aten.split.sizes, aten.split_with_sizes.default, aten.chunk.default)
    if split.target not in known or part.shape is None or not isinstance(split.args[0], Ref):
        return None
    dim = int((*split.args[2:], split.kwargs.get("dim", 0))[0])
    sizes, index = split.args[1], part.args[1]
    if split.target is aten.chunk.default:
        whole = shapes.get(split.inputs[0])
        if whole is None:
            return None
        sizes = -(-whole[dim] // sizes)
    start = sizes * index if isinstance(sizes, int) else sum(sizes[:index])
    return dim, start, part.shape[dim]


def _shuffle_source(op: Op, by_name: dict[str, Op]) -> tuple[str, int] | None:
    """Return the source and number of groups if a reshape ends a channel shuffle of `(samples, channels, ...)`."""
    swap = by_name.get(op.inputs[0])
    if swap is None or swap.target is not aten.transpose.int or sorted(swap.args[1:]) != [1, 2] or swap.shape is None:
        return None
    split = by_name.get(swap.inputs[0])
    if split is None or split.target is not aten.reshape.default or len(split.inputs) != 1 or op.shape is None:
        return None
    samples, per_group, groups, *places = swap.shape
    source = by_name.get(split.inputs[0])
    if source is None or source.shape != op.shape or op.shape != (samples, groups * per_group, *places):
        return None
    return split.inputs[0], groups


def _shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave groups of channels, channels last in memory."""
    last = x.movedim(1, -1)
    grouped = last.reshape(*last.shape[:-1], groups, last.shape[-1] // groups)
    return grouped.transpose(-1, -2).flatten(-2).movedim(-1, 1)


def _max_pool(op: Op) -> tuple[MoveFloats, MoveLevels]:
    given = list(op.args[1:])
    kernel, stride, padding, dilation, ceil = given + [[], 0, 1, False][len(given) - 1 :]

    def pair(value: Any) -> list[int]:
        numbers = [value] if isinstance(value, int) else list(value)
        return numbers * 2 if len(numbers) == 1 else numbers

    arguments = (pair(kernel), pair(stride or kernel), pair(padding), pair(dilation), bool(ceil))

    def levels(tensors: list[Tensor], _quantizer: Quantizer) -> Tensor:
        x = tensors[0].contiguous(memory_format=torch.channels_last)
        result: Tensor = torch.ops.quantized.max_pool2d(x, *arguments)
        return result

    return lambda tensors: torch.nn.functional.max_pool2d(tensors[0], *arguments), levels
