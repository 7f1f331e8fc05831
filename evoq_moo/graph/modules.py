"""The layers of a network that can't be captured: modules of torch's own classes that multiply by their weight."""

from collections import Counter

from torch import Tensor, nn

from evoq_moo.errors import NetworkError
from evoq_moo.graph.inputs import Samples, count
from evoq_moo.graph.prepared import Prepared
from evoq_moo.graph.products import Product, transposed_layout
from evoq_moo.graph.trace import Trace, trace_forward
from evoq_moo.space import LayerInfo

LAYER_TYPES: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
"""Classes of layers (and their subclasses, where those multiply by their weight itself)."""
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def weight_of(layer: nn.Module) -> Tensor:
    """Return the weight of a layer, `(out, in / groups, kernel...)`, without gradient."""
    weight: Tensor = layer.weight.detach()  # type: ignore[operator]
    return transposed_layout(weight, layer.groups) if isinstance(layer, _TRANSPOSED) else weight


def set_weight(layer: nn.Module, weight: Tensor) -> None:
    """Give a layer another weight, `(out, in / groups, kernel...)`."""
    own = transposed_layout(weight, layer.groups) if isinstance(layer, _TRANSPOSED) else weight
    layer.weight = nn.Parameter(own, requires_grad=False)


def kind_of(layer: nn.Module) -> str:
    """Return the name of torch's layer that computes what a layer does, e.g. ``"Conv2d"``."""
    return layer.geometry.kind if isinstance(layer, Product) else type(layer).__name__


def bias_of(layer: nn.Module) -> Tensor | None:
    """Return the bias of a layer, `(out,)`, without gradient; None where it has none."""
    bias = getattr(layer, "bias", None)
    return bias.detach() if isinstance(bias, Tensor) else None


def find_modules(network: nn.Module, samples: Samples, reason: str) -> Prepared:
    """Return a network ready to be quantized module by module.

    Args:
        network: The network in evaluation mode.
        samples: All samples: a network that is not captured may take another way for each.
        reason: Why it was not captured.

    Raises:
        NetworkError: It has no layer.
    """
    trace = trace_forward(network, samples, LAYER_TYPES)
    modules = dict(network.named_modules())
    number = count(samples)
    macs: Counter[str] = Counter()
    rest: Counter[str] = Counter()
    for call in trace.products:
        if call.uses_weight:
            macs[call.module] += call.macs
        else:
            rest[f"{call.module or 'the network'} ({call.operator.removeprefix('aten.').split('.')[0]})"] += call.macs
    layers: list[LayerInfo] = []
    notes: list[str] = []
    for name in trace.order:
        module = modules[name]
        if not isinstance(module, LAYER_TYPES):
            continue
        if not _uses_own_weight(trace, name):
            notes.append(f"{name} ({type(module).__name__}) changes its weight before it multiplies: left in float")
            continue
        weight, bias = weight_of(module), bias_of(module)
        info = LayerInfo(
            name=name,
            kind=kind_of(module),
            params=weight.numel(),
            macs=round(macs[name] / number),
            bias_params=0 if bias is None else bias.numel(),
            output_channels=len(weight),
        )
        layers.append(info)
        if trace.call_counts[name] > number:
            notes.append(f"{name} is called more than once: one pair of bit-widths and one range serve all calls")
    for name, module in modules.items():
        if isinstance(module, LAYER_TYPES) and not trace.call_counts.get(name):
            notes.append(f"{name} ({type(module).__name__}) did not run on any sample: left as it is, not in the costs")
    if not layers:
        raise NetworkError(
            f"the network has no quantizable layer that can be found: it can't be captured as a graph ({reason}), and "
            "no module of a convolution or Linear ran"
        )
    names = {layer.name for layer in layers}
    feeders = set[str]().union(*(trace.predecessors[name] for name in names))
    return Prepared(
        network=network,
        graph=None,
        layers=tuple(layers),
        first=tuple(layer.name for layer in layers if not trace.predecessors[layer.name] & names),
        last=tuple(layer.name for layer in layers if layer.name not in feeders),
        notes=tuple(notes),
        reason=reason,
        float_macs={name: round(value / number) for name, value in rest.items()},
        parameters=sum(p.numel() for p in network.parameters()),
    )


def _uses_own_weight(trace: Trace, name: str) -> bool:
    calls = [call for call in trace.products if call.module == name]
    return bool(calls) and all(call.uses_weight for call in calls)


def weight_bytes(network: nn.Module, layers: tuple[str, ...]) -> int:
    """Return the bytes of parameters and buffers that stay float: those of no layer.

    Args:
        network: The network.
        layers: Names of its layers.
    """
    inside = {f"{name}.{kind}" for name in layers for kind in ("weight", "bias")}
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return sum(t.numel() * t.element_size() for name, t in tensors.items() if name not in inside)
