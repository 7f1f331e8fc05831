"""Integer kernels: quantizing to uint8 levels, convolutions and products of levels, and the proof that they are exact.

Everything goes through oneDNN's uint8 x int8 kernels, which torch ships for x86 processors. They accumulate in int32,
so products of levels are exact; one float32 rounding turns a sum into a value or, with the next layer's scale, a level.

Processors without int8 dot-product instructions (AVX2 or AVX-512 without VNNI) add two neighbouring products in int16
first. That is exact as well unless both sides have 8 bits: :func:`products_fit` tells.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from evoq_moo.errors import check_memory
from evoq_moo.graph import NO_CLIP, RELU, Clip, Geometry
from evoq_moo.quantizer import activation_range, dequantize, weight_range

# Adding 1.5 * 2^23 to a float32 of magnitude below 2^22 rounds it half to even to an integer, and leaves that integer
# in the low bits of its binary form.
_MAGIC = 12582912.0
_PIECE = 2**18
"""Values quantized at once: 1 MiB of working memory (measured: between 2^16 and no bound, the fastest on ResNets)."""
_FLOAT32_MAX = 3.4028234663852886e38
_onednn: Any = torch.ops.onednn
_mkldnn: Any = torch.ops.mkldnn


@dataclass(frozen=True)
class Quantizer:
    """Affine uint8 levels of one layer's input at one bit-width.

    Attributes:
        scale: Step (float32 value).
        zero_point: Level of zero.
        bits: Bit-width, 2..8 (bits).
    """

    scale: float
    zero_point: int
    bits: int
    highest: int = field(init=False, compare=False)
    inverse: float = field(init=False, compare=False)
    shift: Tensor = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "highest", activation_range(self.bits)[1])
        object.__setattr__(self, "inverse", torch.tensor(self.scale, dtype=torch.float32).reciprocal().item())
        object.__setattr__(self, "shift", torch.tensor(_MAGIC + self.zero_point, dtype=torch.float32))

    def level_of(self, value: float) -> int:
        """Return the level of one value."""
        level = torch.tensor(value, dtype=torch.float32).mul(self.inverse).round().add(self.zero_point)
        return int(level.clamp(0, self.highest))

    def bounds(self, clip: Clip) -> tuple[int, int]:
        """Return the lowest and highest level of clipped values: rounding is monotone, so levels can be clipped."""
        low = 0 if clip.low is None else self.level_of(clip.low)
        high = self.highest if clip.high is None else self.level_of(clip.high)
        return low, high


class Scratch(threading.local):
    """Float32 working memory of each thread, kept between evaluations."""

    def __init__(self) -> None:
        self.floats = torch.empty(_PIECE)
        self.integers = self.floats.view(torch.int32)
        self.others = torch.empty(_PIECE)


_scratch = Scratch()


def levels_of(x: Tensor, quantizer: Quantizer) -> Tensor:
    """Return the uint8 levels of float32 values, in the same memory format."""
    levels = torch.empty_like(x, dtype=torch.uint8)
    top = _MAGIC + quantizer.highest
    if x.stride() != levels.stride():  # a view with gaps
        work = torch.add(quantizer.shift, x, alpha=quantizer.inverse).clamp_(_MAGIC, top)
        return levels.copy_(work.view(torch.int32))
    for piece, made in _pieces(x, levels):
        _to_levels(piece, quantizer, made)
    return levels


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Give tensors without gaps, laid out alike in memory, in pieces that fit the working memory."""
    count = tensors[0].numel()
    for start in range(0, count, _PIECE):
        size = min(_PIECE, count - start)
        yield tuple(x.as_strided((size,), (1,), x.storage_offset() + start) for x in tensors)


def _to_levels(values: Tensor, quantizer: Quantizer, levels: Tensor, clip: Clip = NO_CLIP) -> None:
    """Write the levels of a piece of clipped values, which may lie in the working memory."""
    low, high = quantizer.bounds(clip)
    work = _scratch.floats[: len(values)]
    torch.add(quantizer.shift, values, alpha=quantizer.inverse, out=work)
    work.clamp_(_MAGIC + low, _MAGIC + high)
    levels.copy_(_scratch.integers[: len(values)])


def values_of(levels: Tensor, quantizer: Quantizer) -> Tensor:
    """Return the float32 values of uint8 levels, in the same memory format."""
    values = torch.empty_like(levels, dtype=torch.float32)
    if levels.stride() != values.stride():  # a view with gaps
        return dequantize(levels.float(), quantizer.scale, quantizer.zero_point)
    for piece, made in _pieces(levels, values):
        _to_values(piece, quantizer, made)
    return values


def _to_values(levels: Tensor, quantizer: Quantizer, values: Tensor) -> Tensor:
    return values.copy_(levels).sub_(quantizer.zero_point).mul_(quantizer.scale)


def add_levels(
    left: Tensor, left_quantizer: Quantizer, right: Tensor, right_quantizer: Quantizer, clip: Clip, end: Quantizer
) -> Tensor:
    """Return the levels of the clipped sum of two tensors of levels, as float32 adds their values.

    Args:
        left: Uint8 levels.
        left_quantizer: Theirs.
        right: Uint8 levels of the same shape.
        right_quantizer: Theirs.
        clip: Bounds of the sum.
        end: Of the sum.
    """
    levels = torch.empty_like(left)
    if not left.stride() == right.stride() == levels.stride():
        values = values_of(left, left_quantizer).add_(values_of(right, right_quantizer))
        return levels_of(clipped(values, clip), end)
    for a, b, made in _pieces(left, right, levels):
        values = _to_values(a, left_quantizer, _scratch.floats[: len(a)])
        values.add_(_to_values(b, right_quantizer, _scratch.others[: len(a)]))
        _to_levels(values, end, made, clip)
    return levels


def clipped(x: Tensor, clip: Clip) -> Tensor:
    """Clip a tensor in place."""
    if clip == NO_CLIP:
        return x
    return x.relu_() if clip == RELU else x.clamp_(clip.low, clip.high)


@dataclass(frozen=True)
class Epilogue:
    """What a kernel does with a sum: clip, then leave it float32 or turn it into a level of the next layer."""

    scale: float
    zero_point: int
    dtype: torch.dtype
    post_op: str
    scalars: tuple[float, ...]


@cache
def epilogue(clip: Clip, target: Quantizer | None) -> Epilogue:
    """Return the epilogue of a clip and, where the result only feeds one quantizer, of that quantizer.

    Levels of fewer than 8 bits are clipped through the post-op, in float: the kernel itself saturates to 8 bits.
    """
    low, high = clip.low, clip.high
    if target is None:
        scale, zero_point, dtype = 1.0, 0, torch.float32
    else:
        scale, zero_point, dtype = target.scale, target.zero_point, torch.uint8
        if target.bits < 8 or high is not None:
            top = (target.highest - zero_point) * scale
            bottom = -zero_point * scale
            high = top if high is None else min(high, top)
            low = bottom if low is None else max(low, bottom)
    if low is None and high is None:
        return Epilogue(scale, zero_point, dtype, "none", ())
    if low == 0 and high is None:
        return Epilogue(scale, zero_point, dtype, "relu", ())
    bounds = (-_FLOAT32_MAX if low is None else low, _FLOAT32_MAX if high is None else high)
    return Epilogue(scale, zero_point, dtype, "hardtanh", bounds)


@dataclass(frozen=True)
class PackedWeight:
    """Weight levels in the kernel's own layout.

    Attributes:
        levels: int8 levels, packed; opaque.
        scales: Float32 step of each output channel.
        zeros: Int32 zeros, one for each output channel.
        nbytes: Memory it takes (bytes).
    """

    levels: Tensor
    scales: Tensor
    zeros: Tensor
    nbytes: int


@dataclass(frozen=True)
class PackedFloat:
    """Float32 weights in the layout of oneDNN's kernel.

    Attributes:
        values: Opaque.
        nbytes: Memory it takes (bytes).
    """

    values: Tensor
    nbytes: int


def kernel_geometry(geometry: Geometry, weight: Tensor) -> Geometry | None:
    """Return where a kernel of two dimensions is put; None for a matrix product, and where there is no such kernel.

    A Conv1d runs as a Conv2d of height 1. A convolution of one place at a time is a matrix product (measured: at least
    as fast as the convolution kernel, and twice as fast where zero has a level other than 0).
    """
    g = geometry
    if g.dims not in (1, 2) or g.transposed:
        return None
    if g.dims == 1:
        g = Geometry(2, (1, *g.stride), (0, *g.padding), (1, *g.dilation), g.groups)
    kernel = (1, *weight.shape[2:])[-2:]
    if kernel == g.stride == (1, 1) and g.padding == (0, 0) and g.groups == 1:
        return None
    return g


def pack_conv(levels: Tensor, scales: Tensor, geometry: Geometry, input_shape: tuple[int, ...] | None) -> PackedWeight:
    """Pack convolution weights.

    Args:
        levels: Int8 `(out, in / groups, kernel height, kernel width)`.
        scales: Float32 `(out,)`.
        geometry: Stride, padding, dilation and groups.
        input_shape: `(samples, in, height, width)` to pack for; any other shape still gives the same results.
    """
    shape = None if input_shape is None else list(input_shape)
    arguments = (list(geometry.stride), list(geometry.padding), list(geometry.dilation), geometry.groups)
    packed = _onednn.qconv_prepack(levels, scales, 1.0, 0, *arguments, shape)
    return PackedWeight(packed, scales, torch.zeros(len(scales), dtype=torch.int32), levels.numel())


def pack_linear(levels: Tensor, scales: Tensor, rows: int) -> PackedWeight:
    """Pack the weights of a matrix product.

    Args:
        levels: Int8 `(out, in)`.
        scales: Float32 `(out,)`.
        rows: Rows of the input to pack for; any other number still gives the same results.
    """
    packed = _onednn.qlinear_prepack(levels, [rows, levels.shape[1]])
    return PackedWeight(packed, scales, torch.zeros(len(scales), dtype=torch.int32), levels.numel())


def conv(
    x: Tensor, source: Quantizer, weight: PackedWeight, bias: Tensor | None, geometry: Geometry, end: Epilogue
) -> Tensor:
    """Return the convolution of channels_last levels `(samples, in, height, width)`, exact up to one rounding."""
    result: Tensor = _onednn.qconv2d_pointwise(
        x,
        source.scale,
        source.zero_point,
        weight.levels,
        weight.scales,
        weight.zeros,
        bias,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        geometry.groups,
        end.scale,
        end.zero_point,
        end.dtype,
        end.post_op,
        end.scalars,
        "",
    )
    return result


def linear(x: Tensor, source: Quantizer, weight: PackedWeight, bias: Tensor | None, end: Epilogue) -> Tensor:
    """Return the product of levels `(rows, in)` with weights `(out, in)`, exact up to one rounding."""
    result: Tensor = _onednn.qlinear_pointwise(
        x,
        source.scale,
        source.zero_point,
        weight.levels,
        weight.scales,
        weight.zeros,
        bias,
        end.scale,
        end.zero_point,
        end.dtype,
        end.post_op,
        end.scalars,
        "",
    )
    return result


def float_packable(weight: Tensor, geometry: Geometry | None) -> bool:
    """Return whether a float32 convolution of this weight can run from packed weights with the bits of torch's own.

    Torch itself computes these with oneDNN, and brings the weights into its layout at every call. On one thread it
    computes one place at a time (1 x 1, grouped or not) with matrix products instead, and it does not see that an input
    of one channel lies channels last: both round differently.
    """
    if geometry is None or weight.dim() != 4 or weight.dtype != torch.float32:
        return False
    if weight.shape[1] * geometry.groups == 1:
        return False
    return weight[0, 0].numel() > 1 or geometry.stride != (1, 1)


def pack_float_conv(weight: Tensor, geometry: Geometry, input_shape: tuple[int, ...]) -> PackedFloat:
    """Bring float32 convolution weights into the layout of oneDNN's kernel.

    Args:
        weight: Float32 `(out, in / groups, kernel height, kernel width)`.
        geometry: Stride, padding, dilation and groups.
        input_shape: `(samples, in, height, width)` to pack for; any other shape still gives the same results.
    """
    where = (list(geometry.padding), list(geometry.stride), list(geometry.dilation), geometry.groups)
    packed = _mkldnn._reorder_convolution_weight(weight.contiguous(), *where, list(input_shape))
    return PackedFloat(packed, 4 * weight.numel())


def float_conv(x: Tensor, weight: PackedFloat, bias: Tensor | None, geometry: Geometry, clip: Clip | None) -> Tensor:
    """Return a float32 convolution with a clip of its result; bit for bit what torch computes in two passes."""
    empty: list[float] = []
    if clip is None or clip == Clip(None, None):
        post_op, scalars = "none", empty
    elif clip == Clip(0.0, None):
        post_op, scalars = "relu", empty
    else:
        low, high = clip.low, clip.high
        post_op = "hardtanh"
        scalars = [-_FLOAT32_MAX if low is None else low, _FLOAT32_MAX if high is None else high]
    where = (geometry.padding, geometry.stride, geometry.dilation, geometry.groups)
    result: Tensor = _mkldnn._convolution_pointwise(x, weight.values, bias, *where, post_op, scalars, "")
    return result


def products_fit(weight_bits: int, activation_bits: int) -> bool:
    """Return whether products of levels of these bit-widths are exact on this processor."""
    return has_dot_products() or 2 * activation_range(activation_bits)[1] * 2 ** (weight_bits - 1) < 2**15


def accumulator_fits(fan_in: int) -> bool:
    """Return whether a sum of `fan_in` products of uint8 and int8 levels always fits int32."""
    return fan_in * 255 * 128 < 2**31


@cache
def has_dot_products() -> bool:
    """Return whether the processor multiplies and adds uint8 x int8 into int32 in one instruction."""
    return any(_has(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


@cache
def integer_supported() -> tuple[bool, str]:
    """Return whether this processor and torch compute int8 kernels exactly, and if not, why.

    A small convolution and product of the largest levels that :func:`products_fit` allows prove it.
    """
    if not hasattr(_onednn, "qconv2d_pointwise") or not hasattr(_onednn, "qconv_prepack"):
        return False, "this build of torch has no oneDNN int8 kernels"
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False, "oneDNN is not available"
    if not (has_dot_products() or _has("avx2")):
        return False, "the processor has no instructions for int8 products (AVX2, AVX-512 or AMX)"
    return _self_test()


def _has(capability: str) -> bool:
    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get(capability, False))
    check = getattr(torch.cpu, f"_is_{capability}_supported", None)
    return bool(check is not None and check())


def _self_test() -> tuple[bool, str]:
    widest = [(8, 8)] if has_dot_products() else [(7, 8), (8, 7)]
    for weight_bits, activation_bits in widest:
        passed, reason = _exact_at(weight_bits, activation_bits)
        if not passed:
            return passed, reason
    # Quantizing must not depend on where a value stands in a tensor: torch's kernels treat the last few apart.
    values = torch.linspace(-3, 3, 1021)
    quantizer = Quantizer(0.0137, 101, 8)
    pieces = torch.cat([levels_of(piece, quantizer) for piece in torch.split(values, 3)])
    if not torch.equal(levels_of(values, quantizer), pieces):
        return False, "torch's float32 kernels round the end of a tensor differently on this processor"
    return True, ""


def _exact_at(weight_bits: int, activation_bits: int) -> tuple[bool, str]:
    """Return whether products of the largest levels of these bit-widths are exact, and if not, why."""
    unit, plain = Quantizer(1.0, 3, 8), epilogue(Clip(None, None), None)
    x = torch.full((1, 32, 5, 5), activation_range(activation_bits)[1], dtype=torch.uint8)
    x = x.contiguous(memory_format=torch.channels_last)
    lowest, highest = weight_range(weight_bits)
    weight = torch.full((16, 32, 3, 3), highest, dtype=torch.int8)
    weight[::2] = lowest
    geometry = Geometry(2, (1, 1), (1, 1), (1, 1))
    try:
        found = conv(x, unit, pack_conv(weight, torch.ones(16), geometry, None), None, geometry, plain)
        product = linear(
            x.reshape(1, -1)[:, :288], unit, pack_linear(weight.flatten(1), torch.ones(16), 1), None, plain
        )
    except RuntimeError as error:
        check_memory(error)
        return False, f"oneDNN's int8 kernels don't run here: {error}"
    expected = torch.nn.functional.conv2d(x.double() - 3, weight.double(), padding=1)
    if not torch.equal(found.double(), expected) or not torch.equal(product.double(), expected[:, :, 2, 2]):
        return False, "oneDNN's int8 kernels saturate on this processor"
    return True, ""
