"""Passes over a captured network: constants computed once, products found, what stands behind them folded in."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from evoq_moo.graph.capture import Captured
from evoq_moo.graph.ops import DROPOUTS, Const, Geometry, Op, Ref, Target, aten, is_random, replace_op
from evoq_moo.graph.products import transposed_layout

_IDENTITIES = {
    aten.clone.default,
    aten.contiguous.default,
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
}
_CONVOLUTIONS = {
    aten.conv1d.default: 1,
    aten.conv1d.padding: 1,
    aten.conv2d.default: 2,
    aten.conv2d.padding: 2,
    aten.conv3d.default: 3,
    aten.conv3d.padding: 3,
}
_TRANSPOSED = {
    aten.conv_transpose1d.default: 1,
    aten.conv_transpose2d.input: 2,
    aten.conv_transpose3d.input: 3,
}
FLOAT_PRODUCTS: dict[Target, str] = {
    **dict.fromkeys((*_CONVOLUTIONS, *_TRANSPOSED, aten.convolution.default), "a convolution"),
    aten.linear.default: "a matrix product",
    aten.addmm.default: "a matrix product",
    aten.mm.default: "a matrix product",
    aten.matmul.default: "a matrix product",
    aten.bmm.default: "a matrix product",
    aten.baddbmm.default: "a matrix product",
    aten.einsum.default: "a sum of products (einsum)",
    aten.scaled_dot_product_attention.default: "attention",
    aten.bilinear.default: "a bilinear product",
    aten.lstm.input: "an LSTM",
    aten.gru.input: "a GRU",
    aten.rnn_tanh.input: "an RNN",
    aten.rnn_relu.input: "an RNN",
}
"""Operators that multiply and add; those that stay in float are counted and reported."""


_Found = tuple[list[Op], Tensor, Tensor | None, Geometry, list[Op], str]
"""Of a product: operations before it, weight, bias, geometry, its call and what stands behind, name of the weight."""


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
        for op in self.ops:
            made = self._product(op)
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

    def _product(self, op: Op) -> _Found | None:
        """Return what a product becomes: operations before, weight, bias, geometry, the call and operations behind."""
        if op.target is aten.linear.default:
            return self._linear(op, op.args[0], op.args[1], (*op.args[2:], None)[0])
        if op.target in _CONVOLUTIONS:
            return self._convolution(op)
        if op.target in _TRANSPOSED:
            return self._transposed(op)
        if op.target is aten.convolution.default:
            return self._any_convolution(op)
        if op.target is aten.addmm.default and not op.kwargs and isinstance(op.args[0], Const):
            return self._linear(op, op.args[1], op.args[2], op.args[0], transpose=True)
        if op.target in (aten.mm.default, aten.matmul.default):
            if isinstance(op.args[0], Const) and isinstance(op.args[1], Ref):
                return self._linear_on_rows(op)
            return self._linear(op, op.args[0], op.args[1], None, transpose=True)
        if op.target is aten.einsum.default:
            return self._einsum(op)
        return None

    def _weight(self, value: object, dims: int) -> Tensor | None:
        if not isinstance(value, Const):
            return None
        tensor = self.constants[value.name]
        if not isinstance(tensor, Tensor) or tensor.dim() != dims or tensor.dtype != torch.float32:
            return None
        return tensor if tensor.numel() else None

    def _bias(self, value: object, channels: int) -> tuple[bool, Tensor | None]:
        """Return whether a bias can be a layer's, and the bias."""
        if value is None:
            return True, None
        if not isinstance(value, Const):
            return False, None
        tensor = self.constants[value.name]
        if not isinstance(tensor, Tensor) or tensor.numel() != channels or tensor.dtype != torch.float32:
            return False, None
        return True, tensor.reshape(channels)

    def _rank(self, value: object) -> int | None:
        shape = self.shapes.get(value.name) if isinstance(value, Ref) else None
        return None if shape is None else len(shape)

    def _linear(self, op: Op, x: object, weight: object, bias: object, *, transpose: bool = False) -> _Found | None:
        tensor = self._weight(weight, 2)
        rank = self._rank(x)
        if tensor is None or rank is None or rank < 2 or not isinstance(weight, Const):
            return None
        own = tensor.t() if transpose else tensor
        possible, own_bias = self._bias(bias, len(own))
        if not possible:
            return None
        call = replace_op(op, args=(x,), kwargs={}, layer=-1)
        return [], own, own_bias, Geometry(), [call], weight.name

    def _linear_on_rows(self, op: Op) -> _Found | None:
        """A constant times the input: the product of the transposed input, transposed again."""
        weight, x = op.args
        tensor, rank = self._weight(weight, 2), self._rank(x)
        if tensor is None or rank is None or rank < 2:
            return None
        swap = aten.transpose.int
        before = replace_op(op, name=f"{op.name}_columns", target=swap, args=(x, -1, -2), kwargs={}, shape=None)
        call = replace_op(op, name=f"{op.name}_product", args=(Ref(before.name),), kwargs={}, layer=-1, shape=None)
        after = replace_op(op, target=swap, args=(Ref(call.name), -1, -2), kwargs={})
        *rest, n, m = self.shapes[x.name]
        self.shapes[before.name], self.shapes[call.name] = (*rest, m, n), (*rest, m, len(tensor))
        return [before], tensor, None, Geometry(), [call, after], weight.name

    def _einsum(self, op: Op) -> _Found | None:
        """Write a contraction of one input with a constant as a matrix product."""
        equation, operands = op.args[0].replace(" ", ""), list(op.args[1])
        if len(operands) != 2 or "." in equation or "->" not in equation or op.kwargs.get("path") is not None:
            return None
        terms, result = equation.split("->")
        first, second = terms.split(",")
        if isinstance(operands[0], Const):
            operands, first, second = operands[::-1], second, first
        x, weight = operands
        tensor = self._weight(weight, len(second))
        if tensor is None or not isinstance(x, Ref):
            return None
        inner = [c for c in second if c in first and c not in result]
        outer = [c for c in second if c in result and c not in first]
        rest = [c for c in first if c not in inner]
        once = all(len(set(term)) == len(term) for term in (first, second, result))
        if not inner or not outer or not rest or not once or len(inner) + len(outer) != len(second):
            return None
        if any(c not in result for c in rest) or set(result) != {*rest, *outer}:
            return None
        matrix = tensor.permute([second.index(c) for c in (*outer, *inner)])
        sides = list(matrix.shape[: len(outer)])
        own = matrix.reshape(math.prod(sides), -1)
        n, k = len(rest), len(inner)
        moved = [first.index(c) for c in (*rest, *inner)]
        before = [replace_op(op, name=f"{op.name}_moved", target=aten.permute.default, args=(x, moved), kwargs={})]
        if k > 1:
            args = (Ref(before[-1].name), n, n + k - 1)
            before.append(replace_op(op, name=f"{op.name}_flat", target=aten.flatten.using_ints, args=args, kwargs={}))
        call = replace_op(op, name=f"{op.name}_product", args=(Ref(before[-1].name),), kwargs={}, layer=-1)
        behind = [call]
        if len(outer) > 1:
            args = (Ref(call.name), n, sides)
            behind.append(replace_op(op, name=f"{op.name}_sides", target=aten.unflatten.int, args=args, kwargs={}))
        sides_of = dict(zip(first, self.shapes[x.name], strict=True))
        places = tuple(sides_of[c] for c in rest)
        self.shapes[before[0].name] = (*places, *(sides_of[c] for c in inner))
        self.shapes[before[-1].name] = (*places, own.shape[1])
        self.shapes[call.name] = (*places, len(own))
        if len(outer) > 1:
            self.shapes[behind[-1].name] = (*places, *sides)
        order = [(*rest, *outer).index(c) for c in result]
        behind.append(replace_op(op, target=aten.permute.default, args=(Ref(behind[-1].name), order), kwargs={}))
        own_copy = own if own.data_ptr() == tensor.data_ptr() else own.contiguous()
        return before, own_copy, None, Geometry(), behind, weight.name

    def _convolution(self, op: Op) -> _Found | None:
        dims = _CONVOLUTIONS[op.target]
        x, weight, bias, stride, padding, dilation, groups = _arguments(op)
        numbers = (_numbers(stride, dims, 1), _numbers(dilation, dims, 1))
        before: list[Op] = []
        if isinstance(padding, str):
            tensor = self._weight(weight, dims + 2)
            if tensor is None:
                return None
            total = [
                0 if padding == "valid" else d * (k - 1) for d, k in zip(numbers[1], tensor.shape[2:], strict=True)
            ]
            around = tuple(t // 2 for t in total)
            if any(t % 2 for t in total):  # the odd zero goes behind
                sides = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
                pad = replace_op(
                    op, name=f"{op.name}_padded", target=aten.constant_pad_nd.default, args=(x, sides, 0), kwargs={}
                )
                before, x, around = [pad], Ref(pad.name), (0,) * dims
        else:
            around = _numbers(padding, dims, 0)
        geometry = Geometry(dims, numbers[0], around, numbers[1], int(groups))
        return self._convolution_call(op, x, weight, bias, geometry, before)

    def _transposed(self, op: Op) -> _Found | None:
        dims = _TRANSPOSED[op.target]
        x, weight, bias, stride, padding, output_padding, groups, dilation = _arguments(op)
        geometry = Geometry(
            dims,
            _numbers(stride, dims, 1),
            _numbers(padding, dims, 0),
            _numbers(dilation, dims, 1),
            int(groups),
            True,
            _numbers(output_padding, dims, 0),
        )
        return self._convolution_call(op, x, weight, bias, geometry, [])

    def _any_convolution(self, op: Op) -> _Found | None:
        x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = _arguments(op)
        dims = len(stride)
        geometry = Geometry(
            dims,
            _numbers(stride, dims, 1),
            _numbers(padding, dims, 0),
            _numbers(dilation, dims, 1),
            int(groups),
            bool(transposed),
            _numbers(output_padding, dims, 0) if transposed else (),
        )
        return self._convolution_call(op, x, weight, bias, geometry, [])

    def _convolution_call(
        self, op: Op, x: object, weight: object, bias: object, geometry: Geometry, before: list[Op]
    ) -> _Found | None:
        tensor = self._weight(weight, geometry.dims + 2)
        rank = self._rank(before[0].args[0] if before else x)
        if tensor is None or rank != geometry.dims + 2 or not isinstance(weight, Const):
            return None
        own = transposed_layout(tensor, geometry.groups) if geometry.transposed else tensor
        possible, own_bias = self._bias(bias, len(own))
        if not possible:
            return None
        call = replace_op(op, args=(x,), kwargs={}, layer=-1)
        return before, own, own_bias, geometry, [call], weight.name

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
        # A BatchNorm operator returns a tuple, of which the first element is its result.
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
            terms = self._norm_terms(op, maker, self.layers[maker.layer])
        else:
            terms = self._affine_terms(op, self.layers[maker.layer])
        if terms is None or maker is None or maker.layer is None:
            if is_norm:
                self.unfolded.append(op.source)
            return None
        _fold(self.layers[maker.layer], *terms)
        if is_norm:
            self.folded.append(op.source)
        return source

    def _norm_terms(self, op: Op, maker: Op, layer: Layer) -> tuple[Tensor, Tensor] | None:
        """Return the float64 gain and shift of a BatchNorm; None where it can't be folded.

        It can't where it takes its moments from the batch, or scales another axis than the layer's channels.
        """
        x, weight, bias, mean, variance, training, _, eps, _ = _arguments(op)
        shape = self.shapes.get(maker.name)
        constant = all(value is None or isinstance(value, Const) for value in (weight, bias, mean, variance))
        fits = bool(layer.geometry.dims) or (shape is not None and len(shape) == 2)
        if training or mean is None or variance is None or not constant or not fits or not isinstance(x, Ref):
            return None
        gamma, beta, mu, sigma = (
            None if value is None else self.constants[value.name].double() for value in (weight, bias, mean, variance)
        )
        gain = torch.rsqrt(sigma + float(eps))
        if gamma is not None:
            gain = gain * gamma
        return gain, (torch.zeros_like(mu) if beta is None else beta) - mu * gain

    def _affine_terms(self, op: Op, layer: Layer) -> tuple[Tensor, Tensor] | None:
        """Return the float64 gain and shift of an operation that scales or shifts channels by constants."""
        if op.target not in (aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor) or op.kwargs:
            return None
        if len(op.args) != 2 or (isinstance(op.args[0], Const) and op.target in (aten.sub.Tensor, aten.div.Tensor)):
            return None
        constant = next((a for a in op.args if isinstance(a, Const)), None)
        if constant is None:
            return None
        values = self._per_channel(self.constants[constant.name], layer)
        if values is None:
            return None
        one, none = torch.ones_like(values), torch.zeros_like(values)
        if op.target is aten.mul.Tensor:
            return values, none
        if op.target is aten.div.Tensor:
            return 1 / values, none
        return one, values if op.target is aten.add.Tensor else -values

    def _per_channel(self, values: Any, layer: Layer) -> Tensor | None:
        """Return a constant as float64 `(out,)` if it has one value for each output channel, else None."""
        channels, dims = len(layer.weight), layer.geometry.dims
        if not isinstance(values, Tensor) or values.dtype != torch.float32 or values.numel() != channels:
            return None
        shape = tuple(values.shape)
        expected = (channels, *(1,) * dims)
        if shape[-len(expected) :] != expected or any(side != 1 for side in shape[: -len(expected)]):
            return None
        return values.detach().double().reshape(channels)

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


def _fold(layer: Layer, gain: Tensor, shift: Tensor) -> None:
    weight = layer.weight.double()
    bias = torch.zeros_like(gain) if layer.bias is None else layer.bias.double()
    layer.weight = (weight * gain.reshape(-1, *(1,) * (weight.dim() - 1))).float()
    layer.bias = (shift + bias * gain).float()


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


def _arguments(op: Op) -> list[Any]:
    """Return an operator's arguments in order, defaults filled in."""
    schema = op.target._schema  # type: ignore[attr-defined]
    values = []
    for i, argument in enumerate(schema.arguments):
        value = op.args[i] if i < len(op.args) else op.kwargs.get(argument.name, argument.default_value)
        values.append(value)
    return values


def _numbers(value: Any, dims: int, default: int) -> tuple[int, ...]:
    numbers = [default] if value is None else [value] if isinstance(value, int) else list(value)
    numbers = numbers or [default]
    return tuple(int(n) for n in (numbers * dims if len(numbers) == 1 else numbers))


def _unique(name: str, taken: set[str]) -> str:
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found
