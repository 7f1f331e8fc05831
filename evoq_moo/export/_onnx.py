"""`export_onnx`: a network under its policy as an ONNX file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from evoq_moo.errors import ArgumentError, check_memory
from evoq_moo.export._exact import EXACT, check_form
from evoq_moo.export._lower import TWO_BIT_OPSET, containers_of, lower, sizes_of
from evoq_moo.export._shipment import shipment_of
from evoq_moo.export._template import OPSET, Template, make_template, require_onnx
from evoq_moo.files import write_atomically


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """What was written.

    Attributes:
        path: The file.
        size: Of the file (bytes).
        predicted: The size objective and its overhead, and what is kept in float beside them (bytes).
        stored: The same with the weights in the containers they are stored in (bytes).
        containers: Of each layer's weights, in policy order.
        opset: Of the file.
    """

    path: Path
    size: int
    predicted: int
    stored: int
    containers: tuple[str, ...]
    opset: int

    def __str__(self) -> str:
        wide = self.stored - self.predicted
        note = f", of which {wide / 1024:.1f} KiB because containers are wider than the weights' bits" if wide else ""
        return (
            f"{self.path}: {self.size / 1024:.1f} KiB; predicted {self.predicted / 1024:.1f} KiB "
            f"({100 * (self.size / self.predicted - 1):+.1f} %){note}"
        )


def export_onnx(
    network: nn.Module,
    path: str | Path,
    *,
    sample: Tensor | Sequence[int] | None = None,
    form: str = EXACT,
    packed: bool = True,
    opset: int | None = None,
    template: Template | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> ExportedFile:
    """Write a network under its policy as ONNX, for any number of samples at once.

    Each layer's weights are integers at the layer's own bits behind a DequantizeLinear, its input passes a
    QuantizeLinear and a DequantizeLinear, and everything between layers is float32, as in our arithmetic.

    In the exact form the two give integers, the product of integers comes next and then the scales: float32 adds
    such integers without rounding, so every runtime gets the same bits, those of :func:`exact_network`. In the form
    ``"qdq"``, which tools that look for the usual pattern know, scales come before the product. Two things differ
    there from torch: ONNX divides by the scale where we multiply by its float32 reciprocal, and every runtime sums in
    its own order. Either moves a value across the border between two levels now and then, by one level, and that grows
    on the way to the outputs.

    Args:
        network: A `CalibratedNetwork`, or what `QuantizedNetwork.apply` gives.
        path: The file.
        sample: Samples `(n, ...)` or the shape of one; None for what the network's preprocessing says.
        form: ``"exact"`` or ``"qdq"``. A layer with a float side, or that changes its weights before it multiplies, is
            written as in ``"qdq"`` in either.
        packed: Store weights of 3, 5, 6 and 7 bits as bit planes that a few nodes put together when the file is loaded
            (onnxruntime: once), so that the file has the size the search counted. False stores them in the next wider
            type, which every reader of QuantizeLinear models knows: int4 for 3 bits, int8 for 5 to 7.
        opset: 21, or 25 for ONNX's 2-bit types; None for 25 where a layer has 2 bits and the installed onnx and
            onnxruntime run them. Without the types, 2-bit weights are bit planes or int4, 2-bit inputs uint4.
        template: From :func:`make_template`, to export many policies of one network; `sample` is then not needed.
        provenance: Plain JSON data for the file's metadata.

    Returns:
        Path and sizes.

    Raises:
        ArgumentError: An argument is not allowed.
        MissingPackageError: onnx or onnxscript is missing.
        NetworkError: The network can't be exported.
    """
    require_onnx()
    check_form(form)
    if not isinstance(packed, bool):
        raise ArgumentError(f"packed: given {packed!r}; allowed: True or False")
    shipment = shipment_of(network, provenance=provenance)
    if template is None:
        template = make_template(shipment, sample)
    if opset is None:
        two = any(2 in pair for pair in shipment.policy.to_array().tolist())
        opset = TWO_BIT_OPSET if two and runs_two_bit_types() else OPSET
    content = lower(shipment, template, form=form, packed=packed, opset=opset).SerializeToString()
    write_atomically(path, content)
    containers = containers_of(shipment, packed=packed, opset=opset)
    sizes = sizes_of(shipment, containers)
    beside = sizes["overhead"] + sizes["float_rest"]
    return ExportedFile(
        path=Path(path),
        size=len(content),
        predicted=sizes["weights"] + beside,
        stored=sizes["stored_weights"] + beside,
        containers=containers,
        opset=opset,
    )


@cache
def runs_two_bit_types() -> bool:
    """Return whether the installed onnx and onnxruntime have ONNX's 2-bit types; a tiny model proves it."""
    onnx = require_onnx()
    if onnx.defs.onnx_opset_version() < TWO_BIT_OPSET or not hasattr(onnx.TensorProto, "UINT2"):
        return False
    helper, types = onnx.helper, onnx.TensorProto
    try:
        from evoq_moo.export._session import open_session

        graph = helper.make_graph(
            [
                helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
                helper.make_node("DequantizeLinear", ["w", "s"], ["v"]),
                helper.make_node("Add", ["y", "v"], ["sum"]),
            ],
            "two-bits",
            [helper.make_tensor_value_info("x", types.FLOAT, [5])],
            [helper.make_tensor_value_info("sum", types.FLOAT, [5])],
            [
                helper.make_tensor("s", types.FLOAT, [], [0.5]),
                helper.make_tensor("z", types.UINT2, [], [1]),
                helper.make_tensor("w", types.INT2, [5], [-2, -1, 0, 1, -2]),
            ],
        )
        identity = helper.make_opsetid("", TWO_BIT_OPSET)
        model = helper.make_model(
            graph, opset_imports=[identity], ir_version=helper.find_min_ir_version_for([identity])
        )
        session = open_session(model.SerializeToString())
        found = session.run(None, {"x": np.array([-3, -0.5, 0, 0.5, 3], dtype=np.float32)})[0]
    except Exception as error:  # an onnxruntime without the types says so in many ways
        check_memory(error)
        return False
    return bool((found == np.array([-1.5, -1, 0, 1, 0], dtype=np.float32)).all())
