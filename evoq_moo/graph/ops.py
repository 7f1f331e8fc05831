"""What a captured network is made of: operations, references between them, and products with constant weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten
Target = Callable[..., Any]
MOVES = {
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.expand.default,
    aten.flip.default,
    aten.roll.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
}
"""Operators that take all values of one tensor to other places, by arguments that hold for any number of samples."""
JOINS = {aten.cat.default, aten.stack.default}
"""Operators that take all values of several tensors to one."""


@dataclass(frozen=True)
class Clip:
    """Bounds of a ReLU, ReLU6 or Hardtanh; None for no bound."""

    low: float | None
    high: float | None


NO_CLIP = Clip(None, None)
"""No bounds."""
RELU = Clip(0.0, None)
"""The bounds of a ReLU."""


@dataclass(frozen=True)
class Ref:
    """The result of another operation, or an input of the network, by name."""

    name: str


@dataclass(frozen=True)
class Const:
    """A constant of the network, by name: a parameter, a buffer, or what is computed from these alone."""

    name: str


@dataclass(frozen=True)
class Geometry:
    """How a product with a constant weight is computed.

    Attributes:
        dims: Dimensions of places: 0 for a matrix product, else 1 to 3.
        stride: Of a convolution, one number for each dimension of places.
        padding: Zeros on both sides.
        dilation: Distance of the kernel's elements.
        groups: Groups of channels.
        transposed: Whether the convolution is transposed.
        output_padding: Of a transposed convolution.
    """

    dims: int = 0
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        """Name of the torch layer that computes so, e.g. ``"Conv2d"``."""
        if not self.dims:
            return "Linear"
        return f"Conv{'Transpose' if self.transposed else ''}{self.dims}d"

    @property
    def channel_axis(self) -> int:
        """Axis of channels in input and output."""
        return 1 if self.dims else -1


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        name: Name of its result.
        target: The torch operator, or a function of plain numbers. Unused where `layer` is set.
        args: Positional arguments: `Ref`s, `Const`s and plain values.
        kwargs: Keyword arguments.
        source: Path of the module that called it.
        shape: Shape of its result if that is one tensor of known shape.
        layer: For a product with a constant weight, the index of its layer; `args` then holds its input alone.
    """

    name: str
    target: Target
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    shape: tuple[int, ...] | None = None
    layer: int | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the results it reads, in order."""
        names: list[str] = []
        tree_map_only(Ref, lambda ref: names.append(ref.name), (self.args, dict(self.kwargs)))
        return tuple(names)

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of the constants it reads, in order."""
        names: list[str] = []
        tree_map_only(Const, lambda const: names.append(const.name), (self.args, dict(self.kwargs)))
        return tuple(names)

    def compute(self, values: Mapping[str, Any], constants: Mapping[str, Tensor]) -> Any:
        """Return its result; for operations that are no layer's call.

        Args:
            values: Results by name.
            constants: Constants by name.
        """

        def look_up(leaf: Ref | Const) -> Any:
            return values[leaf.name] if isinstance(leaf, Ref) else constants[leaf.name]

        args, kwargs = tree_map_only((Ref, Const), look_up, (self.args, dict(self.kwargs)))
        return self.target(*args, **kwargs)

    def renamed(self, names: Mapping[str, str]) -> "Op":
        """Return the operation reading other results in the place of some."""
        if names.keys().isdisjoint(self.inputs):
            return self
        args, kwargs = tree_map_only(
            Ref, lambda ref: Ref(names.get(ref.name, ref.name)), (self.args, dict(self.kwargs))
        )
        return replace_op(self, args=args, kwargs=kwargs)

    def __reduce__(self) -> Any:
        # Torch's operators don't pickle; their names do.
        values = (
            self.name,
            target_name(self.target),
            self.args,
            dict(self.kwargs),
            self.source,
            self.shape,
            self.layer,
        )
        return _remade, values


def replace_op(op: Op, **changes: Any) -> Op:
    """Return an operation with some attributes changed."""
    values = {name: getattr(op, name) for name in Op.__dataclass_fields__}
    return Op(**{**values, **changes})


def _remade(
    name: str,
    target: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    source: str,
    shape: tuple[int, ...] | None,
    layer: int | None,
) -> Op:
    return Op(name, target_of(target), args, kwargs, source, shape, layer)


def target_name(target: Target) -> str:
    """Return the name of an operator, e.g. ``"aten.relu.default"`` or ``"_operator.mul"``."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    return f"{target.__module__}.{target.__name__}"


@cache
def target_of(name: str) -> Target:
    """Return the operator of a name that :func:`target_name` gave.

    Raises:
        LookupError: There is none in this version of torch.
    """
    import math
    import operator

    space, _, rest = name.partition(".")
    for module in (operator, math, torch):
        if space in (module.__name__, "_operator" if module is operator else "") and hasattr(module, rest):
            found: Target = getattr(module, rest)
            return found
    packet, _, overload = rest.partition(".")
    try:
        operator_found: Target = getattr(getattr(getattr(torch.ops, space), packet), overload)
    except AttributeError as error:
        raise LookupError(f"torch has no operator {name!r}") from error
    return operator_found


DROPOUTS = {
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default,
}


def is_random(op: Op) -> bool:
    """Return whether an operation draws random numbers."""
    if op.target in DROPOUTS:
        return op.args[2] is not False and op.args[1] != 0
    return isinstance(op.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in op.target.tags


def clip_of(op: Op) -> Clip | None:
    """Return the bounds of an operation that only clips its first argument, or None for any other."""
    if op.layer is not None or not op.args or not isinstance(op.args[0], Ref) or len(op.inputs) != 1:
        return None
    if op.target is aten.relu.default:
        return RELU
    if op.target is aten.relu6.default:
        return Clip(0.0, 6.0)
    if op.target is aten.hardtanh.default:
        bounds = [*op.args[1:], *(-1.0, 1.0)[len(op.args) - 1 :]]
        return Clip(float(bounds[0]), float(bounds[1]))
    if op.target is aten.clamp.default:
        low, high = (*op.args[1:], None, None)[:2]
        low, high = op.kwargs.get("min", low), op.kwargs.get("max", high)
        return Clip(None if low is None else float(low), None if high is None else float(high))
    return None
