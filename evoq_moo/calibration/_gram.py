"""Second moments of a layer's input and output, from which its weights can be fitted exactly."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from evoq_moo.calibration._walk import LayerView
from evoq_moo.engines._capture import geometry_of
from evoq_moo.engines._kernels import Geometry

POSITIONS = 12_800
"""Positions of a layer's output that its moments are taken from, at most (our choice): 256 of each of 50 images."""


@dataclass(frozen=True)
class Moments:
    """Second moments of one layer: for each group of channels, of its `k` inputs to a product and of its outputs.

    Attributes:
        input: Covariance of the inputs, float32 `(groups, k, k)`.
        cross: Covariance of inputs and the float network's outputs, `(groups, k, channels of a group)`.
        input_mean: `(groups, k)`.
        output_mean: `(groups, channels of a group)`.
        count: Number of positions.
    """

    input: Tensor
    cross: Tensor
    input_mean: Tensor
    output_mean: Tensor
    count: int


def supports_moments(view: LayerView) -> bool:
    """Return whether a layer's product is a matrix product of patches (all but transposed convolutions)."""
    return "transpose" not in str(view.op.target)


def prior_weights(view: LayerView) -> Tensor:
    """Return a layer's float weights as its product multiplies by them, `(groups, channels of a group, k)`."""
    geometry = geometry_of(view.op)
    groups = 1 if geometry is None else geometry.groups
    rows = view.weight.flatten(1)
    return rows.reshape(groups, -1, rows.shape[1])


def sampled_patches(view: LayerView, inputs: Sequence[Tensor], *, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return inputs to products and the float network's outputs, drawn from all micro-batches to fit to.

    Args:
        view: The layer.
        inputs: For each micro-batch, the layer's input.
        rows: How many, at most (but one of each sample).
        seed: Of the draw.

    Returns:
        Float32 `(groups, rows, k)` and `(groups, rows, channels of a group)`.
    """
    parts = view.pool.map(lambda job: _draw(view, *job), _jobs(view, inputs, rows, seed))
    return torch.cat([x for x, _ in parts], dim=1), torch.cat([y for _, y in parts], dim=1)


def moments(view: LayerView, *, seed: int) -> Moments:
    """Return the moments of a layer's quantized input and of the float network's output, to fit to.

    Args:
        view: The layer.
        seed: Of the draw of positions.
    """

    def sums(job: tuple[Tensor, Tensor, int, int]) -> tuple[Tensor, ...]:
        x, y = _draw(view, view.parameters.quantize_input(job[0]), *job[1:])
        xt = x.transpose(1, 2)
        return xt @ x, xt @ y, x.sum(1), y.sum(1), torch.tensor(x.shape[1])

    parts = view.pool.map(sums, _jobs(view, view.inputs, POSITIONS, seed))
    gram, cross, sx, sy, count = (torch.stack(part).sum(0) for part in zip(*parts, strict=True))
    mx, my = sx / count, sy / count
    return Moments(
        input=gram / count - mx[:, :, None] * mx[:, None, :],
        cross=cross / count - mx[:, :, None] * my[:, None, :],
        input_mean=mx,
        output_mean=my,
        count=int(count),
    )


def _jobs(view: LayerView, inputs: Sequence[Tensor], rows: int, seed: int) -> list[tuple[Tensor, Tensor, int, int]]:
    """Return (input, output, positions of each sample, seed) of each micro-batch to fit to."""
    chosen, targets = view.fitted(inputs), view.fitted(view.targets)
    budget = math.ceil(rows / sum(len(x) for x in chosen))
    return [(x, y, budget, seed * 1_000_003 + i) for i, (x, y) in enumerate(zip(chosen, targets, strict=True))]


def _draw(view: LayerView, x: Tensor, y: Tensor, budget: int, seed: int) -> tuple[Tensor, Tensor]:
    return patches(view, x, y, geometry_of(view.op), budget, torch.Generator().manual_seed(seed))


def patches(
    view: LayerView, x: Tensor, y: Tensor, geometry: Geometry | None, budget: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return inputs to products, `(groups, rows, k)`, and outputs, `(groups, rows, channels of a group)`.

    Args:
        view: The layer.
        x: Its input.
        y: Its output.
        geometry: Of its kernel; None for a matrix product.
        budget: Positions of each sample, at most.
        generator: Of the draw of positions.
    """
    weight = view.weight
    if weight.dim() == 2:
        x, y = x.reshape(len(x), -1, x.shape[-1]), y.reshape(len(y), -1, y.shape[-1])
        chosen = _chosen(x.shape[1], budget, generator)
        return x[:, chosen].flatten(0, 1)[None], y[:, chosen].flatten(0, 1)[None]
    if weight.dim() == 3:
        x, y = x.unsqueeze(2), y.unsqueeze(2)
    height, width = y.shape[2:]
    chosen = _chosen(height * width, budget, generator)
    y = y.flatten(2)[:, :, chosen]
    if geometry is None:
        x = x.flatten(2)[:, :, chosen].unsqueeze(2)
        groups = 1
    else:
        groups = geometry.groups
        kernel = (1, *weight.shape[2:])[-2:]
        before = geometry.padding
        pads = geometry.pad or (before[1], before[1], before[0], before[0])
        x = functional.pad(x, pads)
        stride, dilation = geometry.stride, geometry.dilation
        row = (chosen // width * stride[0])[:, None] + torch.arange(kernel[0])[None] * dilation[0]
        column = (chosen % width * stride[1])[:, None] + torch.arange(kernel[1])[None] * dilation[1]
        places = (row[:, :, None] * x.shape[3] + column[:, None, :]).flatten(1)
        x = x.flatten(2)[:, :, places.T.flatten()]
        x = x.reshape(len(x), -1, places.shape[1], len(chosen))
    n, channels, k, p = x.shape
    x = x.reshape(n, groups, channels // groups * k, p).permute(1, 0, 3, 2).flatten(1, 2)
    y = y.reshape(n, groups, -1, p).permute(1, 0, 3, 2).flatten(1, 2)
    return x, y


def _chosen(count: int, budget: int, generator: torch.Generator) -> Tensor:
    if count <= budget:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:budget].sort().values
