"""Which results of a network are quantized to 8 bits: those that something else than one quantized layer reads.

An integer kernel leaves levels. Where the levels of one quantizer are all that is read, those of a layer's input, the
kernel makes them itself. Anything else (a sum, a mean, a sigmoid, an output, a layer in float, two layers of other
levels) reads values, which a runtime of integers can give only as levels of 8 bits. This pass finds where, for any
policy: for a value that is made of integer products alone, whose readers do not all want the levels of one quantizer.

Levels are those of a reader of 8 bits that has seen the same values, where there is one; else those of the value's own
range. A clip that alone reads a value belongs to what makes it: the clip's result is quantized. Reshaping, joining and
max-pooling commute with a quantization behind them, so a runtime may quantize in front of them.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

from evoq_moo.graph.network import NetworkGraph
from evoq_moo.graph.ops import JOINS, MOVES, Op, Ref, aten, clip_of

_SAME = MOVES | {aten.reshape.default, aten.squeeze.default}
_PARTS = {
    aten.slice.Tensor,
    aten.select.int,
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.chunk.default,
    operator.getitem,
}
_POOLS = {aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default}
_STREAMS = {
    aten.layer_norm.default,
    aten.native_layer_norm.default,
    aten.rms_norm.default,
    aten.scaled_dot_product_attention.default,
}
"""Operators of networks whose layers read and write a stream of features, as transformers do."""


RESULT_BITS = 8
"""Bit-width of results that are quantized."""


class Grid(NamedTuple):
    """Affine levels of a tensor: step (float32 value), level of zero and bit-width."""

    scale: float
    zero_point: int
    bits: int


class Kind(Enum):
    """What an operation does to levels."""

    PRODUCT = auto()
    SUM = auto()
    CLIP = auto()
    POOL = auto()
    JOIN = auto()
    SAME = auto()
    PART = auto()
    OTHER = auto()


_PLACES = {Kind.PRODUCT, Kind.SUM, Kind.CLIP, Kind.POOL, Kind.JOIN}
_SOME = 2
_DISTANCE = {Kind.SAME: 0, Kind.JOIN: 1, Kind.POOL: _SOME}
"""How far what stands in front of an operation is from what a quantizer behind it sees: all, others too, or some."""


class _Rank(NamedTuple):
    """How well a quantizer would do for a value that it need not be the only reader of: the least is taken.

    Attributes:
        distance: 0 where it has seen the same values, 1 where others were joined to them, 2 where only some.
        position: Of its reader, in execution order.
    """

    distance: int
    position: int


_Wants = dict[Grid | None, _Rank]
"""Which levels the readers of a value want, None for values."""


@dataclass(frozen=True)
class _Value:
    """One result.

    Attributes:
        name: Its name.
        kind: What makes it.
        inputs: What that reads.
        layer: Index of the layer, for products.
        clipped: Whether a clip alone reads it.
        is_output: Whether the network returns it.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    layer: int
    clipped: bool
    is_output: bool


def has_stream(graph: NetworkGraph) -> bool:
    """Return whether a network normalizes or attends between its layers as transformers do."""
    return any(op.layer is None and op.target in _STREAMS for op in graph.ops)


class ResultPlaces:
    """Where the results of a network may be quantized, and where a policy quantizes them.

    Args:
        graph: The network.
        linear: Whether matrix products count as well as convolutions.

    Attributes:
        names: Names of all results that some policy quantizes, in execution order.
    """

    def __init__(self, graph: NetworkGraph, *, linear: bool = False) -> None:
        self._values = _values(graph)
        self._counted = tuple(linear or geometry.dims > 0 for geometry in graph.geometries)
        whole = self._whole(self._counted)
        self.names = tuple(v.name for v in self._values if v.name in whole and v.kind in _PLACES and not v.clipped)
        self._clipped = {v.name for v in self._values if v.clipped}

    def _whole(self, integer: Sequence[bool]) -> set[str]:
        """Return the names of values that are made of integer products alone."""
        whole: set[str] = set()
        for v in self._values:
            if v.kind is Kind.PRODUCT:
                made = integer[v.layer] and self._counted[v.layer]
            else:
                made = v.kind is not Kind.OTHER and whole.issuperset(v.inputs)
            if made:
                whole.add(v.name)
        return whole

    def grids(self, inputs: Sequence[Grid | None], integer: Sequence[bool], own: Mapping[str, Grid]) -> dict[str, Grid]:
        """Return the levels of each result that a policy quantizes, by name, in execution order.

        Args:
            inputs: Levels of each layer's input; None where it stays float.
            integer: Whether each layer is a product of integers.
            own: Levels of each place by its own range.
        """
        whole = self._whole(integer)
        wants: dict[str, _Wants] = {v.name: {None: _Rank(0, 0)} if v.is_output else {} for v in self._values}
        found: dict[str, Grid] = {}
        for position in reversed(range(len(self._values))):
            v = self._values[position]
            wanted = wants[v.name]
            alone = len(wanted) == 1 and None not in wanted
            if v.name in own and v.name in whole and not alone:
                shared = [(rank, grid) for grid, rank in wanted.items() if grid is not None and _is_shared(grid, rank)]
                found[v.name] = min(shared)[1] if shared else own[v.name]
                wanted = {found[v.name]: _Rank(0, position)}
            for name in v.inputs:
                for grid, rank in self._passed(v, name, wanted, inputs, position).items():
                    known = wants.setdefault(name, {})
                    known[grid] = min(rank, known.get(grid, rank))
        return {name: found[name] for name in reversed(found)}

    def _passed(
        self, reader: _Value, name: str, wanted: _Wants, inputs: Sequence[Grid | None], position: int
    ) -> _Wants:
        """Return what a value's reader wants of it, given what is wanted of the reader's own result."""
        if reader.kind is Kind.PRODUCT:
            return {inputs[reader.layer]: _Rank(0, position)}
        if reader.kind in _DISTANCE or (reader.kind is Kind.CLIP and name in self._clipped):
            least = _DISTANCE.get(reader.kind, 0)
            return {grid: _Rank(max(rank.distance, least), rank.position) for grid, rank in wanted.items()}
        return {None: _Rank(0, position)}


def _is_shared(grid: Grid, rank: _Rank) -> bool:
    """Return whether a reader's levels do for a value that others read as well."""
    return grid.bits == RESULT_BITS and rank.distance < _SOME


def _values(graph: NetworkGraph) -> tuple[_Value, ...]:
    outputs = {output.name for output in graph.outputs if isinstance(output, Ref)}
    readers: dict[str, list[Op]] = {}
    for op in graph.ops:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)

    def is_clipped(name: str) -> bool:
        found = readers.get(name, [])
        return name not in outputs and len(found) == 1 and clip_of(found[0]) is not None

    return tuple(
        _Value(
            name=op.name,
            kind=_kind(op, graph),
            inputs=op.inputs,
            layer=-1 if op.layer is None else op.layer,
            clipped=is_clipped(op.name),
            is_output=op.name in outputs,
        )
        for op in graph.ops
    )


def _kind(op: Op, graph: NetworkGraph) -> Kind:
    kind = Kind.OTHER
    if op.layer is not None:
        kind = Kind.PRODUCT
    elif clip_of(op) is not None:
        kind = Kind.CLIP
    elif is_sum(op, graph.shapes):
        kind = Kind.SUM
    elif op.constants:
        pass
    elif op.target in JOINS:
        kind = Kind.JOIN
    elif op.target in _POOLS:
        kind = Kind.POOL
    elif op.target is aten.constant_pad_nd.default:
        kind = Kind.OTHER if any(op.args[2:3]) else Kind.SAME
    elif len(op.inputs) == 1:
        kind = Kind.SAME if op.target in _SAME else Kind.PART if op.target in _PARTS else Kind.OTHER
    return kind


def is_sum(op: Op, shapes: Mapping[str, tuple[Any, ...] | None]) -> bool:
    """Return whether an operation is the sum of two results of one shape.

    Args:
        op: The operation.
        shapes: Shapes of results by name.
    """
    if op.target is not aten.add.Tensor or op.kwargs or len(op.inputs) != 2 or len(op.args) != 2:
        return False
    left, right = (shapes.get(name) for name in op.inputs)
    return left is not None and left == right
