"""From a given network to one that can be quantized: captured once, lowered, its layers described."""

import math
from collections import Counter

from torch import Tensor, nn

from evoq_moo.errors import NetworkError
from evoq_moo.graph.capture import CaptureError, capture
from evoq_moo.graph.finding import FLOAT_PRODUCTS
from evoq_moo.graph.inputs import Samples, count, filled, rows
from evoq_moo.graph.modules import find_modules
from evoq_moo.graph.network import GraphNetwork, NetworkGraph, SizedGraph, graph_network
from evoq_moo.graph.ops import Op, aten, is_random
from evoq_moo.graph.passes import lower
from evoq_moo.graph.prepared import Prepared
from evoq_moo.graph.products import Product, macs_of
from evoq_moo.space import LayerInfo

_RECURRENT = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)


def prepare(network: nn.Module, samples: Samples, *, micro_batch: int = 2, dynamic: bool = True) -> Prepared:
    """Capture a network, or where that can't be, find its modules.

    Args:
        network: A copy of the given network, in float32 and evaluation mode; the result may share its tensors.
        samples: The samples.
        micro_batch: Samples to capture for where any number of samples can't be.
        dynamic: Capture for any number of samples, which takes twice the time; else for `micro_batch`.

    Raises:
        NetworkError: It has no quantizable layer.
    """
    try:
        captured, reason = _graph_of(network, samples, micro_batch, dynamic=dynamic)
    except CaptureError as error:
        return find_modules(network, samples, str(error))
    return describe(captured, network, reason)


def capture_network(network: nn.Module, samples: Samples) -> GraphNetwork:
    """Return a network captured for any number of samples, as a module.

    Args:
        network: The network in evaluation mode; the result may share its tensors.
        samples: At least one.

    Raises:
        NetworkError: It can't be captured.
    """
    try:
        return _graph_of(network, samples, max(2, count(samples)))[0]
    except CaptureError as error:
        raise NetworkError(f"network: can't be captured as a graph: {error}") from error


def _graph_of(
    network: nn.Module, samples: Samples, micro_batch: int, *, dynamic: bool = True
) -> tuple[GraphNetwork, str]:
    some = filled(rows(samples, slice(0, micro_batch)), micro_batch)
    if not dynamic:
        return graph_network(lower(capture(network, some, dynamic=False)), network), ""
    pair = filled(rows(samples, slice(0, 2)), 2)
    try:
        return graph_network(lower(capture(network, pair)), network), ""
    except CaptureError as error:
        try:
            captured = capture(network, some, dynamic=False)
        except CaptureError:
            raise error from None
        reason = f"captured for {micro_batch} samples at a time, not for any number: {error}"
        return graph_network(lower(captured), network), reason


def describe(captured: GraphNetwork, given: nn.Module, reason: str) -> Prepared:
    """Describe the layers of a captured network.

    Raises:
        NetworkError: It has no quantizable layer.
    """
    graph = captured.graph
    sized = graph.at(graph.samples)
    if not graph.layers:
        floats = "; ".join(_float_notes(sized)) or "it multiplies nothing by a constant weight"
        raise NetworkError(f"the network has no quantizable layer: {floats}")
    names, predecessors = graph.layers, graph.predecessors
    feeders = frozenset[int]().union(*predecessors)
    macs = _layer_macs(captured, sized)
    layers = tuple(
        LayerInfo(
            name=name,
            kind=geometry.kind,
            params=module.weight.numel(),
            macs=macs[i],
            bias_params=0 if module.bias is None else module.bias.numel(),
            output_channels=len(module.weight),
        )
        for i, (name, geometry, module) in enumerate(zip(names, graph.geometries, _products(captured), strict=True))
    )
    return Prepared(
        network=captured,
        graph=graph,
        layers=layers,
        first=tuple(name for name, before in zip(names, predecessors, strict=True) if not before),
        last=tuple(name for i, name in enumerate(names) if i not in feeders),
        notes=tuple(_notes(graph, sized)),
        reason=reason,
        float_macs=_float_macs(captured, sized),
        parameters=sum(p.numel() for p in given.parameters()),
    )


def _products(captured: GraphNetwork) -> list[Product]:
    return [module for module in captured.products if isinstance(module, Product)]


def _shapes(sized: SizedGraph, graph: NetworkGraph) -> dict[str, tuple[int, ...] | None]:
    shapes = {op.name: op.shape for op in sized.ops}
    for name in graph.inputs:
        sides = graph.shapes[name]
        shapes[name] = tuple(s if isinstance(s, int) else int(s.subs({graph.symbol: sized.samples})) for s in sides)
    return shapes


def _layer_macs(captured: GraphNetwork, sized: SizedGraph) -> list[int]:
    """Return the multiply-accumulates of each layer for one sample, all its calls together."""
    shapes = _shapes(sized, captured.graph)
    products = _products(captured)
    total = [0] * len(products)
    for op in sized.ops:
        read = shapes[op.inputs[0]] if op.layer is not None else None
        if op.layer is not None and read is not None and op.shape is not None:
            found = macs_of(products[op.layer].weight, products[op.layer].geometry, read, op.shape)
            total[op.layer] += found
    return [macs // sized.samples for macs in total]


def _what(op: Op) -> str:
    return f"{FLOAT_PRODUCTS[op.target]} in {op.source or 'the network'}"


def _float_macs(captured: GraphNetwork, sized: SizedGraph) -> dict[str, int]:
    """Return the multiply-accumulates for one sample of products that stay in float."""
    shapes = _shapes(sized, captured.graph)
    constants = captured.constants
    found: Counter[str] = Counter()
    for op in sized.ops:
        if op.layer is None and op.target in FLOAT_PRODUCTS:
            sides = [shapes.get(name) for name in op.inputs]
            weights = [constants[name] for name in op.constants]
            found[_what(op)] += _macs_of_op(op, [s for s in sides if s is not None], weights) // sized.samples
    return dict(found)


def _macs_of_op(op: Op, inputs: list[tuple[int, ...]], weights: list[Tensor]) -> int:
    elements = [math.prod(shape) for shape in inputs]
    if op.target in _RECURRENT:
        steps = elements[0] // inputs[0][-1]
        return steps * sum(w.numel() for w in weights if w.dim() == 2)
    if op.target is aten.scaled_dot_product_attention.default:
        query, key = inputs[0], inputs[min(1, len(inputs) - 1)]
        return 2 * math.prod(query) * key[-2]
    if op.shape is None or not inputs:
        return 0
    if op.target in (aten.mm.default, aten.matmul.default, aten.bmm.default, aten.linear.default):
        return math.prod(op.shape) * inputs[0][-1]
    if op.target in (aten.addmm.default, aten.baddbmm.default):
        return math.prod(op.shape) * inputs[-1][-2] if len(inputs[-1]) > 1 else 0
    others = [w.numel() for w in weights] + elements
    return math.prod(op.shape) * max(1, min(others) // max(1, op.shape[1 if len(op.shape) > 1 else 0]))


def _notes(graph: NetworkGraph, sized: SizedGraph) -> list[str]:
    notes = [
        f"{name} ({geometry.kind}) is called {calls} times: one pair of bit-widths and one range serve all calls"
        for name, geometry, calls in zip(graph.layers, graph.geometries, graph.calls, strict=True)
        if calls > 1
    ]
    owners: dict[str, str] = {}
    for name, parameter in zip(graph.layers, graph.parameters, strict=True):
        if parameter is not None and parameter in owners:
            notes.append(
                f"{name} shares its weight with {owners[parameter]} but computes otherwise: each is quantized, and "
                "counted, by itself"
            )
        elif parameter is not None:
            owners[parameter] = name
    notes += _float_notes(sized)
    if graph.unfolded:
        notes.append(f"{_listed(graph.unfolded)}: BatchNorm with no layer of its own before it, stays in float")
    drawn = sorted({op.source or "the network" for op in sized.ops if is_random(op)})
    if drawn:
        notes.append(f"{_listed(drawn)} draws random numbers, which reach no output")
    if graph.mutated:
        notes.append(f"forward changes {_listed(graph.mutated)} in place; here nothing is changed")
    return notes


def _float_notes(sized: SizedGraph) -> list[str]:
    """Return a sentence for each kind of product that stays in float."""
    places: dict[str, list[str]] = {}
    for op in sized.ops:
        if op.layer is None and op.target in FLOAT_PRODUCTS:
            places.setdefault(FLOAT_PRODUCTS[op.target], []).append(op.source or "the network")
    return [
        f"{what} in {_listed(list(dict.fromkeys(found)))} stays in float: "
        + ("its weights are not quantized" if what.split()[-1] in ("LSTM", "GRU", "RNN") else "no constant weight")
        for what, found in places.items()
    ]


def _listed(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
