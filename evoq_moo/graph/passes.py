"""Passes over a captured network: constants computed once, products found, what stands behind them folded in."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from evoq_moo.graph.capture import Captured
from evoq_moo.graph.finding import ProductFinder
from evoq_moo.graph.folding import affine_terms, folded, norm_terms
from evoq_moo.graph.ops import DROPOUTS, Const, Geometry, Op, Ref, aten, is_random, replace_op

_IDENTITIES = {
    aten.clone.default,
    aten.contiguous.default,
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
}


@dataclass
class Layer:
    """A layer found in the graph: one constant weight, its bias, and how it is used.

    Attributes:
        name: Its name: the module or parameter that holds the weight.
        weight: `(out, in / groups, kernel...)`.
        bias: `(out,)` or None.
        geometry: How it is computed.
        calls: Names of the results it makes.
        parameter: Name of the parameter that is its weight; None where the weight is computed.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    geometry: Geometry
    calls: list[str] = field(default_factory=list)
    parameter: str | None = None


@dataclass
class Lowered:
    """A graph behind all passes.

    Attributes:
        captured: What it was made of.
        shapes: Shape of each result, as in `captured`.
        ops: Operations in execution order; products with constant weights carry their layer.
        layers: In the order they first run.
        constants: What operations other than layers read.
        outputs: What each tensor of the output is.
        folded: Paths of BatchNorms folded into layers.
        unfolded: Paths of BatchNorms that stay.
    """

    captured: Captured
    ops: list[Op]
    shapes: dict[str, tuple[Any, ...]]
    layers: list[Layer]
    constants: dict[str, Tensor]
    outputs: tuple[Ref | Const, ...]
    folded: tuple[str, ...] = ()
    unfolded: tuple[str, ...] = ()


def lower(captured: Captured) -> Lowered:
    """Return a captured network behind all passes, in float32."""
    graph = _Graph(captured)
    graph.drop_identities()
    graph.find_products()
    graph.fold_into_products()
    graph.drop_unused()
    return graph.result()


class _Graph:
    """The passes' common state."""

    def __init__(self, captured: Captured) -> None:
        self.captured = captured
        self.ops = list(captured.ops)
        self.outputs = captured.outputs
        self.constants: dict[str, Any] = dict(captured.constants)
        self.shapes = dict(captured.shapes)
        self.layers: list[Layer] = []
        self.folded: list[str] = []
        self.unfolded: list[str] = []

    # Identities --------------------------------------------------------------------------------------------------

    def drop_identities(self) -> None:
        """Drop what changes nothing, and write reshapes so that memory formats don't matter."""
        same: dict[str, Ref | Const] = {}
        kept: list[Op] = []
        for op in self.ops:
            op = _substituted(op, same)  # noqa: PLW2901
            if self._is_identity(op):
                same[op.name] = op.args[0]
                continue
            op = self._whole_norm(op)  # noqa: PLW2901
            if op.target in (aten.view.default, aten._unsafe_view.default):
                op = replace_op(op, target=aten.reshape.default)  # noqa: PLW2901
            elif op.target is aten.pad.default and op.args[2:3] in ((), ("constant",)):
                value = op.args[3] if len(op.args) > 3 and op.args[3] is not None else 0
                op = replace_op(op, target=aten.constant_pad_nd.default, args=(*op.args[:2], value))  # noqa: PLW2901
            kept.append(op)
        self.ops = kept
        self.outputs = tuple(same.get(out.name, out) if isinstance(out, Ref) else out for out in self.outputs)

    def _is_identity(self, op: Op) -> bool:
        if not op.args or not isinstance(op.args[0], Ref):
            return False
        if op.target in _IDENTITIES:
            return True
        if op.target in DROPOUTS:
            return not is_random(op)
        return False

    def _whole_norm(self, op: Op) -> Op:
        """Return BatchNorm as one operator where torch split it into one that gives a tuple, and its first part."""
        if getattr(op.target, "__name__", "") != "getitem" or op.args[1] != 0 or len(op.inputs) != 1:
            return op
        maker = next((o for o in self.ops if o.name == op.inputs[0]), None)
        if maker is None or maker.target is not aten._native_batch_norm_legit_no_training.default:
            return op
        x, weight, bias, mean, variance, momentum, eps = maker.args
        args = (x, weight, bias, mean, variance, False, momentum, eps, False)
        return replace_op(op, target=aten.batch_norm.default, args=args, kwargs={}, source=maker.source)

    # Products ----------------------------------------------------------------------------------------------------

    def find_products(self) -> None:
        """Find the products whose weight is constant, and write each as a call of a layer on one input."""
        found: list[Op] = []
        taken: set[str] = set()
        finder = ProductFinder(self.constants, self.shapes)
        for op in self.ops:
            made = finder.find(op)
            if made is None:
                found.append(op)
                continue
            before, weight, bias, geometry, after, origin = made
            parameter = origin if origin in self.captured.parameters else None
            index = self._known(weight, bias, geometry, parameter)
            if index is None:
                index = len(self.layers)
                name = _unique(self._name_of(origin, op), taken)
                self.layers.append(Layer(name, weight, bias, geometry, parameter=parameter))
            ops = [*before, *after]
            call = next(i for i, o in enumerate(ops) if o.layer is not None)
            ops[call] = replace_op(ops[call], layer=index)
            self.layers[index].calls.append(ops[call].name)
            found += ops
        self.ops = found

    def _name_of(self, origin: str, op: Op) -> str:
        """Return the name of a layer: the module whose `weight` it multiplies by, else the parameter, else the module.

        Args:
            origin: Name of its weight.
            op: The product.
        """
        if origin not in self.captured.parameters:
            return op.source or origin
        own = f"{op.source}.weight"
        return (own if own in self.captured.shared.get(origin, ()) else origin).removesuffix(".weight")

    def _known(self, weight: Tensor, bias: Tensor | None, geometry: Geometry, parameter: str | None) -> int | None:
        """Return the layer that computes the same: one weight of the network's is one layer, however often it runs."""
        for i, layer in enumerate(self.layers):
            if layer.geometry != geometry or layer.parameter != parameter or layer.weight.shape != weight.shape:
                continue
            if _same(layer.weight, weight) and _same(layer.bias, bias):
                return i
        return None

    # Folding -----------------------------------------------------------------------------------------------------

    def fold_into_products(self) -> None:
        """Fold BatchNorm, and scales and shifts of channels, into the layer that alone makes what they read.

        BatchNorm: with `g = gamma / sqrt(variance + eps)`, weight <- g * weight, bias <- beta + (bias - mean) * g.
        """
        uses = self._uses()
        makers = {op.name: op for op in self.ops if op.layer is not None}
        same: dict[str, Ref | Const] = {}
        kept: list[Op] = []
        for op in self.ops:
            op = _substituted(op, same)  # noqa: PLW2901
            if op.layer is None and (source := self._folds(op, makers, uses)) is not None:
                if source != op.name:
                    same[op.name] = Ref(source)
                    uses[source] = uses.get(op.name, 0)
                continue
            kept.append(op)
        self.ops = [_substituted(op, same) for op in kept]
        self.outputs = tuple(same.get(out.name, out) if isinstance(out, Ref) else out for out in self.outputs)

    def _uses(self) -> Counter[str]:
        uses: Counter[str] = Counter()
        for op in self.ops:
            uses.update(op.inputs)
        uses.update(out.name for out in self.outputs if isinstance(out, Ref))
        return uses

    def _folds(self, op: Op, makers: Mapping[str, Op], uses: Counter[str]) -> str | None:
        """Fold an operation into the layer before it, if it can be; return the name of the layer's result."""
        is_norm = op.target is aten.batch_norm.default
        source = op.inputs[0] if len(op.inputs) == 1 else ""
        maker = makers.get(source)
        if maker is None or maker.layer is None or uses[source] != 1 or len(self.layers[maker.layer].calls) != 1:
            terms = None
        elif is_norm:
            layer = self.layers[maker.layer]
            terms = norm_terms(op, layer.geometry, self.shapes.get(maker.name), self.constants)
        else:
            layer = self.layers[maker.layer]
            terms = affine_terms(op, len(layer.weight), layer.geometry, self.constants)
        if terms is None or maker is None or maker.layer is None:
            if is_norm:
                self.unfolded.append(op.source)
            return None
        layer = self.layers[maker.layer]
        layer.weight, layer.bias = folded(layer.weight, layer.bias, *terms)
        if is_norm:
            self.folded.append(op.source)
        return source

    # End ---------------------------------------------------------------------------------------------------------

    def drop_unused(self) -> None:
        """Drop what no output needs."""
        needed = {out.name for out in self.outputs if isinstance(out, Ref)}
        kept: list[Op] = []
        for op in reversed(self.ops):
            if op.name in needed:
                needed.update(op.inputs)
                kept.append(op)
        self.ops = kept[::-1]
        used = sorted({op.layer for op in self.ops if op.layer is not None}, key=self._first_call)
        places = {old: new for new, old in enumerate(used)}
        self.layers = [self.layers[old] for old in used]
        self.ops = [op if op.layer is None else replace_op(op, layer=places[op.layer]) for op in self.ops]
        for layer in self.layers:
            layer.calls = [name for name in layer.calls if name in needed]

    def _first_call(self, layer: int) -> int:
        return next(i for i, op in enumerate(self.ops) if op.layer == layer)

    def result(self) -> Lowered:
        """Return the graph."""
        names = {name for op in self.ops for name in op.constants}
        names |= {out.name for out in self.outputs if isinstance(out, Const)}
        return Lowered(
            captured=self.captured,
            ops=self.ops,
            shapes=self.shapes,
            layers=self.layers,
            constants={name: value for name, value in self.constants.items() if name in names},
            outputs=self.outputs,
            folded=tuple(self.folded),
            unfolded=tuple(self.unfolded),
        )


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    if a.data_ptr() == b.data_ptr() and a.stride() == b.stride() and a.device.type != "meta":
        return True
    return a is b or (a.device.type != "meta" and a.shape == b.shape and torch.equal(a, b))


def _substituted(op: Op, same: Mapping[str, Ref | Const]) -> Op:
    if same.keys().isdisjoint(op.inputs):
        return op
    args, kwargs = tree_map_only(Ref, lambda ref: _end_of(ref, same), (op.args, dict(op.kwargs)))
    return replace_op(op, args=args, kwargs=kwargs)


def _end_of(ref: Ref, same: Mapping[str, Ref | Const]) -> Ref | Const:
    end: Ref | Const = ref
    while isinstance(end, Ref) and end.name in same:
        end = same[end.name]
    return end


def _unique(name: str, taken: set[str]) -> str:
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found
