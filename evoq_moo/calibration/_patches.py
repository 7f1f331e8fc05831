"""Inputs to a layer's products, position by position, and the outputs they should give."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from evoq_moo.calibration._walk import LayerView
from evoq_moo.engines import kernel_geometry
from evoq_moo.graph import Geometry


def has_patches(view: LayerView) -> bool:
    """Return whether a layer's product is a matrix product of patches of at most two dimensions."""
    return not view.layer.geometry.transposed and view.layer.geometry.dims < 3


def prior_weights(view: LayerView) -> Tensor:
    """Return a layer's float weights as its product multiplies by them, `(groups, channels of a group, k)`."""
    rows = view.layer.weight.flatten(1)
    return rows.reshape(view.layer.geometry.groups, -1, rows.shape[1])


def sampled_patches(view: LayerView, *, rows: int, seed: int, quantized: bool) -> list[tuple[Tensor, Tensor]]:
    """Return inputs to products and wanted outputs, drawn from all micro-batches to fit to.

    Args:
        view: The layer.
        rows: How many, at most (but one of each sample).
        seed: Of the draw.
        quantized: Whether inputs are moved to their levels.

    Returns:
        For each micro-batch to fit to, float32 `(groups, rows, k)` and `(groups, rows, channels of a group)`.
    """
    pairs = list(zip(view.fitted(view.inputs), view.fitted(view.targets), strict=True))
    budget = math.ceil(rows / sum(len(x) for x, _ in pairs))
    geometry = kernel_geometry(view.layer.geometry, view.layer.weight)

    def draw(i: int) -> tuple[Tensor, Tensor]:
        x, y = pairs[i]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + i)
        x = view.parameters.quantize_input(x) if quantized else x
        return patches(view, x, y, geometry, budget, generator)

    return view.pool.map(draw, range(len(pairs)))


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
    weight = view.layer.weight
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
        rows, columns = geometry.padding
        x = functional.pad(x, (columns, columns, rows, rows))
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
