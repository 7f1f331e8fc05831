"""Steps of a plan: what runs on one micro-batch under one policy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from evoq_moo._compute import MICRO_BATCH
from evoq_moo.engines._kernels import (
    Epilogue,
    PackedFloat,
    Quantizer,
    add_levels,
    clipped,
    conv,
    epilogue,
    float_conv,
    levels_of,
    linear,
    values_of,
)
from evoq_moo.engines._layers import BoundLayer, BoundNetwork
from evoq_moo.engines._lower import RESULTS, Layer, Move
from evoq_moo.errors import NetworkError, NonFiniteError
from evoq_moo.graph import NO_CLIP, RELU, Clip, Geometry, Op, product
from evoq_moo.quantizer import fake_quantize_activation

FLOAT_GROUP = MICRO_BATCH
"""Samples a float32 layer computes at once (measured: ResNet18 1.8 times as fast as one by one)."""
FLOAT = -1
"""Wanted as float32 values; any other want is the index of the layer whose input's levels are wanted, or from `RESULTS`
downwards a result whose own levels are."""
Key = tuple[str, int]


class Batch:
    """One micro-batch and what no policy changes about it.

    Args:
        values: Float32 results that depend on the samples only, by name.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self._levels: dict[tuple[str, Quantizer], Tensor] = {}

    def levels(self, name: str, quantizer: Quantizer) -> Tensor:
        """Return the levels of a result, made once."""
        key = (name, quantizer)
        if key not in self._levels:
            self._levels[key] = levels_of(self.values[name], quantizer)
        return self._levels[key]


@dataclass
class Frame:
    """The state of one run on one micro-batch."""

    batch: Batch
    network: BoundNetwork
    results: dict[Key, Any] = field(default_factory=dict)

    @property
    def layers(self) -> Sequence[BoundLayer]:
        """The network's layers, in policy order."""
        return self.network.layers

    def quantizer(self, target: int) -> Quantizer:
        """Return the quantizer of the input of a layer that computes in integers, or of a result."""
        if target <= RESULTS:
            return self.network.results[RESULTS - target]
        return self.layers[target].quantizer  # type: ignore[return-value]


Run = Callable[[Frame], None]


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        reads: What it reads.
        writes: What it writes.
        run: Runs it.
        layer: The layer it computes, if any.
        frees: What no later step reads.
        reuse: What it may be computed in the memory of, where that was made in the same run.
        run_reusing: Runs it so.
    """

    reads: tuple[Key, ...]
    writes: tuple[Key, ...]
    run: Run
    layer: int | None = None
    frees: tuple[Key, ...] = ()
    reuse: Key | None = None
    run_reusing: Run | None = None


def integer_product(x: Tensor, layer: BoundLayer, geometry: Geometry, end: Epilogue) -> Tensor:
    """Return a layer's product of the levels of its input.

    Args:
        x: Uint8 levels, `(samples, in, places...)`, or `(..., in)` for a Linear.
        layer: The layer under a policy.
        geometry: How it is computed.
        end: What becomes of the sums.
    """
    quantizer, packed = layer.quantizer, layer.packed
    if quantizer is None or packed is None:
        raise NetworkError("a layer that computes in float was given levels: the plan is of another policy")
    dims, kernel = geometry.dims, layer.kernel
    if kernel is None:
        rows = x.movedim(1, -1) if dims else x
        y = linear(rows.reshape(-1, rows.shape[-1]), quantizer, packed, layer.bias, end)
        y = y.reshape(*rows.shape[:-1], -1)
        return y.movedim(-1, 1) if dims else y
    x = (x.unsqueeze(2) if dims == 1 else x).contiguous(memory_format=torch.channels_last)
    y = conv(x, quantizer, packed, layer.bias, kernel, end)
    return y.squeeze(2) if dims == 1 else y


def integer_layer(layer: Layer, source: Key, target: int | None, out: Key) -> Run:
    """Return what computes a layer from levels, to float32 or straight to the levels of layer `target`'s input."""
    clip, index, geometry = layer.clip, layer.index, layer.geometry

    def run(frame: Frame) -> None:
        end = epilogue(clip, None if target is None else frame.quantizer(target))
        frame.results[out] = integer_product(frame.results[source], frame.layers[index], geometry, end)

    return run


def float_layer(called: Layer, source: Key, out: Key, *, samples: int, finite: bool) -> Run:
    """Return what computes a layer in float32, as the reference does, in groups of samples of one size.

    Torch's float32 kernels round differently with the number of samples. With the last group filled up, every kernel
    sees the same number, and micro-batches don't matter.

    Args:
        called: The call, with what is fused behind it.
        source: Its input.
        out: Its result.
        samples: Samples in a micro-batch.
        finite: Whether its result is surely finite. A kernel's own clip would hide NaN.
    """
    index, geometry, clip = called.index, called.geometry, called.clip
    fused, after = (clip, NO_CLIP) if finite else (NO_CLIP, clip)

    def compute_group(x: Tensor, layer: BoundLayer) -> Tensor:
        if layer.kernel is not None and isinstance(layer.weight, PackedFloat):
            return clipped(float_conv(x, layer.weight, layer.bias, layer.kernel, fused), after)
        if not isinstance(layer.weight, Tensor):
            raise NetworkError("a layer that computes in integers was asked for floats: the plan is of another policy")
        return clipped(product(x, layer.weight, layer.bias, geometry), clip)

    def run(frame: Frame) -> None:
        layer = frame.layers[index]
        x = frame.results[source]
        if layer.quantizer is not None:
            q = layer.quantizer
            x = fake_quantize_activation(x, q.scale, q.zero_point, q.bits)
        # A network may move positions into the first dimension, several rows of each sample; or mix samples there.
        group = len(x) // samples * FLOAT_GROUP if len(x) % samples == 0 else len(x)
        if len(x) == group and _is_dense(x):
            frame.results[out] = compute_group(x, layer)
            return
        results = []
        for part in torch.split(x, group):
            filled = torch.cat([part, *[part[:1]] * (group - len(part))])
            results.append(compute_group(filled, layer)[: len(part)])
        frame.results[out] = torch.cat(results)

    return run


def _is_dense(x: Tensor) -> bool:
    """Return whether a copy made by `torch.cat` would surely lie in memory as the tensor does."""
    if x.dim() == 4:
        return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return x.is_contiguous()


def add(left: Key, right: Key, clip: Clip, reuse: Key | None, out: Key) -> Run:
    """Return what adds two results, in the memory of one of them where `reuse` names it."""

    def run(frame: Frame) -> None:
        a, b = frame.results[left], frame.results[right]
        if reuse is not None:
            a, b = (a, b) if reuse == left else (b, a)
            # One pass over memory instead of two; torch has a fused kernel for this sum and clip only.
            y = torch._add_relu_(a, b) if clip == RELU else clipped(a.add_(b), clip)
        else:
            y = clipped(torch.add(a, b), clip)
        frame.results[out] = y

    return run


def add_results(left: Key, right: Key, clip: Clip, target: int, out: Key) -> Run:
    """Return what adds two quantized results, to the levels of `target`."""

    def run(frame: Frame) -> None:
        a, b = frame.quantizer(left[1]), frame.quantizer(right[1])
        end = frame.quantizer(target)
        frame.results[out] = add_levels(frame.results[left], a, frame.results[right], b, clip, end)

    return run


def move_floats(move: Move, sources: tuple[Key, ...], out: Key) -> Run:
    """Return what moves float32 values."""

    def run(frame: Frame) -> None:
        frame.results[out] = move.floats([frame.results[key] for key in sources])

    return run


def move_levels(move: Move, sources: tuple[Key, ...], target: int, out: Key) -> Run:
    """Return what moves levels of layer `target`'s input."""

    def run(frame: Frame) -> None:
        frame.results[out] = move.levels([frame.results[key] for key in sources], frame.quantizer(target))

    return run


def quantize_for(source: Key, targets: tuple[int, ...], *, static: bool, check: bool) -> Run:
    """Return what quantizes a result for the layers that read it, once for each distinct quantizer.

    Args:
        source: The result.
        targets: The layers.
        static: Whether no policy changes the result: its levels are then kept.
        check: Whether the result may be NaN or infinite, which levels would hide.
    """
    name = source[0]

    def run(frame: Frame) -> None:
        x = frame.results[source]
        if check and not x.isfinite().all():
            raise NonFiniteError(f"the quantized network computes NaN or infinity on the samples, first in {name!r}")
        made: dict[Quantizer, Tensor] = {}
        for target in targets:
            quantizer = frame.quantizer(target)
            if quantizer not in made:
                made[quantizer] = frame.batch.levels(name, quantizer) if static else levels_of(x, quantizer)
            frame.results[name, target] = made[quantizer]

    return run


def read_result(source: Key, targets: tuple[int, ...], out: str) -> Run:
    """Return what gives a quantized result to its readers.

    Args:
        source: Its levels.
        targets: What it is wanted as.
        out: The name it is read by.
    """

    def run(frame: Frame) -> None:
        levels, own = frame.results[source], frame.quantizer(source[1])
        values: Tensor | None = None
        for target in targets:  # values first: FLOAT is the least
            quantizer = None if target == FLOAT else frame.quantizer(target)
            if quantizer == own:
                frame.results[out, target] = levels
                continue
            if values is None:
                values = values_of(levels, own)
            frame.results[out, target] = values if quantizer is None else levels_of(values, quantizer)

    return run


def compute(op: Op, constants: Mapping[str, Tensor], out: Key) -> Run:
    """Return what runs an operator as captured."""
    inputs = op.inputs

    def run(frame: Frame) -> None:
        frame.results[out] = op.compute({name: frame.results[name, FLOAT] for name in inputs}, constants)

    return run
