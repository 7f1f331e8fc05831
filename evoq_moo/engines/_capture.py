"""Capturing a network's forward pass as a list of operations, with its quantizable layers found in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils._pytree import TreeSpec, tree_map_only, tree_unflatten

from evoq_moo.engines._kernels import Clip, Geometry

_aten = torch.ops.aten
_CONVOLUTIONS = {_aten.conv1d.default, _aten.conv2d.default, _aten.conv1d.padding, _aten.conv2d.padding}
_LAYERS = _CONVOLUTIONS | {_aten.linear.default, _aten.conv_transpose2d.input}
NO_CLIP, RELU = Clip(None, None), Clip(0.0, None)


class CaptureError(Exception):
    """Why a network's graph can't be used; the engine then replaces modules instead."""


@dataclass(frozen=True)
class Ref:
    """The result of another operation, by name."""

    name: str


@dataclass
class Op:
    """One operation of the graph.

    Attributes:
        name: Name of its result.
        target: The torch operator.
        args: Positional arguments; results of other operations are `Ref`s, parameters are tensors.
        kwargs: Keyword arguments.
        shape: Shape of its result, if that is one tensor.
        layer: For a call of a quantizable layer, its index in policy order.
        clip: A clip fused behind a layer or a sum.
    """

    name: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: tuple[int, ...] | None
    layer: int | None = None
    clip: Clip = NO_CLIP

    @property
    def inputs(self) -> list[str]:
        """Names of the results it reads."""
        names: list[str] = []
        tree_map_only(Ref, lambda ref: names.append(ref.name), (self.args, self.kwargs))
        return names


@dataclass
class Graph:
    """A captured forward pass.

    Attributes:
        input: Name of the samples.
        ops: Operations in execution order.
        outputs: The flat outputs: `Ref`s, tensors and plain values.
        spec: How they nest.
    """

    input: str
    ops: list[Op]
    outputs: list[Any]
    spec: TreeSpec
    uses: dict[str, int] = field(default_factory=dict)

    def count_uses(self) -> None:
        """Fill `uses`: how many operations and outputs read each result."""
        self.uses = {self.input: 0, **{op.name: 0 for op in self.ops}}
        for op in self.ops:
            for name in op.inputs:
                self.uses[name] += 1
        for output in self.outputs:
            if isinstance(output, Ref):
                self.uses[output.name] += 1

    def unflatten(self, values: list[Any]) -> Any:
        """Return the network's output from its flat values."""
        return tree_unflatten(values, self.spec)


def capture(network: nn.Module, batch: Tensor, layers: Mapping[str, int]) -> Graph:
    """Capture a network's forward pass on batches of one shape.

    Args:
        network: The folded float network in evaluation mode.
        batch: A micro-batch.
        layers: Index of each quantizable layer by module name.

    Returns:
        Its graph, functional: nothing is changed in place.

    Raises:
        CaptureError: The network can't be captured, or does with its layers what a policy could not be applied to.
    """
    try:
        with torch.no_grad():
            program = torch.export.export(network, (batch,), strict=False).run_decompositions({})
    except Exception as error:  # torch.export fails in many ways on code it can't follow
        reason = str(error).strip().splitlines()
        raise CaptureError(f"{type(error).__name__}: {reason[0] if reason else 'no reason given'}") from error
    samples, constants = _inputs(program)
    modules = dict(network.named_modules(remove_duplicate=False))
    names = {id(modules[name]): name for name in layers}
    calls: dict[str, list[Op]] = {name: [] for name in layers}
    ops: list[Op] = []
    outputs: list[Any] = []

    def resolve(node: fx.Node) -> Any:
        return constants.get(node.name, Ref(node.name))

    for node in program.graph.nodes:
        if node.op == "placeholder":
            continue
        if node.op == "output":
            outputs = list(fx.node.map_arg(node.args[0], resolve))
            continue
        if node.op != "call_function":
            raise CaptureError(f"its graph holds a {node.op}")
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), resolve)
        shape = tuple(node.meta["val"].shape) if isinstance(node.meta.get("val"), Tensor) else None
        op = Op(node.name, node.target, tuple(args), dict(kwargs), shape)
        path = [entry[0] for entry in node.meta.get("nn_module_stack", {}).values()]
        owner = next((names[id(modules[p])] for p in reversed(path) if p in modules and id(modules[p]) in names), None)
        if owner is not None:
            calls[owner].append(op)
        ops.append(op)
    for name, inside in calls.items():
        _mark_layer(name, modules[name], inside, layers[name])
    graph = Graph(samples, ops, outputs, program.call_spec.out_spec)
    graph.count_uses()
    return graph


def _inputs(program: torch.export.ExportedProgram) -> tuple[str, dict[str, Tensor]]:
    """Return the name of the samples, and parameters and other constants by name."""
    constants: dict[str, Tensor] = {}
    samples = ""
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            samples = spec.arg.name
        elif spec.target in program.state_dict:
            constants[spec.arg.name] = program.state_dict[spec.target]
        elif spec.target in program.constants:
            constants[spec.arg.name] = program.constants[spec.target]
        else:
            raise CaptureError(f"its input {spec.arg.name!r} is of kind {spec.kind.name}")
    if any(spec.kind != OutputKind.USER_OUTPUT for spec in program.graph_signature.output_specs):
        raise CaptureError("it changes its own state in forward")
    return samples, constants


def _mark_layer(name: str, module: nn.Module, inside: list[Op], index: int) -> None:
    """Mark the products of a layer; everything before them inside the layer must commute with quantization."""
    found = False
    for op in inside:
        if op.target in _LAYERS and len(op.args) > 1 and op.args[1] is not None and _is_weight(op.args[1], module):
            if not isinstance(op.args[0], Ref):
                raise CaptureError(f"layer {name!r} does not read a result of the network")
            op.layer = index
            found = True
        elif not found and not _commutes(op):
            raise CaptureError(f"layer {name!r} computes {op.target} before its product")
    if not found:
        raise CaptureError(f"layer {name!r} does not show in its graph")


def _is_weight(value: object, module: nn.Module) -> bool:
    weight: Tensor = module.weight  # type: ignore[assignment]
    return isinstance(value, Tensor) and value.data_ptr() == weight.data_ptr() and value.shape == weight.shape


def _commutes(op: Op) -> bool:
    """Return whether an operation moves zeros and values only, so that quantizing before or after it is the same."""
    if op.target is _aten.constant_pad_nd.default:
        return not any(op.args[2:3])
    if op.target is _aten.pad.default:
        mode, value = (*op.args[2:], "constant", None)[:2] if len(op.args) < 4 else op.args[2:4]
        return mode != "constant" or not value
    return False


def geometry_of(op: Op) -> Geometry | None:
    """Return where the kernel of a layer call is put; None for a matrix product.

    A Conv1d runs as a Conv2d of height 1. A convolution of one place at a time is a matrix product (measured: at least
    as fast as the convolution kernel, and twice as fast where zero has a level other than 0).
    """
    if op.target is _aten.linear.default:
        return None
    weight: Tensor = op.args[1]
    stride, padding, dilation, groups = (*op.args[3:], *(None,) * 4)[:4]
    dims = weight.dim() - 2
    strides, dilations = _two(stride, dims, 1), _two(dilation, dims, 1)
    groups = 1 if groups is None else int(groups)
    kernel = (1, *weight.shape[2:])[-2:]
    pad = None
    if isinstance(padding, str):
        total = [0 if padding == "valid" else d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        around = (total[0] // 2, total[1] // 2)
        if any(t % 2 for t in total):  # the odd place goes behind
            pad = (around[1], total[1] - around[1], around[0], total[0] - around[0])
            around = (0, 0)
    else:
        around = _two(padding, dims, 0)
    if kernel == strides == (1, 1) and around == (0, 0) and groups == 1:
        return None
    return Geometry(strides, around, dilations, groups, pad)


def _two(value: Any, dims: int, default: int) -> tuple[int, int]:
    numbers = [default] if value is None else [value] if isinstance(value, int) else list(value)
    last = int(numbers[-1])
    if dims == 1:
        return (1 if default else 0, last)
    return (int(numbers[0]), last)
