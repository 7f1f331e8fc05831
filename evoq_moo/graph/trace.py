"""Recorded forward passes of a network that can't be captured: which modules ran, and what each of them multiplied.

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

from evoq_moo.graph.inputs import Samples, count, map_samples, run

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
        predecessors: For a layer's name, the layers whose results reach its input through anything but layers.
    """

    order: list[str] = field(default_factory=list)
    call_counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    products: list[Call] = field(default_factory=list)
    predecessors: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


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

        def enter(_module: nn.Module, _args: Any, name: str = name) -> None:
            stack.append(name)
            if not trace.call_counts[name]:
                trace.order.append(name)
            trace.call_counts[name] += 1

        def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
            stack.pop()

        handles.append(module.register_forward_pre_hook(enter, prepend=True))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def trace_forward(network: nn.Module, samples: Samples, layer_types: tuple[type[nn.Module], ...]) -> Trace:
    """Run the network on samples, one by one, and record what it did.

    A network whose way depends on the sample shows all of its ways only so.

    Args:
        network: A network in evaluation mode; it is left unchanged.
        samples: The samples.
        layer_types: Module classes that count as layers.

    Returns:
        The record of all passes together.
    """
    trace = Trace()
    stack: list[str] = []
    layers = {name: module for name, module in network.named_modules() if isinstance(module, layer_types)}
    with torch.no_grad(), _call_stack(network, trace, stack):
        for i in range(count(samples)):
            with _Recorder(trace, stack, layers):
                run(network, map_samples(lambda tensor, i=i: tensor[i : i + 1].clone(), samples))
    return trace
