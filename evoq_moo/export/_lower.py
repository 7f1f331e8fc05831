"""From a marked graph and a policy's parameters to standard ONNX: QuantizeLinear and DequantizeLinear at each layer."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evoq_moo import arithmetic
from evoq_moo.arithmetic import activation_range
from evoq_moo.calibration._parameters import LayerParameters
from evoq_moo.errors import ArgumentError, NetworkError
from evoq_moo.export._packing import FLOAT, bits_of, container_of, plane_weights, to_planes
from evoq_moo.export._shipment import Shipment
from evoq_moo.export._template import BIAS, DOMAIN, OPSET, WEIGHT, Template, require_onnx

FORMAT_VERSION = "1"
PREFIX = "evoq_moo."
"""Of the keys of a model's metadata."""
TWO_BIT_OPSET = 25
"""The first opset with 2-bit types."""
_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
LAYER_MARK = "#"
"""Between a layer's name and a number, in the names of its nodes."""
_LARGEST = 2**31 - 2**20
"""What one protobuf message can hold (bytes), with room for the graph."""


@dataclass
class _Build:
    """The parts of the model that is made."""

    two_bit_types: bool
    nodes: list[Any] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    inputs: dict[tuple[str, float, int, int], str] = field(default_factory=dict)
    layer: str = ""
    called: list[str] = field(default_factory=list)
    count: int = 0

    def value(self, name: str, array: npt.NDArray[Any], dtype: int | None = None) -> str:
        """Keep a constant under a name; `dtype` is an ONNX type narrower than a byte."""
        from onnx import helper, numpy_helper

        if name not in self.values:
            if dtype is None:
                self.values[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
            else:
                narrow = array.astype(helper.tensor_dtype_to_np_dtype(dtype))
                self.values[name] = numpy_helper.from_array(narrow, name)
        return name

    def node(self, operator: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its result."""
        from onnx import helper

        if output is None:
            self.count += 1
            output = f"q{self.count}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=self.node_name(), **attributes))
        return output

    def node_name(self) -> str:
        """Return a name that tells which layer a node is of; none unless they are asked for."""
        return f"{self.layer}{LAYER_MARK}{len(self.nodes)}" if self.layer else ""


def lower(
    shipment: Shipment, template: Template, *, packed: bool = True, opset: int | None = None, named: bool = False
) -> Any:
    """Return the ONNX model of a network under its policy.

    Args:
        shipment: The network.
        template: Its marked graph.
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
    build = _Build(two_bit_types=opset >= TWO_BIT_OPSET)
    containers = containers_of(shipment, packed=packed, opset=opset)
    outputs = {value.name for value in model.graph.output}
    guards = _guards(build, shipment)
    layer_of = {f"{p.name}.weight": p.name for p in shipment.layers}
    for node in model.graph.node:
        if node.domain == DOMAIN:
            i = node.attribute[0].i
            build.layer = shipment.layers[i].name if named else ""
            _replace(build, node, shipment.layers[i], containers[i], is_output=node.output[0] in outputs)
        elif node.domain:
            raise NetworkError(f"network: needs {node.domain}.{node.op_type}, which standard ONNX lacks")
        else:
            for j, name in enumerate(node.input):
                node.input[j] = build.names.get(name, name)
            weight = node.input[1] if node.op_type in _PRODUCTS else ""
            build.layer = layer_of.get(weight, "") if named else ""
            node.name = build.node_name()
            _product(build, node, guards)
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
        producer_version=_version(),
    )
    _note(made, shipment, containers)
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


def _version() -> str:
    from evoq_moo import __version__

    return __version__


def _ir_version(onnx: Any, opset: int) -> int:
    return int(onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)]))


def _replace(build: _Build, node: Any, p: LayerParameters, container: str, *, is_output: bool) -> None:
    """Put what a policy asks for in the place of a mark."""
    source = build.names.get(node.input[0], node.input[0])
    if node.op_type == WEIGHT:
        result = _weight(build, p, container)
    elif node.op_type == BIAS:
        result = build.value(f"{p.name}.bias", _array(p.bias))
    else:
        result = _input(build, p, source)
    if is_output:
        build.node("Identity", [result], node.output[0])
    build.names[node.output[0]] = result


def _guards(build: _Build, shipment: Shipment) -> dict[str, tuple[str, str]]:
    """Return, for the name of each layer's weight, the operator behind its product and its constant.

    onnxruntime would fuse a product that alone stands between dequantization and quantization into an integer kernel,
    or change it so that it could: the bias rounded to int32 multiples of input scale x weight scale (half a level,
    which at 2 bits is much), float weights rounded to int8, 4-bit inputs given to a kernel that does not take them.
    Adding the bias behind the product, zeros where there is none, keeps it as it is. That does not help float weights,
    into which an addition is fused first; there the larger of the product and the lowest float32 does.
    """
    found = {}
    for p in shipment.layers:
        name = f"{p.name}.weight"
        if p.quantized_weight:
            shape = (-1,) if p.kind == "Linear" else (-1, *[1] * (p.value().dim() - 2))
            bias = np.zeros(_channels(shipment, p), dtype=np.float32) if p.bias is None else _array(p.bias)
            found[name] = ("Add", build.value(f"{p.name}.bias", bias.reshape(shape)))
        elif p.quantized_activation:
            found[name] = ("Max", build.value("evoq.lowest", np.array(np.finfo(np.float32).min)))
    return found


def _channels(shipment: Shipment, p: LayerParameters) -> int:
    """Return the number of output channels of a layer."""
    layer: Any = shipment.network.get_submodule(p.name)
    return int(p.value().shape[p.channel_dim]) * (int(layer.groups) if p.channel_dim == 1 else 1)


def _product(build: _Build, node: Any, guards: dict[str, tuple[str, str]]) -> None:
    """Add a node of the float graph, and behind a layer's product its guard."""
    guard = guards.get(node.input[1]) if node.op_type in _PRODUCTS - {"MatMul"} else None
    if guard is None:
        build.nodes.append(node)
        return
    operator, constant = guard
    output = node.output[0]
    if operator == "Add":
        del node.input[2:]
    build.count += 1
    node.output[0] = f"q{build.count}"
    build.nodes.append(node)
    build.node(operator, [node.output[0], constant], output)


def _input(build: _Build, p: LayerParameters, source: str) -> str:
    """Add the quantization of a layer's input.

    Levels of fewer bits than their type are bounded by a Clip of the float value, to the lowest and highest level's
    value. That is exact: such a bound divided by the scale is its level but for 2^-23 of it, and rounds to it.
    """
    if p.activation_scale is None or p.activation_zero_point is None:
        return source
    bits, scale, zero = p.activation_bits, np.float32(p.activation_scale), p.activation_zero_point
    key = (source, float(scale), zero, bits)
    if key in build.inputs:
        return build.inputs[key]
    dtype, width = _activation_type(bits, two_bit_types=build.two_bit_types)
    lowest, highest = activation_range(bits)
    scale_name = build.value(f"{p.name}.input_scale", np.array(scale))
    zero_name = build.value(f"{p.name}.input_zero_point", np.array(zero, dtype=np.uint8), dtype)
    x = source
    if bits < width:
        bounds = [
            build.value(f"{p.name}.input_{side}", np.array(np.float32(level - zero) * scale, dtype=np.float32))
            for side, level in (("lowest", lowest), ("highest", highest))
        ]
        x = build.node("Clip", [source, *bounds])
    calls = sum(name == p.name for name in build.called)
    build.called.append(p.name)
    result = f"{p.name}.input" + (f".{calls}" if calls else "")
    levels = build.node("QuantizeLinear", [x, scale_name, zero_name], f"{result}_levels")
    build.inputs[key] = build.node("DequantizeLinear", [levels, scale_name, zero_name], result)
    return build.inputs[key]


def _activation_type(bits: int, *, two_bit_types: bool) -> tuple[int | None, int]:
    """Return the ONNX type of an input's levels (None: uint8) and its width (bits)."""
    from onnx import TensorProto

    if bits == 2 and two_bit_types:
        return TensorProto.UINT2, 2
    return (TensorProto.UINT4, 4) if bits <= 4 else (None, 8)


def _weight(build: _Build, p: LayerParameters, container: str) -> str:
    """Add a layer's weights, dequantized from their levels."""
    name = f"{p.name}.weight"
    if container == FLOAT:
        return build.value(name, _array(p.weight))
    if f"{name}_levels" in build.values:
        return name
    from onnx import TensorProto

    levels, scales = _array(p.weight_levels), build.value(f"{name}_scales", _array(p.weight_scales))
    if container == "uint8":
        shifted = (levels.astype(np.int16) + 128).astype(np.uint8)
        zeros = build.value(f"{name}_zero_points", np.full(len(_array(p.weight_scales)), 128, dtype=np.uint8))
        inputs = [build.value(f"{name}_levels", shifted), scales, zeros]
        return build.node("DequantizeLinear", inputs, name, axis=p.channel_dim)
    if container.startswith("bits"):
        stored = _unpacked(build, name, levels, bits_of(container))
    else:
        dtype = {"int8": None, "int4": TensorProto.INT4, "int2": getattr(TensorProto, "INT2", None)}[container]
        stored = build.value(f"{name}_levels", levels, dtype)
    return build.node("DequantizeLinear", [stored, scales], name, axis=p.channel_dim)


def _unpacked(build: _Build, name: str, levels: npt.NDArray[np.int8], bits: int) -> str:
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


def _array(tensor: Tensor | None) -> npt.NDArray[Any]:
    if tensor is None:
        raise ArgumentError("layer: lacks a tensor that its bit-widths need")
    return np.asarray(tensor.detach().cpu().contiguous().numpy())


def _note(model: Any, shipment: Shipment, containers: Sequence[str]) -> None:
    """Write the metadata: policy, containers, sizes, fingerprints, provenance."""
    policy = shipment.policy
    data: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "arithmetic": str(arithmetic.VERSION),
        "policy": {
            "layers": list(policy.layers),
            "weight_bits": list(policy.weight_bits),
            "activation_bits": list(policy.activation_bits),
        },
        "containers": list(containers),
        "fingerprints": {"network": shipment.network_fingerprint(), "parameters": shipment.fingerprint()},
        "provenance": {"evoq_moo": _version(), "torch": torch.__version__, **shipment.provenance},
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
    return {
        "weights": round(cost.size_mib * 2**20),
        "stored_weights": sum(
            -(-p.value().numel() * bits_of(container) // 8)
            for p, container in zip(shipment.layers, containers, strict=True)
        ),
        "overhead": round(cost.overhead_mib * 2**20),
        "float_rest": sum(t.numel() * t.element_size() for t in rest),
    }
