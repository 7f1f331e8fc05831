"""A float network's graph in ONNX, with marks where its quantizable layers take their input, weight and bias.

Results between layers that some policy quantizes are marked as well. `torch.onnx` (its exporter on `torch.export`)
writes the graph; it knows torch's operators, we only mark the layers. A mark is a node of our own domain, which
:mod:`evoq_moo.export._lower` replaces by what a policy asks for. One template serves every policy of a network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from evoq_moo.difference import skeleton
from evoq_moo.errors import MissingPackageError, NetworkError, check_memory
from evoq_moo.export._shipment import Shipment, check_network, sample_for, shipment_of
from evoq_moo.export._whole import replaced
from evoq_moo.graph import Product, ResultPlaces, Samples, arguments, leaves, quiet, torch_layout, torch_product

DOMAIN = "evoq_moo"
INPUT, WEIGHT, BIAS, RESULT = "LayerInput", "LayerWeight", "LayerBias", "Result"
OPSET = 21
"""The first opset with 4-bit types; the graph around the layers is written in it."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """A marked graph.

    Attributes:
        model: A serialized ONNX model; the values of marked weights and biases are left out.
        layers: Names of the layers that its marks count.
        biases: For each of them, whether its bias is marked.
        results: Names of the results that its other marks count: all that any policy may quantize.
    """

    model: bytes
    layers: tuple[str, ...]
    biases: tuple[bool, ...]
    results: tuple[str, ...]


def require_onnx() -> Any:
    """Return the package `onnx`.

    Raises:
        MissingPackageError: It, or one that the export needs, is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"exporting to ONNX needs the package {error.name}: pip install 'evoq-moo[export]'"
        ) from error
    return onnx


def check_packages() -> None:
    """Raise unless files can be written and run here; to be asked before long work.

    Raises:
        MissingPackageError: A package is not installed.
    """
    require_onnx()
    if find_spec("onnxruntime") is None:
        raise MissingPackageError("running ONNX needs onnxruntime: pip install 'evoq-moo[export]'")


class _MarkedLayer(Product):
    """A layer whose input, weight and bias pass through marks; its weight is marked in torch's own layout."""

    def __init__(self, layer: Product, index: int, bias: Tensor | None) -> None:
        super().__init__(layer.weight, bias, layer.geometry)
        self.index = index
        self.own = nn.Parameter(torch_layout(layer.weight, layer.geometry), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name torch's layers use
        weight = self._mark(WEIGHT, self.own)
        bias = None if self.bias is None else self._mark(BIAS, self.bias)
        x = self._mark(INPUT, input)
        return torch_product(x, weight, bias, self.geometry)

    def _mark(self, kind: str, x: Tensor) -> Tensor:
        return _marked(kind, x, self.index)


class _MarkedResult(nn.Module):
    """What a result passes that some policy may quantize."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        return _marked(RESULT, x, self.index)


def _marked(kind: str, x: Tensor, index: int) -> Tensor:
    marked: Tensor = torch.onnx.ops.symbolic(
        f"{DOMAIN}::{kind}", (x,), {"index": index}, dtype=x.dtype, shape=x.shape, version=1
    )
    return marked


def make_template(network: nn.Module | Shipment, sample: Samples | Sequence[int] | None = None) -> Template:
    """Return a network's marked graph with any number of samples.

    Args:
        network: A `CalibratedNetwork`, or what `QuantizedNetwork.apply` gives; its bit-widths do not matter, its output
            maps do.
        sample: Samples, or the shape of one; None for what the network's preprocessing says.

    Raises:
        ArgumentError: No sample, or of another kind.
        MissingPackageError: A package is missing.
        NetworkError: The network does not run on the sample, or can't be exported.
    """
    require_onnx()
    shipment = network if isinstance(network, Shipment) else shipment_of(network)
    x = sample_for(shipment, sample)
    check_network(shipment, x)
    args, kwargs = arguments(x)
    results = ResultPlaces(shipment.graph.graph, linear=True).names
    whole = replaced(
        shipment,
        lambda layer, i: _MarkedLayer(layer, i, shipment.layers[i].bias),
        {name: _MarkedResult(i) for i, name in enumerate(results)},
        tuple(kwargs),
        flat=True,
    )
    with torch.no_grad():
        names = _output_names(shipment.network(*args, **kwargs))
    any_size = shipment.graph.graph.any_size
    shapes = batch_shapes(x) if any_size else None
    try:
        with quiet(), torch.no_grad():
            exported = torch.export.export(whole, leaves(x), dynamic_shapes=shapes, strict=False)
            program = torch.onnx.export(
                exported,
                dynamo=True,
                input_names=input_names(x),
                output_names=names,
                opset_version=OPSET,
                optimize=True,
                verbose=False,
            )
    except Exception as error:  # the exporter fails in many ways on code it can't follow
        check_memory(error)
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        raise NetworkError(
            f"network: can't be exported: {type(error).__name__}: {lines[0] if lines else 'no reason given'}"
        ) from error
    if program is None:
        raise NetworkError("network: torch.onnx gave no program")
    model = program.model_proto
    samples = model.graph.input[0].type.tensor_type.shape.dim[0]
    if any_size and not samples.dim_param:  # the exporter falls back to a fixed number without an error
        raise NetworkError(
            f"network: its ONNX graph takes {samples.dim_value} samples only, though its own takes any number"
        )
    symbol = samples.dim_param
    for value in (*model.graph.input, *model.graph.output) if symbol else ():
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param == symbol:
                side.dim_param = "batch"
    return Template(
        model=_without_marked_values(model),
        layers=tuple(p.name for p in shipment.layers),
        biases=tuple(p.bias is not None for p in shipment.layers),
        results=results,
    )


def batch_shapes(samples: Samples) -> dict[str, Any]:
    """Return the dynamic shapes of :class:`Whole` on samples, any number of them."""
    batch = {0: torch.export.Dim("batch")}
    return {"inputs": tuple(batch for _ in leaves(samples))}


def input_names(samples: Samples) -> list[str]:
    """Return the names of a file's inputs: ``"input"``, numbers behind it for several, or the keyword arguments'."""
    args, kwargs = arguments(samples)
    positional = ["input"] if len(args) == 1 else [f"input_{i}" for i in range(len(args))]
    return [*positional, *kwargs]


def _output_names(output: Any) -> list[str]:
    if isinstance(output, Tensor):
        return ["output"]
    if isinstance(output, Mapping) and all(isinstance(value, Tensor) for value in output.values()):
        return [str(key) for key in output]
    return [f"output_{i}" for i in range(len(skeleton(output)[0]))]


def _without_marked_values(model: Any) -> bytes:
    """Return a model serialized without what a policy replaces and without what only its maker needs."""
    marked = {n.input[0] for n in model.graph.node if n.domain == DOMAIN and n.op_type in {WEIGHT, BIAS}}
    others = {name for n in model.graph.node if n.domain != DOMAIN for name in n.input}
    kept = [t for t in model.graph.initializer if t.name not in marked or t.name in others]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    del model.graph.value_info[:]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        # Stack traces with the paths of this machine.
        del node.metadata_props[:]
        node.doc_string = ""
        node.name = ""
    for value in [*model.graph.initializer, *model.graph.input, *model.graph.output]:
        value.doc_string = ""
        del value.metadata_props[:]
    content: bytes = model.SerializeToString()
    return content
