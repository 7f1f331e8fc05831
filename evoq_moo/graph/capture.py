"""Capturing a network's forward pass once, as functional operations on any number of samples."""

import gc
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import config
from torch.utils import _pytree as pytree

from evoq_moo.difference import Rebuild, skeleton
from evoq_moo.errors import check_memory
from evoq_moo.graph.inputs import Samples, arguments
from evoq_moo.graph.ops import Const, Op, Ref, Target, aten, is_random, replace_op
from evoq_moo.graph.silence import quiet

_FRESH = {
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.linear.default,
    aten.matmul.default,
    aten.batch_norm.default,
    aten.layer_norm.default,
    aten.group_norm.default,
    aten.instance_norm.default,
    aten.relu6.default,
    aten.max_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.softmax.int,
    aten.scaled_dot_product_attention.default,
}
"""Composite operators that never return a view of what they are given."""
_FILLED = {
    aten.new_zeros.default: 0,
    aten.new_ones.default: 1,
    aten.zeros_like.default: 0,
    aten.ones_like.default: 1,
}
"""Operators whose result has one value everywhere: nothing but the type of what they read counts."""
_LARGEST_CONSTANT = 2**26
"""Elements of a result of constants alone that is computed once rather than at every call."""


class CaptureError(Exception):
    """Why a network's graph can't be used."""


@dataclass(frozen=True)
class Captured:
    """A captured forward pass, as it stands in the network: no pass has changed it.

    Attributes:
        inputs: Names of the network's inputs, in the order of :func:`evoq_moo.graph.inputs.leaves`.
        ops: Operations in execution order.
        parameters: Names of those constants that the network holds as parameters or buffers.
        constants: Parameters, buffers, and what is computed from these alone, by name.
        outputs: What each tensor of the output is.
        rebuild: Makes the output of its tensors, nested as the network's.
        batch: The number of samples it was captured with.
        symbol: The symbol of the number of samples; None where it takes `batch` samples only.
        shapes: Shape of each result that is one tensor, its sides as numbers or expressions of the symbol.
        numbers: The same for results that are numbers.
        mutated: What the forward pass changes in place: parameters, buffers and inputs.
        shared: For a parameter that the network holds under several names, all of them.
    """

    inputs: tuple[str, ...]
    ops: tuple[Op, ...]
    parameters: frozenset[str]
    constants: dict[str, Any]
    outputs: tuple[Ref | Const, ...]
    rebuild: Rebuild
    batch: int
    symbol: Any
    shapes: Mapping[str, tuple[Any, ...]]
    numbers: Mapping[str, Any]
    mutated: tuple[str, ...]
    shared: Mapping[str, frozenset[str]]


class _Flat(nn.Module):
    """A network that returns the tensors of its output as a list, and says how they nest."""

    def __init__(self, network: nn.Module, say: Callable[[Rebuild], None]) -> None:
        super().__init__()
        self.network = network
        self._say = say

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        leaves, rebuild = skeleton(self.network(*args, **kwargs))
        self._say(rebuild)
        return leaves


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep torch's attention from its fused path, whose one operator hides the products in it."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _lean() -> Iterator[None]:
    """Keep torch from what makes tracing slower by a sixth (measured): a stack trace for each operation, and pauses.

    The pauses are those of Python's collector, which goes through all objects again and again while a graph grows.
    """
    before, collected = getattr(config, "do_not_emit_stack_traces", False), gc.isenabled()
    config.do_not_emit_stack_traces = True
    gc.disable()
    try:
        yield
    finally:
        config.do_not_emit_stack_traces = before
        if collected:
            gc.enable()


def capture(network: nn.Module, samples: Samples, *, dynamic: bool = True) -> Captured:
    """Capture a network's forward pass.

    Args:
        network: The network in evaluation mode; what it holds may be shared with the result.
        samples: At least two samples, or the number of samples to capture for.
        dynamic: Capture for any number of samples.

    Raises:
        CaptureError: The network can't be captured, or not for any number of samples.
    """
    args, kwargs = arguments(samples)
    rebuilds: list[Rebuild] = []
    flat = _Flat(network, rebuilds.append)
    auto = {0: Dim.AUTO} if dynamic else None
    shapes = (tuple(auto for _ in args), dict.fromkeys(kwargs, auto)) if dynamic else None
    try:
        with torch.no_grad(), quiet(), _plain_attention(), _lean():
            program = torch.export.export(flat, (args, kwargs), dynamic_shapes=shapes, strict=False)
            return _read(program, rebuilds[-1], _shared(network), dynamic=dynamic)
    except CaptureError:
        raise
    except Exception as error:  # torch.export fails in many ways on code it can't follow
        check_memory(error)
        raise CaptureError(f"{type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no reason given"


def _shared(network: nn.Module) -> dict[str, frozenset[str]]:
    """Return all names of each parameter that a network holds under more than one, by each of them."""
    names: dict[int, set[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return {name: frozenset(found) for found in names.values() if len(found) > 1 for name in found}


def _read(
    program: ExportedProgram, rebuild: Rebuild, shared: Mapping[str, frozenset[str]], *, dynamic: bool
) -> Captured:
    functional = _Functional(program)
    if not functional.possible:
        program = program.run_decompositions({})
        functional = _Functional(program)
        if not functional.possible:
            raise CaptureError("it changes tensors in place in a way that can't be written without")
    first = program.graph_signature.user_inputs[0]
    node = next(n for n in program.graph.nodes if n.name == first)
    batch = node.meta["val"].shape[0]
    symbol = None
    if dynamic:
        if isinstance(batch, int):
            raise CaptureError(f"its graph takes {batch} samples only")
        symbol = batch.node.expr
        if not symbol.is_Symbol:
            raise CaptureError(f"its graph takes only numbers of samples of the form {symbol}")
    functional.check_symbols(symbol)
    return Captured(
        inputs=tuple(str(name) for name in program.graph_signature.user_inputs),
        ops=tuple(functional.ops),
        parameters=frozenset(functional.parameters),
        constants=functional.constants,
        outputs=functional.outputs,
        rebuild=rebuild,
        batch=int(batch) if symbol is None else int(batch.node.hint),
        symbol=symbol,
        shapes=functional.shapes,
        numbers=functional.numbers,
        mutated=tuple(dict.fromkeys(functional.mutated)),
        shared=shared,
    )


class _Functional:
    """The operations of an exported program, those in place replaced by ones that return a new tensor.

    That is the same wherever no other view of the changed tensor is read afterwards; elsewhere `possible` is False, and
    torch's own (slower) functionalization must run first.
    """

    def __init__(self, program: ExportedProgram) -> None:
        self.possible = True
        self.ops: list[Op] = []
        self.constants: dict[str, Any] = {}
        self.parameters: set[str] = set()
        self.outputs: tuple[Ref | Const, ...] = ()
        self.shapes: dict[str, tuple[Any, ...]] = {}
        self.numbers: dict[str, Any] = {}
        self.mutated: list[str] = []
        self._program = program
        self._values: dict[fx.Node, Ref | Const] = {}
        self._roots: dict[fx.Node, fx.Node] = {}
        self._places = {node: i for i, node in enumerate(program.graph.nodes)}
        self._read_inputs()
        for node in program.graph.nodes:
            if node.op == "output":
                self._read_outputs(node)
            elif node.op == "call_function":
                self._read_call(node)
            elif node.op != "placeholder":
                raise CaptureError(f"its graph holds a {node.op}: {node.target}")

    def check_symbols(self, symbol: Any) -> None:
        """Raise unless all shapes follow from the number of samples.

        Raises:
            CaptureError: One does not.
        """
        for name, shape in self.shapes.items():
            for side in shape:
                if not isinstance(side, int) and not side.free_symbols <= {symbol}:
                    raise CaptureError(f"the shape of {name!r} depends on values, not on the number of samples alone")

    def _read_inputs(self) -> None:
        program = self._program
        nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
        for spec in program.graph_signature.input_specs:
            node = nodes[spec.arg.name]
            self._roots[node] = node
            target = str(spec.target)
            if spec.kind == InputKind.USER_INPUT:
                self._values[node] = Ref(node.name)
                self._note_value(node)
                continue
            held = program.state_dict if target in program.state_dict else program.constants
            value = held.get(target)
            if not isinstance(value, Tensor):
                raise CaptureError(f"its input {spec.arg.name!r} is of kind {spec.kind.name}")
            name = target.removeprefix("network.")
            self.constants[name] = value.detach()
            self.parameters.add(name)
            self._values[node] = Const(name)

    def _note_value(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            self.shapes[node.name] = tuple(_plain(side) for side in value.shape)
        elif isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            self.numbers[node.name] = value.node.expr
        elif isinstance(value, bool | int | float):
            self.numbers[node.name] = value

    def _read_outputs(self, node: fx.Node) -> None:
        specs = self._program.graph_signature.output_specs
        found = []
        for spec, value in zip(specs, node.args[0], strict=True):  # type: ignore[arg-type]
            if spec.kind == OutputKind.USER_OUTPUT:
                if not isinstance(value, fx.Node):
                    raise CaptureError(f"its output holds {value!r} in the place of a tensor")
                found.append(self._values[value])
            elif spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION):
                self.mutated.append(str(spec.target).removeprefix("network."))
            else:
                raise CaptureError(f"its output {spec.arg!r} is of kind {spec.kind.name}")
        self.outputs = tuple(found)

    def _read_call(self, node: fx.Node) -> None:
        target: Target = node.target  # type: ignore[assignment]
        if isinstance(target, torch._ops.HigherOrderOperator):
            raise CaptureError(f"it branches in a way that needs {target}")
        if isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable:
            changed = node.args[0]
            if isinstance(changed, fx.Node) and self._roots[changed].op != "placeholder" and self._is_constant(node):
                # A tensor that the network makes of constants: what it becomes is known now.
                self._roots[node] = self._roots[changed]
                self._evaluate(node, target)
                return
            twin = _twin(target)
            if twin is None or not isinstance(changed, fx.Node) or self._others_read_later(node, changed):
                self.possible = False
                self._values[node] = Ref(node.name)
                self._roots[node] = node
                return
            target = twin
            root = self._roots[changed]
            if root.op == "placeholder":
                value = self._values[root]
                self.mutated.append(value.name)
            self._roots[node] = node
            self._append(node, target)
            # Whoever reads the changed tensor from here on reads the new one.
            self._values[changed] = Ref(node.name)
            self._roots[changed] = node
            return
        self._roots[node] = self._root_of(node, target)
        self._append(node, target)

    def _append(self, node: fx.Node, target: Target) -> None:
        if any(value not in self._values for value in node.all_input_nodes):
            raise CaptureError(f"its graph reads a value before it is made: {node}")
        if self._is_constant(node) and not _is_random(node, target):
            self._evaluate(node, target)
            return
        look_up: Any = self._values.__getitem__
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), look_up)
        self._values[node] = Ref(node.name)
        self._note_value(node)
        path = [entry[0] for entry in node.meta.get("nn_module_stack", {}).values()]
        source = path[-1].removeprefix("L['self'].") if path else ""
        source = "" if source == "network" else source.removeprefix("network.")
        self.ops.append(Op(node.name, target, tuple(_plain_lists(args)), dict(_plain_lists(kwargs)), source))

    def _is_constant(self, node: fx.Node) -> bool:
        """Return whether a result follows from constants alone, and is of a size to be kept."""
        if node.target not in _FILLED and any(not isinstance(self._values.get(n), Const) for n in node.all_input_nodes):
            return False
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            return False
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            return node.target is operator.getitem
        tensors = [v for v in pytree.tree_leaves(value) if isinstance(v, Tensor)]
        sides = [side for tensor in tensors for side in tensor.shape]
        if not schema.returns or any(not isinstance(side, int) for side in sides):
            return False
        return all(tensor.numel() <= _LARGEST_CONSTANT for tensor in tensors)

    def _evaluate(self, node: fx.Node, target: Target) -> None:
        def value(n: fx.Node) -> Any:
            constant = self._values[n]
            return self.constants[constant.name]

        name = node.name
        while name in self.constants:
            name += "_"
        if target in _FILLED:
            like = node.meta["val"]
            self.constants[name] = torch.full(like.shape, _FILLED[target], dtype=like.dtype, device=like.device)
        else:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
            self.constants[name] = target(*args, **kwargs)
        self._values[node] = Const(name)

    def _root_of(self, node: fx.Node, target: Target) -> fx.Node:
        """Return the node whose memory a result may lie in; itself for a new tensor."""
        tensors = [n for n in node.all_input_nodes if n in self._roots]
        if not tensors or target in _FRESH:
            return node
        if isinstance(target, torch._ops.OpOverload):
            composite = torch._C._dispatch_has_kernel_for_dispatch_key(
                target.name(),  # type: ignore[no-untyped-call]
                "CompositeImplicitAutograd",
            )
            views = any(returned.alias_info is not None for returned in target._schema.returns)
            if not composite and not views:
                return node
        first = self._roots[tensors[0]]
        for other in tensors[1:]:
            # Which of its inputs it may show is not known: they all count as one memory.
            old = self._roots[other]
            self._roots = {n: first if root is old else root for n, root in self._roots.items()}
        return first

    def _others_read_later(self, node: fx.Node, changed: fx.Node) -> bool:
        """Return whether another view of the memory that an operation changes is read behind it."""
        root, place = self._roots[changed], self._places[node]
        for other, its_root in self._roots.items():
            if its_root is root and other is not changed and any(self._places[u] > place for u in other.users):
                return True
        return False


def _is_random(node: fx.Node, target: Target) -> bool:
    return is_random(Op(node.name, target, tuple(node.args)))


def _twin(target: Any) -> Target | None:
    """Return the operator that returns what an operator in place writes, if there is one of the same arguments."""
    schema = target._schema
    written = [i for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write]
    name = schema.name.partition("::")[2]
    if written != [0] or not name.endswith("_") or name.endswith("__") or len(schema.returns) != 1:
        return None
    packet = getattr(getattr(torch.ops, target.namespace), name[:-1], None)
    found: Callable[..., Any] | None = getattr(packet, target._overloadname, None)
    return found


def _plain(side: Any) -> Any:
    """Return a side of a shape as a number, or an expression of symbols."""
    if isinstance(side, int):
        return side
    expression = side.node.expr
    return int(expression) if expression.is_Integer else expression


def _plain_lists(value: Any) -> Any:
    """Return arguments with fx's immutable lists and mappings as plain ones."""
    if isinstance(value, tuple):
        return tuple(_plain_lists(v) for v in value)
    if isinstance(value, list):
        return [_plain_lists(v) for v in value]
    if isinstance(value, dict):
        return {key: _plain_lists(v) for key, v in value.items()}
    return value


def at_size(
    ops: Sequence[Op], shapes: Mapping[str, tuple[Any, ...]], numbers: Mapping[str, Any], symbol: Any, samples: int
) -> tuple[Op, ...]:
    """Return operations with every number and shape as for one number of samples.

    Args:
        ops: Operations.
        shapes: Shapes of their results, as in :class:`Captured`.
        numbers: Results that are numbers, likewise.
        symbol: The symbol of the number of samples; None where all are numbers.
        samples: The number of samples.
    """

    def value(expression: Any) -> Any:
        if isinstance(expression, bool | int | float):
            return expression
        found = expression.subs({symbol: samples})
        return bool(found) if found.is_Boolean else int(found) if found.is_Integer else float(found)

    known = {name: value(expression) for name, expression in numbers.items()}
    found = []
    for op in ops:
        if op.name in known:
            continue
        args, kwargs = pytree.tree_map_only(Ref, lambda ref: known.get(ref.name, ref), (op.args, dict(op.kwargs)))
        shape = shapes.get(op.name)
        sides = None if shape is None else tuple(value(side) for side in shape)
        found.append(replace_op(op, args=args, kwargs=kwargs, shape=sides))
    return tuple(found)
