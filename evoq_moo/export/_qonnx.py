"""`export_qonnx`: a network under its policy in QONNX, the dialect of FPGA flows (FINN, hls4ml)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from evoq_moo.errors import NetworkError
from evoq_moo.export._shipment import shipment_of
from evoq_moo.export._template import BIAS, DOMAIN, OPSET, RESULT, WEIGHT, Template, make_template, require_onnx
from evoq_moo.files import write_atomically
from evoq_moo.graph import RESULT_BITS, Geometry, torch_layout
from evoq_moo.quantizer import LayerParameters, ResultParameters

QUANT_DOMAIN = "qonnx.custom_op.general"


def export_qonnx(
    network: nn.Module,
    path: str | Path,
    *,
    sample: Tensor | Sequence[int] | None = None,
    template: Template | None = None,
) -> int:
    """Write a network under its policy as QONNX: a Quant node for each layer's weights, its input, and each result.

    The batch is one sample, as FPGA flows want it.

    QONNX keeps weights as float32 values beside their bit-widths, so the file is as large as the float network's.
    Its Quant rounds `x / scale + zero_point`, we round `x / scale` and add: halves may go to the other neighbour where
    the zero point is odd.

    Args:
        network: A `CalibratedNetwork`, or what `QuantizedNetwork.apply` gives.
        path: The file.
        sample: Samples `(n, ...)` or the shape of one; None for what the network's preprocessing says.
        template: From :func:`make_template`; `sample` is then not needed.

    Returns:
        Size of the file (bytes).

    Raises:
        ArgumentError: An argument is not allowed.
        MissingPackageError: onnx or onnxscript is missing. The package qonnx is needed to run such files, not to write.
        NetworkError: The network can't be exported.
    """
    onnx = require_onnx()
    shipment = shipment_of(network)
    if template is None:
        template = make_template(shipment, sample)
    model = onnx.ModelProto.FromString(template.model)
    nodes: list[Any] = []
    values: dict[str, Any] = {}
    results = {p.name: p for p in shipment.results}
    for node in model.graph.node:
        if node.domain == DOMAIN and node.op_type == RESULT:
            nodes.append(_result(onnx, node, results.get(template.results[node.attribute[0].i]), values))
        elif node.domain == DOMAIN:
            i = node.attribute[0].i
            nodes.append(_quant(onnx, node, shipment.layers[i], shipment.products[i].geometry, values))
        elif node.domain:
            raise NetworkError(f"network: needs {node.domain}.{node.op_type}, which standard ONNX lacks")
        else:
            nodes.append(node)
    graph = onnx.helper.make_graph(
        nodes,
        "evoq-moo",
        list(model.graph.input),
        list(model.graph.output),
        [*model.graph.initializer, *values.values()],
    )
    imports = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(QUANT_DOMAIN, 1)]
    made = onnx.helper.make_model(
        graph,
        opset_imports=imports,
        producer_name="evoq-moo",
        ir_version=int(onnx.helper.find_min_ir_version_for(imports[:1])),
    )
    for found in (*made.graph.input, *made.graph.output):
        found.type.tensor_type.shape.dim[0].dim_value = 1
    content: bytes = made.SerializeToString()
    write_atomically(path, content)
    return len(content)


def _result(onnx: Any, node: Any, p: ResultParameters | None, values: dict[str, Any]) -> Any:
    """Return the node in the place of a mark of a result."""
    if p is None:
        return onnx.helper.make_node("Identity", node.input, node.output)
    given = {"scale": p.scale, "zero_point": p.zero_point, "bits": RESULT_BITS}
    for key, value in given.items():
        name = f"{p.name}.result_{key}"
        values[name] = onnx.numpy_helper.from_array(np.array(value, dtype=np.float32), name)
    inputs = [node.input[0], *(f"{p.name}.result_{key}" for key in given)]
    return onnx.helper.make_node(
        "Quant", inputs, node.output, domain=QUANT_DOMAIN, signed=0, narrow=0, rounding_mode="ROUND"
    )


def _quant(onnx: Any, node: Any, p: LayerParameters, geometry: Geometry, values: dict[str, Any]) -> Any:
    """Return the node in the place of a mark."""

    def value(name: str, array: Any) -> str:
        values[name] = onnx.numpy_helper.from_array(np.asarray(array, dtype=np.float32), name)
        return name

    output = node.output[0]
    if node.op_type == BIAS:
        bias = p.bias
        return onnx.helper.make_node(
            "Identity", [value(f"{p.name}.bias", bias.numpy() if bias is not None else 0)], [output]
        )
    zero: float = 0.0
    if node.op_type == WEIGHT:
        source, bits, kind = (
            value(f"{p.name}.weight", torch_layout(p.value(), geometry).numpy()),
            p.weight_bits,
            "weight",
        )
        scales: Any = None
        if p.weight_scales is not None:
            weight = p.value()
            spread = p.weight_scales.reshape(-1, *(1,) * (weight.dim() - 1))
            if geometry.transposed:
                spread = torch_layout(spread.expand(-1, weight.shape[1], *(1,) * geometry.dims), geometry)
            scales = spread.numpy()
    else:
        source, bits, kind = node.input[0], p.activation_bits, "input"
        scales, zero = p.activation_scale, float(p.activation_zero_point or 0)
    if scales is None:
        return onnx.helper.make_node("Identity", [source], [output])
    inputs = [
        source,
        value(f"{p.name}.{kind}_scale", scales),
        value(f"{p.name}.{kind}_zero_point", zero),
        value(f"{p.name}.{kind}_bits", bits),
    ]
    return onnx.helper.make_node(
        "Quant", inputs, [output], domain=QUANT_DOMAIN, signed=int(kind == "weight"), narrow=0, rounding_mode="ROUND"
    )
