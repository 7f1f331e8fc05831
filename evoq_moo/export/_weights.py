"""Weight levels in a file: unpacked to int8, and to float32, by nodes that a runtime computes once, at loading."""

import numpy as np
import numpy.typing as npt

from evoq_moo.errors import ArgumentError
from evoq_moo.export._build import Build
from evoq_moo.export._packing import FLOAT, bits_of, plane_weights, to_planes
from evoq_moo.export._products import LayerPlan, array_of


def unpacked(build: Build, name: str, levels: npt.NDArray[np.int8], bits: int, shift: int = 0) -> str:
    """Add levels as bit planes, and the nodes that put them together to int8.

    Level = sum over planes of bit x (1, 2, 4, ..., -2^(bits-1)), exact in float32.

    Args:
        build: Where they go.
        name: Of the weights.
        levels: The levels, in the weight's shape.
        bits: How many each has.
        shift: Bits that the result is shifted left by.
    """
    from onnx import TensorProto

    planes = to_planes(levels, bits)
    stored = build.value(f"{name}_levels", planes[:, :, None])
    shifts = build.value("evoq.shifts", np.arange(8, dtype=np.uint8))
    one = build.value("evoq.one", np.array(1, dtype=np.uint8))
    shifted = build.node("BitShift", [stored, shifts], direction="RIGHT")
    found = build.node("Cast", [build.node("BitwiseAnd", [shifted, one])], to=TensorProto.FLOAT)
    rows = build.node("Reshape", [found, build.value(f"evoq.rows{bits}", np.array([bits, -1], dtype=np.int64))])
    values = plane_weights(bits)[None].astype(np.float32) * 2**shift
    of_planes = build.value(f"evoq.weights{bits}" + (f"_{shift}" if shift else ""), values)
    sums = build.node("MatMul", [of_planes, rows])
    if levels.size % 8:
        ends = [build.value(f"evoq.{n}", np.array([n], dtype=np.int64)) for n in (0, levels.size, 1)]
        sums = build.node("Slice", [sums, ends[0], ends[1], ends[2]])
    shape = build.value(f"evoq.shape{levels.shape}", np.array(levels.shape, dtype=np.int64))
    return build.node("Cast", [build.node("Reshape", [sums, shape])], to=TensorProto.INT8)


def stored_levels(build: Build, plan: LayerPlan) -> str:
    """Add a layer's weight levels, shifted left as its plan says; int8, or uint8 levels plus 128.

    Raises:
        ArgumentError: The layer's weights are not levels.
    """
    from onnx import TensorProto

    p = plan.p
    if p.weight_levels is None:
        raise ArgumentError(f"layer {p.name!r}: given float weights; allowed: levels")
    name = f"{p.name}.weight"
    levels = array_of(plan.stored(p.weight_levels))
    if plan.container == "uint8":
        return build.value(f"{name}_levels", (levels.astype(np.int16) + 128).astype(np.uint8))
    if plan.container == "int8":
        return build.value(f"{name}_levels", levels << np.int8(plan.shift))
    if plan.container.startswith("bits"):
        return unpacked(build, name, levels, bits_of(plan.container), plan.shift)
    narrow = {"int4": TensorProto.INT4, "int2": getattr(TensorProto, "INT2", None)}[plan.container]
    stored = build.value(f"{name}_levels", levels, narrow)
    if not plan.shift:
        return build.node("Cast", [stored], to=TensorProto.INT8)
    step = build.value(f"evoq.step{plan.shift}", np.array(2**plan.shift, dtype=np.float32))
    values = build.node("Mul", [build.node("Cast", [stored], to=TensorProto.FLOAT), step])
    return build.node("Cast", [values], to=TensorProto.INT8)


def float_weight(build: Build, plan: LayerPlan) -> str:
    """Add a layer's weights in float32: levels and scales, without a DequantizeLinear, which runtimes do not fold."""
    from onnx import TensorProto

    p = plan.p
    if plan.container == FLOAT:
        return build.value(f"{p.name}.weight", array_of(None if p.weight is None else plan.stored(p.weight)))
    levels = build.node("Cast", [stored_levels(build, plan)], to=TensorProto.FLOAT)
    if plan.container == "uint8":
        levels = build.node("Sub", [levels, build.value("evoq.128", np.array(128, dtype=np.float32))])
    scales = build.value(f"{p.name}.weight_scales", plan.stored_scales())
    return build.node("Mul", [levels, _spread(build, plan, scales)])


def _spread(build: Build, plan: LayerPlan, scales: str) -> str:
    """Add the shaping of the scales of output channels so that they broadcast over the stored weights."""
    geometry, weight = plan.layer.geometry, plan.layer.weight
    if not geometry.transposed:
        return _shaped(build, scales, [-1, *[1] * (weight.dim() - 1)])
    # The channels of a transposed convolution lie on its second axis, those of each group behind its own inputs.
    groups, inputs = geometry.groups, int(weight.shape[1])
    outputs = len(weight) // groups
    apart = _shaped(build, scales, [groups, 1, outputs])
    shape = build.value(f"evoq.{groups, inputs, outputs}", np.array([groups, inputs, outputs], dtype=np.int64))
    return _shaped(build, build.node("Expand", [apart, shape]), [groups * inputs, outputs, *[1] * geometry.dims])


def _shaped(build: Build, values: str, shape: list[int]) -> str:
    return build.node("Reshape", [values, build.value(f"evoq.shape{tuple(shape)}", np.array(shape, dtype=np.int64))])
