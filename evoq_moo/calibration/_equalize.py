"""The same range in every channel that a depthwise layer reads: a quantization step of its own for each of them.

An activation has one step for all channels, so a channel of small values has few levels. Where a layer makes channels
that only a depthwise layer reads, with nothing but a ReLU, a clip or a pooling between, channel `c` can be multiplied
by any `s_c > 0` and divided by it again: in the scales of both layers' weights, which are per channel on either side.
No level changes and nothing is paid at inference; the steps of the input, in the units of each channel, become those of
its own range. This is the cross-layer equalization of Nagel et al. 2019 (section 4.1), for the sake of activations
instead of weights and only where it is free (our choice: towards other layers it makes their weights harder to
quantize, and gained little or nothing).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evoq_moo._compute import ComputePool
from evoq_moo.calibration._graph import CapturedNetwork, float_call, run_stage
from evoq_moo.calibration._moments import moments_of
from evoq_moo.calibration._parameters import LayerParameters
from evoq_moo.engines._capture import Op
from evoq_moo.ranges import ActivationHistogram, ActivationRange, activation_range_of
from evoq_moo.space import QUANTIZED_BITS

LARGEST_FACTOR = 64.0
"""Bound of a factor (our choice): a channel that was silent on the samples must not overflow on other images."""
CHANNELS = 1
"""Axis of channels of what a depthwise layer reads."""
_aten = torch.ops.aten
_PASS = {
    _aten.relu.default,
    _aten.max_pool2d.default,
    _aten.avg_pool2d.default,
    _aten.clone.default,
    _aten.contiguous.default,
    _aten.alias.default,
    _aten.detach.default,
}


@dataclass(frozen=True)
class Pair:
    """A depthwise layer and what alone feeds it.

    Attributes:
        maker: Index of the layer that makes its channels.
        reader: Index of the depthwise layer.
        bound: Upper end of the clip between them; infinite where there is none.
    """

    maker: int
    reader: int
    bound: float


def pairs_of(network: CapturedNetwork, batch_size: int) -> tuple[Pair, ...]:
    """Return the pairs of layers between which channels can be scaled at no cost."""
    ops = {op.name: op for stage in network.stages(batch_size) for op in stage.ops}
    found = []
    for reader in ops.values():
        if reader.layer is None or network.calls[reader.layer] != 1 or not _depthwise(reader):
            continue
        name, bound = reader.inputs[0], float("inf")
        while (op := ops.get(name)) is not None and network.uses(batch_size)[name] == 1 and op.layer is None:
            if op.target not in _PASS and upper_bound(op) is None:
                break
            bound = min(bound, upper_bound(op) or bound)
            name = op.inputs[0]
        if op is None or op.layer is None or network.uses(batch_size)[name] != 1 or network.calls[op.layer] != 1:
            continue
        if "transpose" not in str(op.target) and op.args[1].dim() == reader.args[1].dim():
            found.append(Pair(op.layer, reader.layer, bound))
    return tuple(found)


def _depthwise(op: Op) -> bool:
    weight: Tensor = op.args[1]
    groups = op.args[6] if len(op.args) > 6 else 1
    return weight.dim() > 2 and weight.shape[1] == 1 and groups > 1 and "transpose" not in str(op.target)


def upper_bound(op: Op) -> float | None:
    """Return the upper end of a clip from zero upwards, or None if the operation is no such clip."""
    if op.target is _aten.relu6.default:
        return 6.0
    if op.target in (_aten.hardtanh.default, _aten.clamp.default) and len(op.args) == 3 and op.args[1] == 0:
        high = op.args[2]
        return float(high) if isinstance(high, int | float) and high > 0 else None
    return None


def factors_of(sizes: Tensor, highest: Tensor, bound: float) -> Tensor:
    """Return the factor of each channel, float32, 1 at least.

    Args:
        sizes: How wide each channel's range is, float64 `(channels,)`.
        highest: Largest value of each channel.
        bound: Upper end of the clip before the reader: a channel that reaches it has factor 1, and none is made to
            reach it sooner than on the samples.
    """
    wanted = (sizes.max() / sizes.clamp_min(1e-30)).clamp(1, LARGEST_FACTOR)
    room = (bound / highest.clamp_min(1e-30)).clamp_min(1)
    return torch.where(sizes > 0, torch.minimum(wanted, room), 1.0).float()


def equalize(
    network: CapturedNetwork,
    batches: Sequence[Tensor],
    candidates: Sequence[Sequence[LayerParameters]],
    pool: ComputePool,
) -> tuple[CapturedNetwork, list[tuple[LayerParameters, ...]]]:
    """Scale the channels between pairs of layers, in the float network and in quantized ones alike.

    Factors, and the new ranges of the readers' inputs (of minimum squared error), come from the float network.

    Args:
        network: The float network.
        batches: Micro-batches of the samples, of prepared sizes.
        candidates: Parameters of quantized networks of one policy.
        pool: Where micro-batches run.

    Returns:
        The float network and the parameters, scaled.
    """
    bits = [p.activation_bits for p in candidates[0]]
    made: dict[int, Tensor] = {}
    read: dict[int, Tensor] = {}
    ranges: dict[int, ActivationRange] = {}
    pairs = {pair.reader: pair for pair in pairs_of(network, len(batches[0]))}
    streams = [network.start(batch) for batch in batches]
    stages = list(zip(*(network.stages(len(batch)) for batch in batches), strict=True))
    if not pairs:
        return network, [tuple(layers) for layers in candidates]
    for stage in stages:
        pair = pairs.get(-1 if stage[0].layer is None else stage[0].layer)
        if pair is not None:
            source = stage[0].ops[0].inputs[0]
            inputs = [values[source] for values in streams]
            factor = _measured_factors(inputs, pair.bound, pool)
            made[pair.maker], read[pair.reader] = factor, factor
            if bits[pair.reader] in QUANTIZED_BITS:
                ranges[pair.reader] = _range(inputs, factor, bits[pair.reader])
        pool.map(lambda i: run_stage(stage[i], streams[i], float_call), range(len(streams)))  # noqa: B023 - runs now
    scaled = network.scaled(made, read)
    return scaled, [_scaled(layers, made, read, ranges) for layers in candidates]


def _measured_factors(inputs: Sequence[Tensor], bound: float, pool: ComputePool) -> Tensor:
    def one(x: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
        found = moments_of(x, CHANNELS)
        places = [d for d in range(x.dim()) if d != CHANNELS]
        return x.amax(places), x.abs().amax(places), (found.power + found.count * found.mean.square()), found.count

    highest, largest, power, count = zip(*pool.map(one, inputs), strict=True)
    spread = (torch.stack(power).sum(0) / sum(count)).sqrt()
    # Between a range without clipping and one that clips much (our choice).
    sizes = (torch.stack(largest).amax(0).double() * spread).sqrt()
    return factors_of(sizes, torch.stack(highest).amax(0).double(), bound)


def _range(inputs: Sequence[Tensor], factor: Tensor, bits: int) -> ActivationRange:
    histogram = ActivationHistogram()
    shape = [1] * inputs[0].dim()
    shape[CHANNELS] = -1
    for x in inputs:
        histogram.observe_extremes(x * factor.reshape(shape))
    for x in inputs:
        histogram.observe_counts(x * factor.reshape(shape))
    return activation_range_of(histogram, bits)


def _scaled(
    layers: Sequence[LayerParameters],
    made: Mapping[int, Tensor],
    read: Mapping[int, Tensor],
    ranges: Mapping[int, ActivationRange],
) -> tuple[LayerParameters, ...]:
    changed = list(layers)
    for i, factor in made.items():
        p = changed[i]
        changed[i] = p.scaled(factor, None if p.bias is None else p.bias * factor)
    for i, factor in read.items():
        p = changed[i]
        each = factor.repeat_interleave(p.value().shape[0] // len(factor))
        p = p.scaled(1 / each, p.bias)
        if i in ranges and p.quantized_activation:
            p = replace(p, activation_scale=ranges[i].scale, activation_zero_point=ranges[i].zero_point)
        changed[i] = p
    return tuple(changed)
