"""From a marked graph and a policy's parameters to standard ONNX: QuantizeLinear and DequantizeLinear at each layer."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evoq_moo.errors import ArgumentError, NetworkError
from evoq_moo.export._build import Build
from evoq_moo.export._exact import EXACT
from evoq_moo.export._packing import FLOAT, bits_of, container_of, plane_weights, to_planes
from evoq_moo.export._products import LayerPlan, array_of, bias_of, exact_product, guarded_product
from evoq_moo.export._shipment import Shipment
from evoq_moo.export._template import BIAS, DOMAIN, OPSET, WEIGHT, Template, require_onnx
from evoq_moo.files import package_versions
from evoq_moo.quantizer import activation_range, arithmetic

FORMAT_VERSION = "2"
PREFIX = "evoq_moo."
"""Of the keys of a model's metadata."""
SIZES = ("weights", "stored_weights", "overhead", "float_rest")
"""What a file takes, by part (:func:`sizes_of`)."""
TWO_BIT_OPSET = 25
"""The first opset with 2-bit types."""
_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_LARGEST = 2**31 - 2**20
"""What one protobuf message can hold (bytes), with room for the graph."""


def lower(
    shipment: Shipment,
    template: Template,
    *,
    form: str = EXACT,
    packed: bool = True,
    opset: int | None = None,
    named: bool = False,
) -> Any:
    """Return the ONNX model of a network under its policy.

    Args:
        shipment: The network.
        template: Its marked graph.
        form: ``"exact"`` or ``"qdq"``.
        packed: Pack weights of 3, 5, 6 and 7 bits (and 2, where there is no such type) as bit planes.
        opset: 21, or 25 for 2-bit types.
        named: Name the nodes of each layer after it, for profilers.

    Raises:
        ArgumentError: The template is of another network, or `opset` is not allowed.
        NetworkError: The graph holds operators outside standard ONNX, or is too large for one file.
    """
    onnx = require_onnx()
    opset = OPSET if opset is None else opset
    if opset not in (OPSET, TWO_BIT_OPSET) or opset > onnx.defs.onnx_opset_version():
        raise ArgumentError(f"opset: given {opset!r}; allowed: {OPSET}, or {TWO_BIT_OPSET} where onnx has it")
    biases = tuple(p.bias is not None for p in shipment.layers)
    if template.layers != shipment.policy.layers or template.biases != biases:
        raise ArgumentError("template: is of another network")
    model = onnx.ModelProto.FromString(template.model)
    build = Build(two_bit_types=opset >= TWO_BIT_OPSET)
    containers = containers_of(shipment, packed=packed, opset=opset)
    plans = [
        LayerPlan.of(p, layer, container, form)
        for p, layer, container in zip(shipment.layers, shipment.products, containers, strict=True)
    ]
    outputs = {value.name for value in model.graph.output}
    weights: dict[str, LayerPlan] = {}
    for node in model.graph.node:
        if node.domain == DOMAIN:
            plan = plans[node.attribute[0].i]
            build.layer = plan.p.name if named else ""
            result = _replace(build, node, plan, is_output=node.output[0] in outputs)
            if node.op_type == WEIGHT:
                weights[result] = plan
            continue
        if node.domain:
            raise NetworkError(f"network: needs {node.domain}.{node.op_type}, which standard ONNX lacks")
        for j, name in enumerate(node.input):
            node.input[j] = build.names.get(name, name)
        if node.op_type == "Transpose" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
        multiplied = weights.get(node.input[1]) if node.op_type in _PRODUCTS else None
        build.layer = multiplied.p.name if named and multiplied is not None else ""
        if multiplied is None:
            build.add(node)
        elif multiplied.exact:
            exact_product(build, node, multiplied)
        else:
            guarded_product(build, node, multiplied)
    kept = list(model.graph.initializer)
    nodes = list(build.nodes)
    graph = onnx.helper.make_graph(
        nodes, "evoq-moo", list(model.graph.input), list(model.graph.output), [*kept, *build.values.values()]
    )
    made = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        ir_version=_ir_version(onnx, opset),
        producer_name="evoq-moo",
        producer_version=package_versions()["evoq-moo"],
    )
    _note(made, shipment, plans, form)
    size = made.ByteSize()
    if size > _LARGEST:
        raise NetworkError(f"network: takes {size / 2**30:.1f} GiB, more than one ONNX file holds")
    onnx.checker.check_model(made, full_check=True)
    return made


def containers_of(shipment: Shipment, *, packed: bool, opset: int) -> tuple[str, ...]:
    """Return the container of each layer's weights.

    8-bit weights on 8-bit inputs are stored unsigned where onnxruntime may fuse the product into an integer kernel
    (matrix products, and convolutions without bias): on processors without int8 dot products its kernels of unsigned
    inputs and signed weights saturate, those of two unsigned sides do not. Other widths never saturate.
    """
    return tuple(
        container_of(
            p.weight_bits,
            packed=packed,
            two_bit_types=opset >= TWO_BIT_OPSET,
            unsigned=p.activation_bits == 8 and (p.kind == "Linear" or p.bias is None),
        )
        for p in shipment.layers
    )


def _ir_version(onnx: Any, opset: int) -> int:
    return int(onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)]))


def _replace(build: Build, node: Any, plan: LayerPlan, *, is_output: bool) -> str:
    """Put what a policy asks for in the place of a mark, and return its name."""
    source = build.names.get(node.input[0], node.input[0])
    if node.op_type == WEIGHT:
        result = _weight(build, plan)
    elif node.op_type == BIAS:
        result = bias_of(build, plan)
    else:
        result = _input(build, plan, source)
    if is_output:
        build.node("Identity", [result], node.output[0])
    build.names[node.output[0]] = result
    return result


def _input(build: Build, plan: LayerPlan, source: str) -> str:
    """Add the quantization of a layer's input.

    Levels of fewer bits than their type are bounded by a Clip of the float value, to the lowest and highest level's
    value. That is exact: such a bound divided by the scale is its level but for 2^-23 of it, and rounds to it. It
    stands in front of every type narrower than a byte: onnxruntime would move such a quantization before a MaxPool,
    which takes none of those types.

    In the exact form, as in our arithmetic, the value is multiplied by the scale's reciprocal and rounded to an
    integer; what comes out is the level without its zero point.
    """
    p = plan.p
    if p.activation_scale is None or p.activation_zero_point is None:
        return source
    bits, scale, zero = p.activation_bits, np.float32(p.activation_scale), p.activation_zero_point
    key = (source, float(scale), zero, bits, plan.exact)
    if key in build.inputs:
        result, plan.input_scale = build.inputs[key]
        return result
    dtype, width = _activation_type(bits, two_bit_types=build.two_bit_types)
    plan.input_scale = build.value(f"{p.name}.input_scale", np.array(scale))
    zero_name = build.value(f"{p.name}.input_zero_point", np.array(zero, dtype=np.uint8), dtype)
    x, step, size = source, plan.input_scale, scale
    if plan.exact:
        x = build.node("Mul", [x, build.node("Reciprocal", [plan.input_scale])])
        step, size = build.unit(), np.float32(1)
    if bits < width or (width < 8 and not plan.exact):
        bounds = [
            build.value(f"{p.name}.input_{side}", np.array(np.float32(level - zero) * size, dtype=np.float32))
            for side, level in zip(("lowest", "highest"), activation_range(bits), strict=True)
        ]
        x = build.node("Clip", [x, *bounds])
    calls = sum(name == p.name for name in build.called)
    build.called.append(p.name)
    result = f"{p.name}.input" + (f".{calls}" if calls else "")
    levels = build.node("QuantizeLinear", [x, step, zero_name], f"{result}_levels")
    build.inputs[key] = build.node("DequantizeLinear", [levels, step, zero_name], result), plan.input_scale
    return result


def _activation_type(bits: int, *, two_bit_types: bool) -> tuple[int | None, int]:
    """Return the ONNX type of an input's levels (None: uint8) and its width (bits)."""
    from onnx import TensorProto

    if bits == 2 and two_bit_types:
        return TensorProto.UINT2, 2
    return (TensorProto.UINT4, 4) if bits <= 4 else (None, 8)


def _weight(build: Build, plan: LayerPlan) -> str:
    """Add a layer's weights, dequantized from their levels; in the exact form the levels themselves, as float32."""
    p, container = plan.p, plan.container
    name = f"{p.name}.weight"
    if container == FLOAT:
        return build.value(name, array_of(None if p.weight is None else plan.stored(p.weight)))
    if f"{name}_levels" in build.values:
        return name
    from onnx import TensorProto

    levels = array_of(None if p.weight_levels is None else plan.stored(p.weight_levels))
    scales = build.value(f"{name}_scales", array_of(p.weight_scales))
    geometry = plan.layer.geometry
    # The channels of several groups of a transposed convolution lie on two axes: their scales are multiplied behind.
    apart = geometry.transposed and geometry.groups > 1 and not plan.exact
    axis = {} if plan.exact or apart else {"axis": int(geometry.transposed)}
    steps = build.unit() if plan.exact or apart else scales
    result = None if apart else name
    if container == "uint8":
        shifted = (levels.astype(np.int16) + 128).astype(np.uint8)
        shape = () if not axis else (len(array_of(p.weight_scales)),)
        zeros = build.value(f"{name}_zero_points", np.full(shape, 128, dtype=np.uint8))
        return build.node("DequantizeLinear", [build.value(f"{name}_levels", shifted), steps, zeros], name, **axis)
    if container.startswith("bits"):
        stored = _unpacked(build, name, levels, bits_of(container))
    else:
        dtype = {"int8": None, "int4": TensorProto.INT4, "int2": getattr(TensorProto, "INT2", None)}[container]
        stored = build.value(f"{name}_levels", levels, dtype)
    dequantized = build.node("DequantizeLinear", [stored, steps], result, **axis)
    if not apart or p.weight_scales is None:
        return dequantized
    spread = p.weight_scales.reshape(-1, *(1,) * (levels.ndim - 1)).expand(
        -1, plan.layer.weight.shape[1], *(1,) * geometry.dims
    )
    return build.node("Mul", [dequantized, build.value(f"{name}_spread_scales", array_of(plan.stored(spread)))], name)


def _unpacked(build: Build, name: str, levels: npt.NDArray[np.int8], bits: int) -> str:
    """Add the levels as bit planes, and the nodes that put them together; onnxruntime runs those once, at loading.

    Level = sum over planes of bit x (1, 2, 4, ..., -2^(bits-1)), exact in float32.
    """
    from onnx import TensorProto

    planes = to_planes(levels, bits)
    stored = build.value(f"{name}_levels", planes[:, :, None])
    shifts = build.value("evoq.shifts", np.arange(8, dtype=np.uint8))
    one = build.value("evoq.one", np.array(1, dtype=np.uint8))
    shifted = build.node("BitShift", [stored, shifts], direction="RIGHT")
    found = build.node("Cast", [build.node("BitwiseAnd", [shifted, one])], to=TensorProto.FLOAT)
    rows = build.node("Reshape", [found, build.value(f"evoq.rows{bits}", np.array([bits, -1], dtype=np.int64))])
    sums = build.node(
        "MatMul", [build.value(f"evoq.weights{bits}", plane_weights(bits)[None].astype(np.float32)), rows]
    )
    if levels.size % 8:
        ends = [build.value(f"evoq.{n}", np.array([n], dtype=np.int64)) for n in (0, levels.size, 1)]
        sums = build.node("Slice", [sums, ends[0], ends[1], ends[2]])
    shape = build.value(f"evoq.shape{levels.shape}", np.array(levels.shape, dtype=np.int64))
    return build.node("Cast", [build.node("Reshape", [sums, shape])], to=TensorProto.INT8)


def _note(model: Any, shipment: Shipment, plans: Sequence[LayerPlan], form: str) -> None:
    """Write the metadata: policy, containers, sizes, fingerprints, provenance."""
    policy, containers = shipment.policy, [plan.container for plan in plans]
    data: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "arithmetic": str(arithmetic.VERSION),
        "policy": {
            "layers": list(policy.layers),
            "weight_bits": list(policy.weight_bits),
            "activation_bits": list(policy.activation_bits),
        },
        "form": form,
        "exact": [plan.exact for plan in plans],
        "containers": containers,
        "fingerprints": {"network": shipment.network_fingerprint(), "parameters": shipment.fingerprint()},
        "provenance": {"evoq_moo": package_versions()["evoq-moo"], "torch": torch.__version__, **shipment.provenance},
    }
    if shipment.preprocess is not None:
        data["preprocess"] = shipment.preprocess.to_json()
    data["sizes"] = sizes_of(shipment, containers)
    for key, value in data.items():
        entry = model.metadata_props.add()
        entry.key = PREFIX + key
        entry.value = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def sizes_of(shipment: Shipment, containers: Sequence[str]) -> dict[str, int]:
    """Return what a file should take, in bytes.

    Args:
        shipment: The network.
        containers: Of each layer's weights.

    Returns:
        ``"weights"``: the size objective; ``"stored_weights"``: the weights in their containers; ``"overhead"``:
        scales, zero points and biases; ``"float_rest"``: parameters outside the quantizable layers.
    """
    cost = shipment.cost()
    names = {p.name for p in shipment.layers}
    inside = {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    rest = [t for name, t in shipment.network.state_dict().items() if name not in inside]
    parts = (
        round(cost.size_mib * 2**20),
        sum(
            -(-p.value().numel() * bits_of(container) // 8)
            for p, container in zip(shipment.layers, containers, strict=True)
        ),
        round(cost.overhead_mib * 2**20),
        sum(t.numel() * t.element_size() for t in rest),
    )
    return dict(zip(SIZES, parts, strict=True))
