"""A layer's product in an ONNX graph: in the exact form, or float products that onnxruntime must not change."""

from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from evoq_moo.errors import ArgumentError
from evoq_moo.export._build import Build
from evoq_moo.export._exact import EXACT, as_output, digit_plan, is_exact
from evoq_moo.graph import Product, torch_layout
from evoq_moo.quantizer import LayerParameters

PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""ONNX's operators that layers are."""


@dataclass
class LayerPlan:
    """How one layer is written.

    Attributes:
        p: What it computes with.
        layer: The float layer.
        container: Of its weights.
        exact: Whether its product is of integers.
        base: Base of its weights' digits.
        digits: How many there are.
        shift: Bits that the int8 form shifts its weights left by.
        input_scale: Name of its input's scale; empty until its input was quantized.
        factor: Name of what its sums are multiplied by; empty until it is in the graph.
        parts: For the name of its (transposed) weights, the names of their digits.
    """

    p: LayerParameters
    layer: Product
    container: str
    exact: bool
    base: int
    digits: int
    shift: int = 0
    input_scale: str = ""
    factor: str = ""
    parts: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, p: LayerParameters, layer: Product, container: str, form: str) -> "LayerPlan":
        """Return the plan of a layer."""
        exact = form == EXACT and is_exact(p)
        base, count = digit_plan(p) if exact else (1, 1)
        return cls(p, layer, container, exact, base, count)

    @property
    def channels(self) -> int:
        """Output channels."""
        return len(self.p.value())

    def stored_scales(self) -> npt.NDArray[np.float32]:
        """Return the step of each output channel's weights as they are stored: shifted left."""
        return array_of(self.p.weight_scales) * np.float32(2.0**-self.shift)

    def stored(self, weight: Tensor) -> Tensor:
        """Return a weight, or what broadcasts over one, in ONNX's layout."""
        return torch_layout(weight, self.layer.geometry)


def array_of(tensor: Tensor | None) -> npt.NDArray[Any]:
    """Return a tensor as an array.

    Raises:
        ArgumentError: There is none.
    """
    if tensor is None:
        raise ArgumentError("layer: lacks a tensor that its bit-widths need")
    return np.asarray(tensor.detach().cpu().contiguous().numpy())


def bias_of(build: Build, plan: LayerPlan) -> str:
    """Keep a layer's bias, zeros where it has none, and return its name."""
    bias = np.zeros(plan.channels, dtype=np.float32) if plan.p.bias is None else array_of(plan.p.bias)
    return build.value(f"{plan.p.name}.bias", bias)


def _added_bias(build: Build, plan: LayerPlan) -> str:
    """Return the name of a layer's bias, shaped as its output."""
    return _as_output(build, plan, bias_of(build, plan))


def _as_output(build: Build, plan: LayerPlan, values: str, name: str | None = None) -> str:
    """Add the reshaping of values of output channels, so that they broadcast over the layer's output."""
    shape = as_output(plan.p, plan.p.value().new_zeros(plan.channels)).shape
    if len(shape) == 1 and name is None:
        return values
    return build.node("Reshape", [values, build.value(f"evoq.shape{tuple(shape)}", np.array(shape))], name)


def exact_product(build: Build, node: Any, plan: LayerPlan) -> None:
    """Add a layer's product of integers, then its scales and its bias.

    Between product and scales stands a Clip to all of float32, which changes nothing: onnxruntime would multiply the
    weights by the scales otherwise. It does not cost a pass over the values: onnxruntime clips within convolutions.
    """
    import onnx

    x, weight, output = node.input[0], node.input[1], node.output[0]
    has_bias = len(node.input) > 2 and bool(node.input[2])
    if weight not in plan.parts:
        plan.parts[weight] = _digits(build, weight, plan)
    sums = []
    for part in plan.parts[weight]:
        one = onnx.NodeProto()
        one.CopyFrom(node)
        del one.input[:]
        one.input.extend([x, part])
        one.output[0] = build.result()
        build.add(one)
        sums.append(one.output[0])
    base = f"evoq.base{plan.base}"

    def add(high: str, low: str) -> str:
        shifted = build.node("Mul", [high, build.value(base, np.array(plan.base, dtype=np.float32))])
        return build.node("Add", [shifted, low])

    total = reduce(add, reversed(sums))
    ends = np.finfo(np.float32)
    bounds = [build.value(f"evoq.{side}", np.array(end)) for side, end in (("lowest", ends.min), ("highest", ends.max))]
    guarded = build.node("Clip", [total, *bounds])
    scaled = build.node("Mul", [guarded, _factor(build, plan)], None if has_bias else output)
    if has_bias:
        build.node("Add", [scaled, _added_bias(build, plan)], output)


def _digits(build: Build, weight: str, plan: LayerPlan) -> list[str]:
    """Add a weight's digits, the lowest first; onnxruntime computes them once, at loading."""
    found = []
    left = weight
    numbers = (("base", plan.base), ("half", plan.base // 2))
    for _ in range(plan.digits - 1):
        base, half = (build.value(f"evoq.{k}{plan.base}", np.array(v, dtype=np.float32)) for k, v in numbers)
        carried = build.node("Floor", [build.node("Div", [build.node("Add", [left, half]), base])])
        found.append(build.node("Sub", [left, build.node("Mul", [carried, base])]))
        left = carried
    return [*found, left]


def _factor(build: Build, plan: LayerPlan) -> str:
    """Add what a layer's sums are multiplied by, shaped as its output; onnxruntime computes it once, at loading."""
    p = plan.p
    if plan.factor:
        return plan.factor
    plan.factor = f"{p.name}.factor"
    factor = build.node("Mul", [f"{p.name}.weight_scales", plan.input_scale])
    return _as_output(build, plan, factor, plan.factor)


def guarded_product(build: Build, node: Any, plan: LayerPlan) -> None:
    """Add a layer's float product, and behind it what keeps onnxruntime from changing it.

    It would fuse a product that alone stands between dequantization and quantization into an integer kernel, or change
    it so that it could: the bias rounded to int32 multiples of input scale x weight scale (half a level, which at 2
    bits is much), float weights rounded to int8, 4-bit inputs given to a kernel that does not take them. Adding the
    bias behind the product, zeros where there is none, keeps it as it is. That does not help float weights, into which
    an addition is fused first; there the larger of the product and the lowest float32 does.
    """
    p = plan.p
    if node.op_type == "MatMul" or not (p.quantized_weight or p.quantized_activation):
        build.add(node)
        return
    output = node.output[0]
    node.output[0] = build.result()
    if p.quantized_weight:
        del node.input[2:]
        operator, constant = "Add", _added_bias(build, plan)
    else:
        operator, constant = "Max", build.value("evoq.lowest", np.array(np.finfo(np.float32).min))
    build.add(node)
    build.node(operator, [node.output[0], constant], output)
