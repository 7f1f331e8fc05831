"""One pass over a network, layer by layer, that fits each layer to what the quantized network feeds it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from evoq_moo._compute import ComputePool
from evoq_moo.calibration._moments import ChannelMoments, moments_of
from evoq_moo.graph import (
    NO_CLIP,
    Clip,
    LayerCall,
    LayerWeights,
    Op,
    Passed,
    Samples,
    Stage,
    StagedNetwork,
    Values,
    product,
)
from evoq_moo.quantizer import LayerParameters, ResultRanges

T = TypeVar("T")
Parameters = tuple[LayerParameters, ...]


@dataclass(frozen=True)
class Candidate:
    """One quantized network in calibration, and the micro-batches it may learn from.

    Attributes:
        parameters: Of every layer, in policy order.
        seen: For each micro-batch, whether it may be fitted to; the others are held out.
    """

    parameters: Parameters
    seen: tuple[bool, ...]


@dataclass
class LayerView:
    """What a fit sees of one layer of one candidate.

    Attributes:
        layer: What the layer computes with in the float network.
        parameters: The layer before the fit.
        inputs: For each micro-batch, the input in the quantized network, before its quantization.
        targets: For each micro-batch, the output in the float network.
        target_moments: Returns the moments of its channels, of each micro-batch; computed once for all candidates.
        seen: For each micro-batch, whether it may be fitted to.
        pool: Where work on micro-batches runs.
        clip: Bounds of a clip that alone reads the output.
        outputs: A fit may leave the fitted layer's outputs here, one for each micro-batch, so that they are not
            computed again.
    """

    layer: LayerWeights
    parameters: LayerParameters
    inputs: list[Tensor]
    targets: list[Tensor]
    target_moments: Callable[[], list[ChannelMoments]]
    seen: tuple[bool, ...]
    pool: ComputePool
    clip: Clip = NO_CLIP
    outputs: list[Tensor] | None = None

    def compute(self, parameters: LayerParameters) -> list[Tensor]:
        """Return the layer's outputs with other parameters on every micro-batch."""
        weight, geometry = parameters.value(), self.layer.geometry
        return self.pool.map(
            lambda x: product(parameters.quantize_input(x), weight, parameters.bias, geometry), self.inputs
        )

    def fitted(self, values: Sequence[T]) -> list[T]:
        """Return those of one value for each micro-batch that may be fitted to."""
        return [value for value, seen in zip(values, self.seen, strict=True) if seen]


Fit = Callable[[LayerView], LayerParameters]


def quantized_call(network: StagedNetwork, parameters: Sequence[LayerParameters]) -> LayerCall:
    """Return what computes each layer's call with its parameters."""
    weights = [p.value() for p in parameters]

    def call(op: Op, x: Tensor) -> Tensor:
        i = op.layer or 0
        p = parameters[i]
        return product(p.quantize_input(x), weights[i], p.bias, network.layers[i].geometry)

    return call


def heads_of_candidate(
    network: StagedNetwork,
    batches: Sequence[Samples],
    parameters: Parameters,
    results: ResultRanges,
    pool: ComputePool,
) -> list[Tensor]:
    """Return the heads of a quantized network, float32 `(samples, ...)` each."""
    call, passed = quantized_call(network, parameters), results.passed(parameters)
    parts = pool.map(lambda batch: network.run(batch, call, passed), batches)
    return [torch.cat(head) for head in zip(*parts, strict=True)]


def walk(
    network: StagedNetwork,
    batches: Sequence[Samples],
    candidates: Sequence[Candidate],
    results: ResultRanges,
    fit: Fit,
    pool: ComputePool,
    *,
    on_layer: Callable[[], None] | None = None,
) -> tuple[list[Parameters], list[list[Tensor]]]:
    """Fit every layer in execution order, each on what the candidate's fitted layers before it give.

    A layer that is called more than once is left as it is: no one correction fits all its calls.

    Args:
        network: The float network.
        batches: Micro-batches of the samples, of prepared sizes.
        candidates: Quantized networks, fitted side by side; the float network runs once for all.
        results: Ranges of results between layers.
        fit: Returns a layer's new parameters.
        pool: Where micro-batches run.
        on_layer: Called after each layer.

    Returns:
        For each candidate its new parameters, and its heads on all samples.
    """
    fitted = [list(c.parameters) for c in candidates]
    passed: list[Passed] = [{}, *(results.passed(c.parameters) for c in candidates)]
    exact = [network.start(batch) for batch in batches]
    streams = [[network.start(batch) for batch in batches] for _ in candidates]
    for stage in network.stages:
        layer = stage.layer
        if layer is None:
            _advance(network, stage, [exact, *streams], [None] * (1 + len(streams)), passed, pool)
            continue
        op = stage.ops[0]
        source, own = op.inputs[0], network.layers[layer]
        targets = pool.map(lambda values: own(values[source]), exact)  # noqa: B023 - runs now
        target_moments = _moments_once(own, targets, pool)
        clip = network.clip_behind(op)
        outputs: list[list[Tensor]] = []
        for k, candidate in enumerate(candidates):
            view = LayerView(
                layer=own,
                parameters=fitted[k][layer],
                inputs=[values[source] for values in streams[k]],
                targets=targets,
                target_moments=target_moments,
                seen=candidate.seen,
                pool=pool,
                clip=clip,
            )
            if network.calls[layer] == 1:
                fitted[k][layer] = fit(view)
            outputs.append(view.outputs if view.outputs is not None else view.compute(fitted[k][layer]))
            view.outputs = None
        _advance(network, stage, [exact, *streams], [targets, *outputs], passed, pool)
        if on_layer is not None:
            on_layer()
    heads = [[torch.cat(head) for head in zip(*map(network.heads, stream), strict=True)] for stream in streams]
    return [tuple(layers) for layers in fitted], heads


def _moments_once(layer: LayerWeights, targets: list[Tensor], pool: ComputePool) -> Callable[[], list[ChannelMoments]]:
    @cache
    def moments() -> list[ChannelMoments]:
        return pool.map(lambda y: moments_of(y, layer.geometry.channel_axis), targets)

    return moments


def _advance(
    network: StagedNetwork,
    stage: Stage,
    streams: Sequence[list[Values]],
    outputs: Sequence[list[Tensor] | None],
    passed: Sequence[Passed],
    pool: ComputePool,
) -> None:
    """Run a stage on all micro-batches of some streams.

    Args:
        network: The float network.
        stage: The stage.
        streams: What was computed before.
        outputs: For each stream, what the layer's call gave, if it ran.
        passed: For each stream, what results pass.
        pool: Where micro-batches run.
    """

    def run(job: tuple[int, int]) -> None:
        stream, i = job
        known = outputs[stream]
        network.run_stage(
            stage,
            streams[stream][i],
            lambda op, x: network.float_call(op, x) if known is None else known[i],
            passed[stream],
        )

    pool.map(run, [(stream, i) for stream, batches in enumerate(streams) for i in range(len(batches))])
