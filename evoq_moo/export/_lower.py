"""The reference forms: QuantizeLinear and DequantizeLinear at each layer, exact products or float ones behind them."""

from typing import Any

import numpy as np

from evoq_moo.errors import NetworkError
from evoq_moo.export._build import Build
from evoq_moo.export._exact import EXACT
from evoq_moo.export._job import Choice, Job
from evoq_moo.export._packing import FLOAT, bits_of, container_of
from evoq_moo.export._products import PRODUCTS, LayerPlan, array_of, bias_of, exact_product, guarded_product
from evoq_moo.export._template import BIAS, DOMAIN, RESULT, WEIGHT
from evoq_moo.export._weights import unpacked
from evoq_moo.graph import RESULT_BITS
from evoq_moo.quantizer import ResultParameters, activation_range


def write_reference(form: str, job: Job) -> None:
    """Write a network's nodes in the exact form or in ``"qdq"``.

    Args:
        form: Which of them.
        job: What is written.

    Raises:
        NetworkError: The graph holds operators outside standard ONNX.
    """
    build, model, plans = job.build, job.model, job.plans
    outputs = {value.name for value in model.graph.output}
    results = {p.name: p for p in job.choice.shipment.results}
    weights: dict[str, LayerPlan] = {}
    for node in model.graph.node:
        if node.op_type == RESULT and node.domain == DOMAIN:
            build.layer = ""
            _result(build, node, results.get(job.results[node.attribute[0].i]), form, node.output[0] in outputs)
            continue
        if node.domain == DOMAIN:
            plan = plans[node.attribute[0].i]
            build.layer = plan.p.name
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
        multiplied = weights.get(node.input[1]) if node.op_type in PRODUCTS else None
        build.layer = multiplied.p.name if multiplied is not None else ""
        if multiplied is None:
            build.add(node)
        elif multiplied.exact:
            exact_product(build, node, multiplied)
        else:
            guarded_product(build, node, multiplied)


def reference_plans(form: str, choice: Choice) -> list[LayerPlan]:
    """Return how each layer is written.

    8-bit weights on 8-bit inputs are stored unsigned where onnxruntime may fuse the product into an integer kernel
    (matrix products, and convolutions without bias): on processors without int8 dot products its kernels of unsigned
    inputs and signed weights saturate, those of two unsigned sides do not. Other widths never saturate.

    Args:
        form: ``"exact"`` or ``"qdq"``.
        choice: What is asked for.
    """
    shipment = choice.shipment
    return [
        LayerPlan.of(
            p,
            layer,
            container_of(
                p.weight_bits,
                packed=choice.packed,
                two_bit_types=choice.two_bit_types,
                unsigned=p.activation_bits == 8 and (p.kind == "Linear" or p.bias is None),
            ),
            form,
        )
        for p, layer in zip(shipment.layers, shipment.products, strict=True)
    ]


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


def _result(build: Build, node: Any, p: ResultParameters | None, form: str, is_output: bool) -> None:
    """Add the quantization of a result; nothing where the policy leaves it float."""
    result = build.names.get(node.input[0], node.input[0])
    if p is not None:
        name = f"{p.name}.result"
        scale = build.value(f"{name}_scale", np.array(np.float32(p.scale)))
        zero = build.value(f"{name}_zero_point", np.array(p.zero_point, dtype=np.uint8))
        exact = form == EXACT
        step = build.unit() if exact else scale
        x = build.node("Mul", [result, build.node("Reciprocal", [scale])]) if exact else result
        result = build.node("DequantizeLinear", [build.node("QuantizeLinear", [x, step, zero]), step, zero])
        result = build.node("Mul", [result, scale]) if exact else result
    if is_output:
        build.node("Identity", [result], node.output[0])
    build.names[node.output[0]] = result


def _input(build: Build, plan: LayerPlan, source: str) -> str:
    """Add the quantization of a layer's input.

    Levels are uint8: runtimes know no narrower types everywhere. Those of fewer bits are bounded by a Clip of the float
    value, to the lowest and highest level's value. That is exact: such a bound divided by the scale is its level but
    for 2^-23 of it, and rounds to it.

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
    plan.input_scale = build.value(f"{p.name}.input_scale", np.array(scale))
    zero_name = build.value(f"{p.name}.input_zero_point", np.array(zero, dtype=np.uint8))
    x, step, size = source, plan.input_scale, scale
    if plan.exact:
        x = build.node("Mul", [x, build.node("Reciprocal", [plan.input_scale])])
        step, size = build.unit(), np.float32(1)
    if activation_range(bits) != activation_range(RESULT_BITS):
        bounds = [
            build.value(f"{p.name}.input_{side}", np.array(np.float32(level - zero) * size, dtype=np.float32))
            for side, level in zip(("lowest", "highest"), activation_range(bits), strict=True)
        ]
        x = build.node("Clip", [x, *bounds])
    result = build.call(f"{p.name}.input")
    levels = build.node("QuantizeLinear", [x, step, zero_name], f"{result}_levels")
    build.inputs[key] = build.node("DequantizeLinear", [levels, step, zero_name], result), plan.input_scale
    return result


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
        stored = unpacked(build, name, levels, bits_of(container))
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
