"""Which kernels onnxruntime runs a file's layers in, and whether this processor's add 8-bit products exactly."""

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from evoq_moo.export._products import PRODUCTS
from evoq_moo.export._session import open_session
from evoq_moo.export._template import OPSET, require_onnx

INTEGER_KERNELS = frozenset(
    {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "MatMulInteger", "ConvInteger"}
)
"""Operators of onnxruntime that multiply integers."""
_PARTS = ("weight_scales", "weight_levels", "weight_zero_points", "bias_levels")


def layer_nodes(model: Any, layers: Iterable[str]) -> dict[str, list[Any]]:
    """Return the nodes that are products of each layer.

    Args:
        model: A model of onnx that `export_onnx` made.
        layers: Names of its layers.
    """
    constant = {tensor.name for tensor in model.graph.initializer}
    owners = {f"{name}.{kind}": name for name in layers for kind in ("weight", "weight_levels")}
    owners = {value: name for value, name in owners.items() if value in constant}
    found: dict[str, list[Any]] = defaultdict(list)
    for node in model.graph.node:
        owner = next((owners[name] for name in node.input if name in owners), None)
        if owner is None and not constant.issuperset(node.input):
            continue
        if constant.issuperset(filter(None, node.input)):
            constant.update(node.output)
            owners.update(dict.fromkeys(node.output, owner) if owner is not None else {})
        elif owner is not None and node.op_type in PRODUCTS:
            found[owner].append(node)
    return dict(found)


def kernels_of(content: bytes, layers: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the operators in which onnxruntime, with its default options, runs the products of each layer.

    Args:
        content: A serialized model that `export_onnx` made.
        layers: Names of its layers.

    Raises:
        MissingPackageError: onnx or onnxruntime is missing.
    """
    onnx = require_onnx()
    model = onnx.ModelProto.FromString(content)
    names: dict[str, str] = {}
    for layer, nodes in layer_nodes(model, layers).items():
        for i, node in enumerate(nodes):
            node.name = f"evoq.{len(names)}.{i}"
            names[node.name] = layer
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(model.SerializeToString(), integer=True, optimized=path)
        optimized = onnx.load(path)
    found: dict[str, list[str]] = defaultdict(list)
    fused = _integer_owners(optimized, set(names.values()))
    for i, node in enumerate(optimized.graph.node):
        # What onnxruntime moves to another memory layout gets another ending.
        known = [names[name] for name in (node.name, node.name.removesuffix("_nchwc")) if name in names]
        known += [fused[i]] if i in fused else []
        if known:
            found[known[0]].append(node.op_type)
    return {layer: tuple(operators) for layer, operators in found.items()}


def _integer_owners(optimized: Any, layers: Iterable[str]) -> dict[int, str]:
    """Return the layer of each integer kernel in a model that onnxruntime runs, by the kernel's position.

    onnxruntime gives some of them other names; their constants keep those of the file.
    """
    parts = {f"{layer}.{part}": layer for layer in layers for part in _PARTS}
    found = {}
    for i, node in enumerate(optimized.graph.node):
        known = [parts[name] for name in node.input if name in parts] if node.op_type in INTEGER_KERNELS else []
        if known:
            found[i] = known[0]
    return found


def integer_nodes(optimized: Path, layers: Iterable[str]) -> dict[str, str]:
    """Return, for the names of integer kernels in a model that onnxruntime wrote, the layers whose products they are.

    Args:
        optimized: The file.
        layers: Names of the layers.
    """
    model = require_onnx().load(optimized)
    return {model.graph.node[i].name: layer for i, layer in _integer_owners(model, layers).items()}


def in_integers(operators: Mapping[str, tuple[str, ...]], layer: str) -> bool:
    """Return whether every product of a layer runs in an integer kernel."""
    found = operators.get(layer, ())
    return bool(found) and INTEGER_KERNELS.issuperset(found)


@cache
def saturates() -> bool:
    """Return whether this processor's kernels of unsigned inputs and signed weights saturate at 8 by 8 bits.

    A product whose pairs of terms are larger than 16 bits hold tells. Processors with int8 dot products add in 32 bits.
    """
    onnx = require_onnx()
    helper, types = onnx.helper, onnx.TensorProto
    terms = 64
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "saturation",
        [helper.make_tensor_value_info("x", types.UINT8, [1, terms])],
        [helper.make_tensor_value_info("y", types.INT32, [1, 16])],
        [helper.make_tensor("w", types.INT8, [terms, 16], np.full(terms * 16, 127, dtype=np.int8).tobytes(), raw=True)],
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=helper.find_min_ir_version_for([opset]))
    session = open_session(model.SerializeToString(), integer=True)
    found = session.run(None, {"x": np.full((1, terms), 255, dtype=np.uint8)})[0]
    return bool((found != 255 * 127 * terms).any())
