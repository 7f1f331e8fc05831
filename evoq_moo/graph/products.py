"""`Product`: a layer whose weight is constant, in one layout whatever made it, and the formula it computes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from evoq_moo.graph.ops import Geometry

_CONVOLUTIONS: Any = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED: Any = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def product(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Compute a product of an input with a weight.

    Args:
        x: `(..., in)` for a matrix product, else `(samples, in, places...)`.
        weight: `(out, in / groups, kernel...)`, for transposed convolutions too.
        bias: `(out,)` or None.
        geometry: How it is computed.
    """
    return torch_product(x, torch_layout(weight, geometry), bias, geometry)


def torch_product(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Compute a product with a weight in torch's layout, which is another one for transposed convolutions."""
    g = geometry
    result: Tensor
    if not g.dims:
        result = functional.linear(x, weight, bias)
    elif g.transposed:
        result = _TRANSPOSED[g.dims](x, weight, bias, g.stride, g.padding, g.output_padding, g.groups, g.dilation)
    else:
        result = _CONVOLUTIONS[g.dims](x, weight, bias, g.stride, g.padding, g.dilation, g.groups)
    return result


def torch_layout(weight: Tensor, geometry: Geometry) -> Tensor:
    """Return a weight `(out, in / groups, ...)` in the layout that torch's own functions and ONNX take."""
    return transposed_layout(weight, geometry.groups) if geometry.transposed else weight


def transposed_layout(weight: Tensor, groups: int) -> Tensor:
    """Return a weight `(out, in / groups, ...)` as torch's transposed convolutions take it, `(in, out / groups, ...)`.

    The other way round it is the same change.
    """
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return grouped.transpose(1, 2).flatten(0, 1)


def macs_of(weight: Tensor, geometry: Geometry, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
    """Return the multiply-accumulates of a product.

    Each output element of a convolution sums over `weight[0]`; transposed, each input element is spread over the
    weights of its group that read it.

    Args:
        weight: `(out, in / groups, kernel...)`.
        geometry: How it is computed.
        input_shape: Of the input.
        output_shape: Of the output.
    """
    if geometry.transposed:
        elements = torch.Size(input_shape).numel()
        return elements * (weight.numel() // (weight.shape[1] * geometry.groups))
    return torch.Size(output_shape).numel() * weight[0].numel()


class Product(nn.Module):
    """A layer of a captured network: the product of its input with a constant weight.

    Args:
        weight: `(out, in / groups, kernel...)`.
        bias: `(out,)` or None.
        geometry: How it is computed.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name torch's layers use
        """Compute the product."""
        return product(input, self.weight, self.bias, self.geometry)

    def extra_repr(self) -> str:
        """Show what it computes."""
        g = self.geometry
        shown = f"{g.kind}, weight={tuple(self.weight.shape)}"
        if g.dims:
            shown += f", stride={g.stride}, padding={g.padding}, dilation={g.dilation}, groups={g.groups}"
        return shown


def per_channel(values: Tensor, like: Tensor, channel_dim: int = 0) -> Tensor:
    """Return values of channels `(channels,)` shaped to broadcast over one dimension of a tensor.

    Args:
        values: One value for each channel.
        like: The tensor, e.g. a weight or an output.
        channel_dim: The dimension of `like` that runs over channels: the first of weights `(out, ...)`.
    """
    shape = [1] * like.dim()
    shape[channel_dim] = -1
    return values.reshape(shape)
