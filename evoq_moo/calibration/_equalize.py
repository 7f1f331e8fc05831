"""The same range in every channel that a depthwise layer reads: a quantization step of its own for each of them.

An activation has one step for all channels, so a channel of small values has few levels. Where a layer makes channels
that only a depthwise layer reads, with nothing but a ReLU, a clip or a pooling between, channel `c` can be multiplied
by any `s_c > 0` and divided by it again: in the scales of both layers' weights, which are per channel on either side.
No level changes and nothing is paid at inference; the steps of the input, in the units of each channel, become those of
its own range. This is the cross-layer equalization of Nagel et al. 2019 (section 4.1), for the sake of activations
instead of weights and only where it is free (our choice: towards other layers it makes their weights harder to
quantize, and gained little or nothing).
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evoq_moo._compute import ComputePool
from evoq_moo.calibration._moments import moments_of
from evoq_moo.graph import Geometry, LayerWeights, Op, Samples, StagedNetwork, aten, clip_of, per_channel
from evoq_moo.quantizer import ActivationHistogram, ActivationRange, LayerParameters, ResultRanges, activation_range_of
from evoq_moo.space import QUANTIZED_BITS

LARGEST_FACTOR = 64.0
"""Bound of a factor (our choice): a channel that was silent on the samples must not overflow on other images."""
CHANNELS = 1
"""Axis of channels of what a depthwise layer reads."""
_PASS = {aten.relu.default, aten.max_pool2d.default, aten.avg_pool2d.default}


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


def pairs_of(network: StagedNetwork, quantized: Container[str] = ()) -> tuple[Pair, ...]:
    """Return the pairs of layers between which channels can be scaled at no cost.

    Args:
        network: The float network.
        quantized: Names of results that have levels of their own: those of all channels, which no scaling may change.
    """
    ops = {op.name: op for op in network.sized.ops}
    uses = network.sized.uses
    found = []

    def is_free(name: str) -> bool:
        return uses[name] == 1 and name not in quantized

    for reader in ops.values():
        if reader.layer is None or network.calls[reader.layer] != 1:
            continue
        geometry = network.layers[reader.layer].geometry
        if not _depthwise(network.layers[reader.layer]):
            continue
        name, bound = reader.inputs[0], float("inf")
        while (op := ops.get(name)) is not None and is_free(name) and op.layer is None:
            high = upper_bound(op)
            if op.target not in _PASS and high is None:
                break
            bound = min(bound, bound if high is None else high)
            name = op.inputs[0]
        if op is None or op.layer is None or not is_free(name) or network.calls[op.layer] != 1:
            continue
        if _alike(network.layers[op.layer].geometry, geometry):
            found.append(Pair(op.layer, reader.layer, bound))
    return tuple(found)


def _depthwise(layer: LayerWeights) -> bool:
    g = layer.geometry
    return g.dims > 0 and not g.transposed and layer.weight.shape[1] == 1 and g.groups > 1


def _alike(maker: Geometry, reader: Geometry) -> bool:
    return not maker.transposed and maker.dims == reader.dims


def upper_bound(op: Op) -> float | None:
    """Return the upper end of a clip from zero upwards, or None if the operation is no such clip."""
    clip = clip_of(op)
    return clip.high if clip is not None and clip.low == 0 and clip.high is not None and clip.high > 0 else None


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
    network: StagedNetwork,
    batches: Sequence[Samples],
    candidates: Sequence[Sequence[LayerParameters]],
    results: ResultRanges,
    pool: ComputePool,
) -> tuple[StagedNetwork, list[tuple[LayerParameters, ...]]]:
    """Scale the channels between pairs of layers, in the float network and in quantized ones alike.

    Factors, and the new ranges of the readers' inputs (of minimum squared error), come from the float network.

    Args:
        network: The float network.
        batches: Micro-batches of the samples.
        candidates: Parameters of quantized networks of one policy.
        results: Ranges of results between layers.
        pool: Where micro-batches run.

    Returns:
        The float network and the parameters, scaled.
    """
    bits = [p.activation_bits for p in candidates[0]]
    made: dict[int, Tensor] = {}
    read: dict[int, Tensor] = {}
    ranges: dict[int, ActivationRange] = {}
    pairs = {pair.reader: pair for pair in pairs_of(network, results.passed(candidates[0]))}
    streams = [network.start(batch) for batch in batches]
    if not pairs:
        return network, [tuple(layers) for layers in candidates]
    for stage in network.stages:
        pair = pairs.get(-1 if stage.layer is None else stage.layer)
        if pair is not None:
            source = stage.ops[0].inputs[0]
            inputs = [values[source] for values in streams]
            factor = _measured_factors(inputs, pair.bound, pool)
            made[pair.maker], read[pair.reader] = factor, factor
            if bits[pair.reader] in QUANTIZED_BITS:
                ranges[pair.reader] = _range(inputs, factor, bits[pair.reader])
        pool.map(lambda values: network.run_stage(stage, values, network.float_call), streams)  # noqa: B023 - runs now
    scaled = network.with_layers(_scaled_weights(network, made, read))
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


def _scaled_weights(
    network: StagedNetwork, made: Mapping[int, Tensor], read: Mapping[int, Tensor]
) -> dict[int, LayerWeights]:
    """Return what scaled layers compute with: a reader divides by the factors on its channels, a maker multiplies."""
    changed: dict[int, LayerWeights] = {}
    for i in {*made, *read}:
        layer = network.layers[i]
        weight, bias = layer.weight, layer.bias
        if i in read:
            weight = weight / per_channel(_each(read[i], len(weight)), weight)
        if i in made:
            weight = weight * per_channel(made[i], weight)
            bias = None if bias is None else bias * made[i]
        changed[i] = replace(layer, weight=weight, bias=bias)
    return changed


def _each(factor: Tensor, channels: int) -> Tensor:
    """Return the factor of the input channel that each output channel of a depthwise layer reads."""
    return factor.repeat_interleave(channels // len(factor))


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
        p = p.scaled(1 / _each(factor, len(p.value())), p.bias)
        if i in ranges and p.quantized_activation:
            p = replace(p, activation_scale=ranges[i].scale, activation_zero_point=ranges[i].zero_point)
        changed[i] = p
    return tuple(changed)
