"""Lowering a captured graph to the few kinds of operations that integer plans are made of.

A move takes values to other places, or the largest of some, or clips them: it commutes with the quantization behind it,
which is monotone and elementwise, so it may run on uint8 levels instead of float32 values.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from evoq_moo.engines._capture import NO_CLIP, Graph, Op, Ref
from evoq_moo.engines._kernels import Clip, Quantizer

_aten = torch.ops.aten
_IDENTITIES = {
    _aten.clone.default,
    _aten.contiguous.default,
    _aten.alias.default,
    _aten.detach.default,
    _aten.lift_fresh_copy.default,
}
_RESHAPES = {_aten.view.default, _aten._unsafe_view.default, _aten.reshape.default}
_MOVES = {
    _aten.permute.default,
    _aten.transpose.int,
    _aten.t.default,
    _aten.slice.Tensor,
    _aten.select.int,
    _aten.squeeze.dim,
    _aten.squeeze.dims,
    _aten.unsqueeze.default,
    _aten.expand.default,
    _aten.flip.default,
    _aten.roll.default,
    _aten.flatten.using_ints,
}
_JOINS = {_aten.cat.default, _aten.stack.default}

MoveLevels = Callable[[list[Tensor], Quantizer], Tensor]
MoveFloats = Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True)
class Layer:
    """A call of a quantizable layer on one input."""

    name: str
    inputs: tuple[str, ...]
    index: int
    op: Op
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


Lowered = Layer | Add | Move | Compute


@dataclass(frozen=True)
class Program:
    """A lowered graph.

    Attributes:
        graph: What it came from; its outputs are named by this program's operations.
        ops: Operations in execution order.
    """

    graph: Graph
    ops: tuple[Lowered, ...]


def lower(graph: Graph) -> Program:
    """Return the program of a captured graph."""
    graph = _without_identities(graph)
    by_name = {op.name: op for op in graph.ops}
    shapes = {op.name: op.shape for op in graph.ops}
    lowered: dict[str, Lowered] = {}
    renamed: dict[str, str] = {}
    for op in graph.ops:
        inputs = tuple(renamed.get(name, name) for name in op.inputs)
        clip = clip_of(op)
        if op.layer is not None:
            lowered[op.name] = Layer(op.name, inputs[:1], op.layer, op)
        elif clip is not None:
            source = lowered.get(inputs[0])
            if isinstance(source, Layer | Add) and source.clip == NO_CLIP and graph.uses[op.inputs[0]] == 1:
                lowered[inputs[0]] = replace(source, clip=clip)
                renamed[op.name] = inputs[0]
            else:
                lowered[op.name] = Move(op.name, inputs, _clip_floats(clip), _clip_levels(clip))
        elif _is_sum(op, shapes):
            lowered[op.name] = Add(op.name, inputs)
        else:
            move = _move_of(op, by_name, renamed)
            lowered[op.name] = move if move is not None else Compute(op.name, inputs, _renamed(op, renamed))
    outputs = tree_map_only(Ref, lambda ref: Ref(renamed.get(ref.name, ref.name)), graph.outputs)
    return Program(replace(graph, outputs=outputs), tuple(lowered.values()))


def _renamed(op: Op, renamed: dict[str, str]) -> Op:
    args, kwargs = tree_map_only(Ref, lambda ref: Ref(renamed.get(ref.name, ref.name)), (op.args, op.kwargs))
    return replace(op, args=args, kwargs=kwargs)


def _without_identities(graph: Graph) -> Graph:
    same: dict[str, str] = {}
    ops = []
    for op in graph.ops:
        kept = _renamed(op, same)
        if op.layer is None and op.target in _IDENTITIES and isinstance(kept.args[0], Ref):
            same[op.name] = kept.args[0].name
        else:
            ops.append(kept)
    outputs = tree_map_only(Ref, lambda ref: Ref(same.get(ref.name, ref.name)), graph.outputs)
    result = Graph(graph.input, ops, outputs, graph.spec)
    result.count_uses()
    return result


def clip_of(op: Op) -> Clip | None:
    """Return the bounds of an operation that only clips its first argument, or None for any other."""
    if not op.args or not isinstance(op.args[0], Ref):
        return None
    if op.target is _aten.relu.default:
        return Clip(0.0, None)
    if op.target is _aten.relu6.default:
        return Clip(0.0, 6.0)
    if op.target is _aten.hardtanh.default:
        bounds = [*op.args[1:], *(-1.0, 1.0)[len(op.args) - 1 :]]
        return Clip(float(bounds[0]), float(bounds[1]))
    if op.target is _aten.clamp.default:
        low, high = (*op.args[1:], None, None)[:2]
        low, high = op.kwargs.get("min", low), op.kwargs.get("max", high)
        return Clip(None if low is None else float(low), None if high is None else float(high))
    return None


def _is_sum(op: Op, shapes: dict[str, tuple[int, ...] | None]) -> bool:
    if op.target is not _aten.add.Tensor or op.kwargs or len(op.inputs) != 2 or len(op.args) != 2:
        return False
    left, right = (shapes.get(name) for name in op.inputs)
    return left is not None and left == right


def _clip_floats(clip: Clip) -> MoveFloats:
    return lambda tensors: tensors[0].clamp(clip.low, clip.high)


def _clip_levels(clip: Clip) -> MoveLevels:
    def move(tensors: list[Tensor], quantizer: Quantizer) -> Tensor:
        low = 0 if clip.low is None else quantizer.level_of(clip.low)
        high = quantizer.highest if clip.high is None else quantizer.level_of(clip.high)
        return tensors[0].clamp(low, high)

    return move


def _same(function: MoveFloats) -> tuple[MoveFloats, MoveLevels]:
    return function, lambda tensors, _quantizer: function(tensors)


def _move_of(op: Op, by_name: dict[str, Op], renamed: dict[str, str]) -> Move | None:
    names = [renamed.get(name, name) for name in op.inputs]
    made: tuple[MoveFloats, MoveLevels] | None = None
    if op.target in _RESHAPES and len(names) == 1:
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
    elif op.target in _JOINS and len(names) == len(op.args[0]):
        made = _same(lambda tensors: op.target(tensors, *op.args[1:], **op.kwargs))
    elif op.target is operator.getitem:
        split = by_name.get(names[0])
        if split is not None and (part := _part_of(split, op)) is not None:
            names = [renamed.get(split.inputs[0], split.inputs[0])]
            made = _same(lambda tensors: tensors[0].narrow(*part))
    elif op.target is _aten.max_pool2d.default and op.shape is not None and len(op.shape) == 4:
        made = _max_pool(op)
    elif op.target is _aten.constant_pad_nd.default and not any(op.args[2:3]):
        pad = list(op.args[1])
        made = (
            lambda tensors: torch.nn.functional.pad(tensors[0], pad),
            lambda tensors, quantizer: torch.nn.functional.pad(tensors[0], pad, value=quantizer.zero_point),
        )
    return None if made is None else Move(op.name, tuple(names), *made)


def _part_of(split: Op, part: Op) -> tuple[int, int, int] | None:
    """Return (dimension, start, length) of one part of a split."""
    if split.target not in (_aten.split.Tensor, _aten.split_with_sizes.default) or part.shape is None:
        return None
    dim = int((*split.args[2:], split.kwargs.get("dim", 0))[0])
    sizes, index = split.args[1], part.args[1]
    start = sizes * index if isinstance(sizes, int) else sum(sizes[:index])
    return dim, start, part.shape[dim]


def _shuffle_source(op: Op, by_name: dict[str, Op]) -> tuple[str, int] | None:
    """Return the source and number of groups if a reshape ends a channel shuffle of `(samples, channels, ...)`."""
    swap = by_name.get(op.inputs[0])
    if swap is None or swap.target is not _aten.transpose.int or sorted(swap.args[1:]) != [1, 2] or swap.shape is None:
        return None
    split = by_name.get(swap.inputs[0])
    if split is None or split.target not in _RESHAPES or len(split.inputs) != 1 or op.shape is None:
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
