"""From a marked graph and a policy's parameters to an ONNX model in one of the forms, with notes of what it is."""

import json
from collections.abc import Sequence
from typing import Any

import torch

from evoq_moo.errors import ArgumentError, NetworkError
from evoq_moo.export._build import Build
from evoq_moo.export._forms import Form
from evoq_moo.export._job import Choice, Job
from evoq_moo.export._packing import bits_of
from evoq_moo.export._products import LayerPlan
from evoq_moo.export._shipment import Shipment
from evoq_moo.export._template import OPSET, Template, require_onnx
from evoq_moo.files import package_versions
from evoq_moo.quantizer import arithmetic

FORMAT_VERSION = "2"
PREFIX = "evoq_moo."
"""Of the keys of a model's metadata."""
SIZES = ("weights", "stored_weights", "overhead", "float_rest")
"""What a file takes, by part (:func:`sizes_of`)."""
TWO_BIT_OPSET = 25
"""The first opset with 2-bit types."""
_LARGEST = 2**31 - 2**20
"""What one protobuf message can hold (bytes), with room for the graph."""


def check_opset(opset: int) -> None:
    """Raise unless files can be written in an operator set.

    Raises:
        ArgumentError: They can't.
    """
    onnx = require_onnx()
    if opset not in (OPSET, TWO_BIT_OPSET):
        raise ArgumentError(f"opset: given {opset!r}; allowed: {OPSET}, or {TWO_BIT_OPSET} for 2-bit types")
    if opset > onnx.defs.onnx_opset_version():
        raise ArgumentError(
            f"opset: given {opset}, which onnx {onnx.__version__} lacks; allowed: {OPSET}, or {opset} after "
            "pip install --upgrade onnx"
        )


def make_model(
    template: Template, choice: Choice, form: Form, *, opset: int, batch: int | None = None, named: bool = False
) -> tuple[Any, tuple[str, ...]]:
    """Return the ONNX model of a network under its policy, and the container of each layer's weights.

    Args:
        template: The network's marked graph.
        choice: What is asked for.
        form: How it is written.
        opset: As :func:`check_opset` allows.
        batch: The number of samples it takes; None for any.
        named: Name the nodes of each layer after it, for profilers.

    Raises:
        ArgumentError: The template is of another network, or the network takes another number of samples.
        NetworkError: The graph holds operators outside standard ONNX, or is too large for one file.
    """
    onnx = require_onnx()
    shipment = choice.shipment
    biases = tuple(p.bias is not None for p in shipment.layers)
    known = {p.name for p in shipment.results} <= set(template.results)
    if template.layers != shipment.policy.layers or template.biases != biases or not known:
        raise ArgumentError("template: is of another network")
    model = onnx.ModelProto.FromString(template.model)
    if batch is not None:
        _fix_batch(model, batch)
    build = Build(two_bit_types=choice.two_bit_types, named=named)
    plans = form.plans(choice)
    form.write(Job(choice=choice, model=model, results=template.results, build=build, plans=plans))
    read = {name for node in build.nodes for name in node.input} | {value.name for value in model.graph.output}
    constants = [t for t in (*model.graph.initializer, *build.values.values()) if t.name in read]
    graph = onnx.helper.make_graph(
        list(build.nodes), "evoq-moo", list(model.graph.input), list(model.graph.output), constants
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    made = onnx.helper.make_model(
        graph,
        opset_imports=imports,
        ir_version=int(onnx.helper.find_min_ir_version_for(imports)),
        producer_name="evoq-moo",
        producer_version=package_versions()["evoq-moo"],
    )
    _note(made, choice, plans, form)
    size = made.ByteSize()
    if size > _LARGEST:
        raise NetworkError(f"network: takes {size / 2**30:.1f} GiB, more than one ONNX file holds")
    onnx.checker.check_model(made, full_check=True)
    return made, tuple(plan.container for plan in plans)


def _fix_batch(model: Any, batch: int) -> None:
    """Let a graph take one number of samples."""
    for value in (*model.graph.input, *model.graph.output):
        sides = value.type.tensor_type.shape.dim
        if not sides:
            continue
        if sides[0].dim_value and sides[0].dim_value != batch and value in model.graph.input:
            raise ArgumentError(f"batch: given {batch}; allowed: {sides[0].dim_value}, all that the network takes")
        if sides[0].dim_param:
            sides[0].dim_value = batch


def _note(model: Any, choice: Choice, plans: Sequence[LayerPlan], form: Form) -> None:
    """Write the metadata: policy, containers, sizes, fingerprints, provenance."""
    shipment = choice.shipment
    policy, containers = shipment.policy, [plan.container for plan in plans]
    data: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "arithmetic": str(arithmetic.VERSION),
        "policy": {
            "layers": list(policy.layers),
            "weight_bits": list(policy.weight_bits),
            "activation_bits": list(policy.activation_bits),
        },
        "form": form.name,
        "exact": [plan.exact for plan in plans],
        "containers": containers,
        "fingerprints": {"network": shipment.network_fingerprint(), "parameters": shipment.fingerprint()},
        "provenance": {"evoq_moo": package_versions()["evoq-moo"], "torch": torch.__version__, **shipment.provenance},
    }
    if form.integer:
        data["target"] = choice.target.name
        data["shifts"] = [plan.shift for plan in plans]
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
