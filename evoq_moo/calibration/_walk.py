"""One pass over a network, layer by layer, that fits each layer to what the quantized network feeds it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from evoq_moo._compute import ComputePool
from evoq_moo.calibration._graph import (
    CapturedNetwork,
    LayerCall,
    Stage,
    Values,
    call_with,
    clip_behind,
    float_call,
    run_stage,
)
from evoq_moo.calibration._moments import ChannelMoments, moments_of, output_axis
from evoq_moo.calibration._parameters import LayerParameters
from evoq_moo.engines._capture import NO_CLIP, Op
from evoq_moo.engines._kernels import Clip

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
        op: The layer's call.
        parameters: The layer before the fit.
        weight: Its float32 weight in the float network.
        bias: Its bias in the float network.
        inputs: For each micro-batch, the input in the quantized network, before its quantization.
        targets: For each micro-batch, the output in the float network.
        target_moments: Returns the moments of its channels, of each micro-batch; computed once for all candidates.
        seen: For each micro-batch, whether it may be fitted to.
        pool: Where work on micro-batches runs.
        clip: Bounds of a clip that alone reads the output.
        outputs: A fit may leave the fitted layer's outputs here, one for each micro-batch, so that they are not
            computed again.
    """

    op: Op
    parameters: LayerParameters
    weight: Tensor
    bias: Tensor | None
    inputs: list[Tensor]
    targets: list[Tensor]
    target_moments: Callable[[], list[ChannelMoments]]
    seen: tuple[bool, ...]
    pool: ComputePool
    clip: Clip = NO_CLIP
    outputs: list[Tensor] | None = None

    def compute(self, parameters: LayerParameters) -> list[Tensor]:
        """Return the layer's outputs with other parameters on every micro-batch."""
        weight = parameters.value()
        return self.pool.map(
            lambda x: call_with(self.op, parameters.quantize_input(x), weight, parameters.bias), self.inputs
        )

    def fitted(self, values: Sequence[T]) -> list[T]:
        """Return those of one value for each micro-batch that may be fitted to."""
        return [value for value, seen in zip(values, self.seen, strict=True) if seen]


Fit = Callable[[LayerView], LayerParameters]


def quantized_call(parameters: Mapping[int, LayerParameters] | Sequence[LayerParameters]) -> LayerCall:
    """Return what computes each layer's call with its parameters, found by the layer's index."""
    items = parameters.items() if isinstance(parameters, Mapping) else enumerate(parameters)
    layers = {i: (p, p.value()) for i, p in items}

    def call(op: Op, x: Tensor) -> Tensor:
        p, weight = layers[-1 if op.layer is None else op.layer]
        return call_with(op, p.quantize_input(x), weight, p.bias)

    return call


def heads_of_candidate(
    network: CapturedNetwork, batches: Sequence[Tensor], parameters: Parameters, pool: ComputePool
) -> list[Tensor]:
    """Return the heads of a quantized network, float32 `(samples, ...)` each."""
    call = quantized_call(parameters)
    parts = pool.map(lambda batch: network.run(batch, call), batches)
    return [torch.cat(head) for head in zip(*parts, strict=True)]


def walk(
    network: CapturedNetwork,
    batches: Sequence[Tensor],
    candidates: Sequence[Candidate],
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
        fit: Returns a layer's new parameters.
        pool: Where micro-batches run.
        on_layer: Called after each layer.

    Returns:
        For each candidate its new parameters, and its heads on all samples.
    """
    fitted = [list(c.parameters) for c in candidates]
    sizes = [len(batch) for batch in batches]
    exact = [network.start(batch) for batch in batches]
    streams = [[network.start(batch) for batch in batches] for _ in candidates]
    stages = list(zip(*(network.stages(size) for size in sizes), strict=True))
    for stage in stages:
        layer = stage[0].layer
        if layer is None:
            _advance(stage, [exact, *streams], [None] * (1 + len(streams)), pool)
            continue
        op = stage[0].ops[0]
        source = op.args[0].name
        _advance(stage, [exact], [None], pool, only_first=True)
        targets = [values[op.name] for values in exact]
        target_moments = _moments_once(op, targets, pool)
        clip = clip_behind(network, stage[0], sizes[0])
        results: list[list[Tensor]] = []
        for k, candidate in enumerate(candidates):
            view = LayerView(
                op=op,
                parameters=fitted[k][layer],
                weight=op.args[1],
                bias=op.args[2] if len(op.args) > 2 else None,
                inputs=[values[source] for values in streams[k]],
                targets=targets,
                target_moments=target_moments,
                seen=candidate.seen,
                pool=pool,
                clip=clip,
            )
            if network.calls[layer] == 1:
                fitted[k][layer] = fit(view)
            results.append(view.outputs if view.outputs is not None else view.compute(fitted[k][layer]))
            view.outputs = None
        _advance(stage, [exact, *streams], [targets, *results], pool)
        if on_layer is not None:
            on_layer()
    heads = [[torch.cat(head) for head in zip(*map(network.heads, stream, sizes), strict=True)] for stream in streams]
    return [tuple(layers) for layers in fitted], heads


def _moments_once(op: Op, targets: list[Tensor], pool: ComputePool) -> Callable[[], list[ChannelMoments]]:
    @cache
    def moments() -> list[ChannelMoments]:
        axis = output_axis(op, targets[0])
        return pool.map(lambda y: moments_of(y, axis), targets)

    return moments


def _advance(
    stage: Sequence[Stage],
    streams: Sequence[list[Values]],
    results: Sequence[list[Tensor] | None],
    pool: ComputePool,
    *,
    only_first: bool = False,
) -> None:
    """Run a stage on all micro-batches of some streams; `results` holds what the layer's call gave, if it ran.

    With `only_first`, only the layer's call runs and nothing is dropped.
    """

    def run(job: tuple[int, int]) -> None:
        stream, i = job
        values, known = streams[stream][i], results[stream]
        if only_first:
            op = stage[i].ops[0]
            values[op.name] = float_call(op, values[op.args[0].name])
        else:
            run_stage(stage[i], values, lambda op, x: float_call(op, x) if known is None else known[i])

    pool.map(run, [(stream, i) for stream in range(len(streams)) for i in range(len(stage))])
