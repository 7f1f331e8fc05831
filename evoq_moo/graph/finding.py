"""Finding products with a constant weight: whatever wrote them becomes a call of a layer on one input."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from evoq_moo.graph.ops import Const, Geometry, Op, Ref, Target, aten, replace_op
from evoq_moo.graph.products import transposed_layout

_CONVOLUTIONS: dict[Target, int] = {
    aten.conv1d.default: 1,
    aten.conv1d.padding: 1,
    aten.conv2d.default: 2,
    aten.conv2d.padding: 2,
    aten.conv3d.default: 3,
    aten.conv3d.padding: 3,
}
_TRANSPOSED: dict[Target, int] = {
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


Found = tuple[list[Op], Tensor, Tensor | None, Geometry, list[Op], str]
"""Of a product: operations before it, weight, bias, geometry, its call and what stands behind, name of the weight."""


class ProductFinder:
    """Finds what a product with a constant weight is.

    Args:
        constants: Constants by name.
        shapes: Shape of each result; those of operations that a product is written with are added.
    """

    def __init__(self, constants: Mapping[str, Any], shapes: dict[str, tuple[Any, ...]]) -> None:
        self.constants = constants
        self.shapes = shapes

    def find(self, op: Op) -> Found | None:
        """Return what a product becomes: operations before, weight, bias, geometry, the call and operations behind."""
        found: Found | None = None
        if op.target is aten.linear.default:
            found = self._linear(op, op.args[0], op.args[1], (*op.args[2:], None)[0])
        elif op.target in _CONVOLUTIONS:
            found = self._convolution(op)
        elif op.target in _TRANSPOSED:
            found = self._transposed(op)
        elif op.target is aten.convolution.default:
            found = self._any_convolution(op)
        elif op.target is aten.addmm.default and not op.kwargs and isinstance(op.args[0], Const):
            found = self._linear(op, op.args[1], op.args[2], op.args[0], transpose=True)
        elif op.target in (aten.mm.default, aten.matmul.default):
            rows = isinstance(op.args[0], Const) and isinstance(op.args[1], Ref)
            x, weight = op.args[:2]
            found = self._linear_on_rows(op) if rows else self._linear(op, x, weight, None, transpose=True)
        elif op.target is aten.einsum.default:
            found = self._einsum(op)
        return found

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

    def _linear(self, op: Op, x: object, weight: object, bias: object, *, transpose: bool = False) -> Found | None:
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

    def _linear_on_rows(self, op: Op) -> Found | None:
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

    def _einsum(self, op: Op) -> Found | None:
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
            split: tuple[Any, ...] = (Ref(call.name), n, sides)
            behind.append(replace_op(op, name=f"{op.name}_sides", target=aten.unflatten.int, args=split, kwargs={}))
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

    def _convolution(self, op: Op) -> Found | None:
        dims = _CONVOLUTIONS[op.target]
        x, weight, bias, stride, padding, dilation, groups = arguments_of(op)
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

    def _transposed(self, op: Op) -> Found | None:
        x, weight, bias, stride, padding, output_padding, groups, dilation = arguments_of(op)
        dims = _TRANSPOSED[op.target]
        geometry = _geometry(dims, stride, padding, dilation, groups, output_padding, transposed=True)
        return self._convolution_call(op, x, weight, bias, geometry, [])

    def _any_convolution(self, op: Op) -> Found | None:
        x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = arguments_of(op)
        geometry = _geometry(
            len(stride), stride, padding, dilation, groups, output_padding, transposed=bool(transposed)
        )
        return self._convolution_call(op, x, weight, bias, geometry, [])

    def _convolution_call(
        self, op: Op, x: object, weight: object, bias: object, geometry: Geometry, before: list[Op]
    ) -> Found | None:
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


def arguments_of(op: Op) -> list[Any]:
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


def _geometry(
    dims: int, stride: Any, padding: Any, dilation: Any, groups: int, output_padding: Any, *, transposed: bool
) -> Geometry:
    return Geometry(
        dims,
        _numbers(stride, dims, 1),
        _numbers(padding, dims, 0),
        _numbers(dilation, dims, 1),
        int(groups),
        transposed,
        _numbers(output_padding, dims, 0) if transposed else (),
    )
