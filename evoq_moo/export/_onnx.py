"""`export_onnx`: a network under its policy as an ONNX file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from evoq_moo.errors import ArgumentError, check_count, check_memory
from evoq_moo.export._forms import INT8, form_of
from evoq_moo.export._job import Choice
from evoq_moo.export._model import TWO_BIT_OPSET, check_opset, make_model, sizes_of
from evoq_moo.export._shipment import shipment_of
from evoq_moo.export._target import DEFAULT_TARGET, target_of
from evoq_moo.export._template import OPSET, Template, make_template, require_onnx
from evoq_moo.files import write_atomically
from evoq_moo.graph import RESULT_BITS


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
        reason: Why its containers and products are as they are; empty for the reference forms.
    """

    path: Path
    size: int
    predicted: int
    stored: int
    containers: tuple[str, ...]
    opset: int
    reason: str = ""

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
    form: str = INT8,
    target: str | None = None,
    packed: bool | None = None,
    opset: int | None = None,
    batch: int | None = None,
    template: Template | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> ExportedFile:
    """Write a network under its policy as ONNX, for any number of samples at once.

    In the int8 form runtimes run every layer whose weights and input are quantized in their integer kernels, below 8
    bits too: there the levels are held in 8 bits, so that fewer bits give a smaller file, not a faster one. What such a
    kernel computes is our arithmetic but for the order of a few float32 roundings.

    The others are for reference. In the exact form products of integers come first and then the scales: float32 adds
    such integers without rounding, so every runtime gets the same bits, those of :func:`exact_network`. In the form
    ``"qdq"`` scales come before float products; every runtime sums these in its own order, which moves a value across
    the border between two levels now and then.

    Args:
        network: A `CalibratedNetwork`, or what `QuantizedNetwork.apply` gives.
        path: The file.
        sample: Samples `(n, ...)` or the shape of one; None for what the network's preprocessing says.
        form: ``"int8"``, ``"exact"`` or ``"qdq"``. A layer with a float side, or that changes its weights before it
            multiplies, is written with a float product in each.
        target: The runtime of an int8 file: ``"onnxruntime"`` (default), ``"avx2"``, ``"openvino"`` or ``"portable"``;
            see :data:`evoq_moo.export.TARGETS`.
        packed: Store weights of 3, 5, 6 and 7 bits as bit planes that a few nodes put together when the file is loaded
            (onnxruntime: once), so that the file has the size the search counted. False stores them in the next wider
            type: int4 for 3 bits, int8 for 5 to 7, and in the int8 form int8 for all. None for what the target needs.
        opset: 21, or 25 for ONNX's 2-bit types; None for 21, and in the reference forms 25 where a layer has 2 bits and
            the installed onnx and onnxruntime run them. Without the types, 2-bit weights are bit planes.
        batch: The number of samples the file takes; None for any.
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
    chosen = form_of(form)
    if target is not None and not chosen.integer:
        raise ArgumentError(f"target: given {target!r} with form {form!r}; allowed: only with form {INT8!r}")
    if packed is not None and not isinstance(packed, bool):
        raise ArgumentError(f"packed: given {packed!r}; allowed: True, False or None")
    if batch is not None:
        check_count("batch", batch)
    runtime = target_of(DEFAULT_TARGET if target is None else target)
    shipment = shipment_of(network, provenance=provenance)
    if opset is None:
        two = not chosen.integer and any(2 in pair for pair in shipment.policy.to_array().tolist())
        opset = TWO_BIT_OPSET if two and runs_two_bit_types() else OPSET
    check_opset(opset)
    if template is None:
        template = make_template(shipment, sample)
    choice = Choice(
        shipment=shipment,
        target=runtime,
        packed=(runtime.packed or not chosen.integer) if packed is None else packed,
        two_bit_types=opset >= TWO_BIT_OPSET,
    )
    model, containers = make_model(template, choice, chosen, opset=opset, batch=batch)
    content = model.SerializeToString()
    write_atomically(path, content)
    sizes = sizes_of(shipment, containers)
    beside = sizes["overhead"] + sizes["float_rest"]
    return ExportedFile(
        path=Path(path),
        size=len(content),
        predicted=sizes["weights"] + beside,
        stored=sizes["stored_weights"] + beside,
        containers=containers,
        opset=opset,
        reason=_reason(choice, containers) if chosen.integer else "",
    )


def _reason(choice: Choice, containers: Sequence[str]) -> str:
    """Return why an int8 file is as it is, in words."""
    target = choice.target
    said = f"for {target.name}: {target.why}"
    unsigned = containers.count("uint8")
    if unsigned:
        said += f"; {unsigned} layers of 8 by 8 bits are guarded, and slower: weights of at most 7 bits need no guard"
    elif not target.guarded and any(p.weight_bits == p.activation_bits == RESULT_BITS for p in choice.shipment.layers):
        said += (
            "; layers of 8 by 8 bits saturate on x86 processors without VNNI: for these take target 'avx2', or weights "
            "of at most 7 bits"
        )
    return said


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
