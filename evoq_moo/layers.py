"""Finding the quantizable layers of any network, and folding BatchNorm into them."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evoq_moo._trace import Trace, trace_forward
from evoq_moo.errors import NetworkError
from evoq_moo.space import LayerInfo

LAYER_TYPES: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""Classes of quantizable layers (and their subclasses, where those multiply by their weight itself)."""
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """The quantizable layers of a network and what was found beside them.

    Attributes:
        layers: The quantizable layers in execution order.
        first: Names of layers that no other layer feeds.
        last: Names of layers that feed no other layer.
        folded: Names of BatchNorm modules folded into the layer before them.
        notes: One sentence for everything a user should know: layers called twice, functional convolutions,
            unused layers, layers left in float.
    """

    layers: tuple[LayerInfo, ...]
    first: tuple[str, ...]
    last: tuple[str, ...]
    folded: tuple[str, ...]
    notes: tuple[str, ...]


def channel_dim(layer: nn.Module) -> int:
    """Return the dimension of a layer's weight that runs over output channels."""
    return 1 if isinstance(layer, nn.ConvTranspose2d) else 0


def channel_repeats(layer: nn.Module) -> int:
    """Return how often each channel of a layer's weight stands among its output channels.

    More than once in a transposed convolution of several groups only (:func:`weight_rows`).
    """
    return layer.groups if isinstance(layer, nn.ConvTranspose2d) else 1


def weight_of(layer: nn.Module) -> Tensor:
    """Return the weight of a layer, without gradient."""
    weight: Any = layer.weight
    return torch.as_tensor(weight.detach())


def weight_rows(weight: Tensor, layer: nn.Module) -> Tensor:
    """Return a weight as `(channels, weights of that channel)`.

    A transposed convolution's weight is `(in, out / groups, ...)`: its scales run over the second dimension, one
    for each output channel within a group (our choice; without groups that is one for each output channel).
    """
    return weight.transpose(0, channel_dim(layer)).flatten(1)


def trace_layers(network: nn.Module, sample: Tensor) -> Trace:
    """Record one forward pass with the quantizable layers marked.

    Raises:
        NetworkError: The network can't run on the sample.
    """
    try:
        return trace_forward(network, sample, LAYER_TYPES)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError) as error:
        raise NetworkError(
            f"the network can't run on samples of shape {tuple(sample.shape)}: {type(error).__name__}: {error}"
        ) from error


def fold_batch_norm(network: nn.Module, sample: Tensor) -> tuple[str, ...]:
    """Fold every BatchNorm that alone reads the result of a layer into that layer, in place.

    With `g = gamma / sqrt(variance + eps)`: weight <- g * weight, bias <- beta + (bias - mean) * g.

    Args:
        network: A network in evaluation mode; changed in place.
        sample: One sample for the recorded pass.

    Returns:
        Names of the folded BatchNorm modules, each replaced by `nn.Identity`.

    Raises:
        NetworkError: The network can't run on the sample.
    """
    trace = trace_layers(network, sample)
    modules = dict(network.named_modules())
    produced_by = {
        ids[0]: name
        for name, ids in trace.outputs_of.items()
        if isinstance(modules[name], LAYER_TYPES) and len(ids) == 1
    }
    folded = []
    for name in trace.order:
        norm = modules[name]
        if not isinstance(norm, NORMS) or trace.call_counts[name] != 1 or norm.running_mean is None:
            continue
        tensor = trace.inputs_of[name][0]
        layer_name = produced_by.get(tensor)
        if layer_name is None or trace.consumers[tensor] != [name] or tensor in trace.network_outputs:
            continue
        layer = modules[layer_name]
        if isinstance(layer, nn.ConvTranspose2d) and layer.groups > 1:
            continue
        if isinstance(layer, nn.Linear) and trace.output_dims[layer_name] != 2:
            continue  # BatchNorm1d on (samples, features, positions) normalizes positions of a Linear's result
        if trace.outputs_of[name][0] == tensor or not _uses_own_weight(trace, layer_name):
            continue
        _fold_into(layer, norm)
        parent, _, attribute = name.rpartition(".")
        setattr(modules[parent], attribute, nn.Identity())
        folded.append(name)
    return tuple(folded)


def _fold_into(layer: nn.Module, norm: nn.Module) -> None:
    mean, variance = _double(norm.running_mean), _double(norm.running_var)
    gain = torch.rsqrt(variance + float(norm.eps))  # type: ignore[arg-type]
    if norm.weight is not None:
        gain = gain * _double(norm.weight)
    shift = torch.zeros_like(mean) if norm.bias is None else _double(norm.bias)
    bias = torch.zeros_like(mean) if layer.bias is None else _double(layer.bias)
    weight = _double(layer.weight)
    shape = [1] * weight.dim()
    shape[channel_dim(layer)] = -1
    layer.weight = nn.Parameter((weight * gain.reshape(shape)).float(), requires_grad=False)
    layer.bias = nn.Parameter((shift + (bias - mean) * gain).float(), requires_grad=False)


def _double(value: Any) -> Tensor:
    tensor: Tensor = value
    return tensor.detach().double()


def _uses_own_weight(trace: Trace, name: str) -> bool:
    calls = [call for call in trace.products if call.module == name]
    return bool(calls) and all(call.uses_weight for call in calls)


def discover(network: nn.Module, sample: Tensor, folded: tuple[str, ...] = ()) -> Discovery:
    """Find the quantizable layers of a network by running it once.

    Args:
        network: A network in evaluation mode, BatchNorm already folded.
        sample: One sample `(1, ...)`.
        folded: Names of folded BatchNorm modules, kept for the record.

    Returns:
        The layers and notes.

    Raises:
        NetworkError: The network can't run on the sample, or has no quantizable layer.
    """
    trace = trace_layers(network, sample)
    modules = dict(network.named_modules())
    macs: Counter[str] = Counter()
    elsewhere: Counter[tuple[str, str]] = Counter()
    for call in trace.products:
        if call.uses_weight:
            macs[call.module] += call.macs // len(sample)
        elif isinstance(modules.get(call.module), LAYER_TYPES):
            pass  # said below, of the layer
        else:
            elsewhere[call.module, call.operator] += 1

    layers: list[LayerInfo] = []
    notes: list[str] = []
    for name in trace.order:
        module = modules[name]
        if not isinstance(module, LAYER_TYPES):
            continue
        if not _uses_own_weight(trace, name):
            notes.append(f"{name} ({type(module).__name__}) transforms its weight before use: left in float")
            continue
        if trace.call_counts[name] > 1:
            notes.append(
                f"{name} ({type(module).__name__}) is called {trace.call_counts[name]} times: "
                "one pair of bit-widths and one range serve all calls"
            )
        weight: Tensor = module.weight  # type: ignore[assignment]
        bias = getattr(module, "bias", None)
        layers.append(
            LayerInfo(
                name=name,
                kind=type(module).__name__,
                params=weight.numel(),
                macs=macs[name],
                bias_params=0 if bias is None else bias.numel(),
                output_channels=weight.shape[channel_dim(module)],
            )
        )
    notes += _notes_elsewhere(elsewhere) + _notes_left_out(modules, trace)
    if not layers:
        kinds = ", ".join(cls.__name__ for cls in LAYER_TYPES)
        raise NetworkError(f"the network has no quantizable layer; allowed: modules of {kinds} that run in forward")
    notes += _shared_weights(modules, [layer.name for layer in layers])

    names = [layer.name for layer in layers]
    feeders = set().union(*(trace.predecessors[name] for name in names))
    return Discovery(
        layers=tuple(layers),
        first=tuple(name for name in names if not trace.predecessors[name] & set(names)),
        last=tuple(name for name in names if name not in feeders),
        folded=folded,
        notes=tuple(notes),
    )


def _notes_elsewhere(elsewhere: Counter[tuple[str, str]]) -> list[str]:
    notes = []
    for (name, operator), count in elsewhere.items():
        what = operator.removeprefix("aten.").split(".")[0]
        times = f"{count} time{'s' if count > 1 else ''}"
        notes.append(f"{name or 'the network'} calls {what} {times} outside a layer module: left in float")
    return notes


def _notes_left_out(modules: dict[str, nn.Module], trace: Trace) -> list[str]:
    notes = []
    for name, module in modules.items():
        kind = type(module).__name__
        if isinstance(module, LAYER_TYPES) and not trace.call_counts.get(name):
            notes.append(f"{name} ({kind}) did not run: left as it is, no gene, not in the costs")
        elif isinstance(module, NORMS) and trace.call_counts.get(name):
            notes.append(f"{name} ({kind}) has no layer of its own before it: stays in float")
    return notes


def _shared_weights(modules: dict[str, nn.Module], names: list[str]) -> list[str]:
    owners: dict[int, str] = {}
    notes = []
    for name in names:
        key = id(modules[name].weight)
        if key in owners:
            notes.append(f"{name} shares its weight with {owners[key]}: each is quantized, and counted, by itself")
        owners.setdefault(key, name)
    return notes
