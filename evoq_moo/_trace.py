"""One recorded forward pass: which modules ran, which tensors flowed where, what each convolution multiplied.

The record is of operations as torch executes them, so it sees functional calls and shared modules in any network
that torch can run, with no symbolic tracing.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
_PRODUCTS = {_aten.convolution.default, _aten.addmm.default, _aten.mm.default, _aten.bmm.default, _aten.linear.default}
_VIEWS = {_aten.t.default, _aten.transpose.int, _aten.permute.default, _aten.detach.default, _aten.alias.default}


@dataclass
class Call:
    """One matrix product or convolution: where it ran and what it used.

    Attributes:
        module: Name of the innermost module that ran it.
        operator: Name of the torch operator.
        macs: Multiply-accumulates for the whole recorded batch.
        uses_weight: Whether it multiplied that module's own `weight`, untransformed.
    """

    module: str
    operator: str
    macs: int
    uses_weight: bool


@dataclass
class Trace:
    """What one forward pass showed.

    Attributes:
        order: Names of modules in the order they first ran.
        call_counts: How often each module ran.
        products: Every matrix product and convolution.
        consumers: For the id of a tensor, the names of modules whose operators read it, one entry a read.
        outputs_of: For a module's name, ids of the tensors it returned, one a call.
        output_dims: For a module's name, the number of dimensions of the last tensor it returned.
        inputs_of: For a module's name, ids of the first tensor it was given, one a call.
        predecessors: For a layer's name, the layers whose results reach its input through anything but layers.
        network_outputs: Ids of the tensors the network returned.
    """

    order: list[str] = field(default_factory=list)
    call_counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    products: list[Call] = field(default_factory=list)
    consumers: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    outputs_of: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    output_dims: dict[str, int] = field(default_factory=dict)
    inputs_of: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    predecessors: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    network_outputs: set[int] = field(default_factory=set)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fills a trace; keeps every tensor alive meanwhile, so that ids stay unique."""

    def __init__(self, trace: Trace, stack: list[str], layers: dict[str, nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace
        self.stack = stack
        self.layers = layers
        self.kept: list[Tensor] = []
        self.weight_of: dict[int, int] = {}  # id of a view -> id of the parameter it shows
        self.reached_by: dict[int, frozenset[str]] = defaultdict(frozenset)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        self.kept += inputs + outputs
        module = self.stack[-1] if self.stack else ""
        for tensor in inputs:
            self.trace.consumers[id(tensor)].append(module)
        if func in _VIEWS and inputs:
            self.weight_of[id(outputs[0])] = self.weight_of.get(id(inputs[0]), id(inputs[0]))
        if func in _PRODUCTS:
            transposed = func is _aten.convolution.default and bool(args[6])
            self._record_product(func, inputs, outputs[0], module, transposed)
        layer = next((name for name in reversed(self.stack) if name in self.layers), None)
        sources = frozenset().union(*(self.reached_by[id(t)] for t in inputs))
        if layer is not None:
            self.trace.predecessors[layer] |= sources - {layer}
            sources = frozenset({layer})
        for tensor in outputs:
            self.reached_by[id(tensor)] = sources
        return out

    def _record_product(self, func: Any, inputs: list[Tensor], output: Tensor, module: str, transposed: bool) -> None:
        factor, weight = inputs[1:3] if func is _aten.addmm.default else inputs[:2]
        if func is _aten.convolution.default:
            # An output element sums over weight[0] (inputs of its group x kernel); transposed, an input element
            # is spread over weight[0] (outputs of its group x kernel).
            macs = (factor if transposed else output).numel() * weight[0].numel()
        else:
            macs = output.numel() * factor.shape[-1]
        own = getattr(self.layers.get(module), "weight", None)
        uses = own is not None and self.weight_of.get(id(weight), id(weight)) == id(own)
        self.trace.products.append(Call(module, str(func), macs, uses))


@contextmanager
def _call_stack(network: nn.Module, trace: Trace, stack: list[str]) -> Iterator[None]:
    handles = []
    for name, module in network.named_modules(remove_duplicate=True):

        def enter(_module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            stack.append(name)
            if not trace.call_counts[name]:
                trace.order.append(name)
            trace.call_counts[name] += 1
            tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            trace.inputs_of[name].append(id(tensors[0]) if tensors else 0)

        def leave(_module: nn.Module, _args: Any, output: Any, name: str = name) -> None:
            stack.pop()
            trace.outputs_of[name].append(id(output) if isinstance(output, Tensor) else 0)
            trace.output_dims[name] = output.dim() if isinstance(output, Tensor) else 0

        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True, prepend=True))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def trace_forward(network: nn.Module, sample: Tensor, layer_types: tuple[type[nn.Module], ...]) -> Trace:
    """Run the network once and record what it did.

    Args:
        network: A network in evaluation mode; it is left unchanged.
        sample: Float32 input batch; one sample is enough.
        layer_types: Module classes that count as layers.

    Returns:
        The record.
    """
    trace = Trace()
    stack: list[str] = []
    layers = {name: module for name, module in network.named_modules() if isinstance(module, layer_types)}
    with torch.no_grad(), _call_stack(network, trace, stack):
        recorder = _Recorder(trace, stack, layers)
        with recorder:
            output = network(sample)
        trace.network_outputs = {id(t) for t in tree_leaves(output) if isinstance(t, Tensor)}
    return trace
