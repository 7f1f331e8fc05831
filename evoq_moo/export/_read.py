"""Reading an ONNX file of ours: everything is checked before anything of it is used or run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evoq_moo.errors import FormatError
from evoq_moo.export._forms import Form, form_of
from evoq_moo.export._model import FORMAT_VERSION, PREFIX, SIZES
from evoq_moo.export._packing import FLOAT, bits_of, from_planes
from evoq_moo.export._template import OPSET, require_onnx
from evoq_moo.files import T, Whole, parse_json, read_bytes, reading
from evoq_moo.images import Preprocess
from evoq_moo.quantizer import activation_range, weight_range
from evoq_moo.space import Policy

_DEPTH = 8
"""Of subgraphs in subgraphs; ours have none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxLayer:
    """One quantizable layer as a file holds it.

    Attributes:
        name: The layer's.
        container: Of its weights.
        levels: Int8 weight levels in the weight's shape; None where weights are float.
        scales: Float32 `(channels,)`; None likewise.
        weight: Float32 weights where they are float.
        bias: Float32 `(out,)` or None.
        input_scale: Step of its input; None where the file does not quantize it, or shares another layer's.
        input_zero_point: Level of zero, likewise.
        exact: Whether its product is of integers.
    """

    name: str
    container: str
    levels: npt.NDArray[np.int8] | None
    scales: npt.NDArray[np.float32] | None
    weight: npt.NDArray[np.float32] | None
    bias: npt.NDArray[np.float32] | None
    input_scale: float | None
    input_zero_point: int | None
    exact: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxFile:
    """A file of ours, checked.

    Attributes:
        path: Where it was read.
        content: Its bytes.
        model: The model.
        form: How it is written.
        policy: Its bit-widths.
        layers: Its layers, in policy order.
        sizes: What it should take (bytes), as `evoq_moo.export` noted it.
        fingerprints: Of the float network and of the parameters.
        provenance: Where it comes from.
        preprocess: What makes its input of an image; None where the file does not say.
    """

    path: Path
    content: bytes
    model: Any
    form: Form
    policy: Policy
    layers: tuple[OnnxLayer, ...]
    sizes: dict[str, int]
    fingerprints: dict[str, str]
    provenance: dict[str, Any]
    preprocess: Preprocess | None


def read_onnx(path: str | Path) -> OnnxFile:
    """Read an ONNX file that `export_onnx` wrote.

    Nothing is run, and no other file is opened: external data, functions, and operators outside standard ONNX are
    refused.

    Raises:
        MissingFileError: No such file.
        MissingPackageError: onnx is missing.
        FormatError: The file is damaged, not of ours, or holds what ours never hold; the message says what.
    """
    onnx = require_onnx()
    path = Path(path)
    content = read_bytes(path)
    # protobuf raises a class of its own, different in each of its versions
    with reading(f"{path}: not an ONNX file, or cut short", catch=(Exception,)):
        model = onnx.ModelProto.FromString(content)
    with reading(str(path), catch=(KeyError, TypeError, ValueError, AttributeError, OverflowError)):
        _check_model(onnx, model)
        return _read(onnx, path, content, model)


def _check_model(onnx: Any, model: Any) -> None:
    imports = [(found.domain, found.version) for found in model.opset_import]
    newest = onnx.defs.onnx_opset_version()
    if len(imports) != 1 or imports[0][0] or not OPSET <= imports[0][1] <= newest:
        raise FormatError(f"given operator sets {imports}; allowed: standard ONNX, {OPSET}..{newest}")
    if len(model.functions) or len(model.training_info):
        raise FormatError("holds functions or training graphs; ours hold none")
    for tensor in _tensors(model.graph, 0):
        if tensor.data_location != onnx.TensorProto.DEFAULT or len(tensor.external_data):
            names = [entry.value for entry in tensor.external_data if entry.key == "location"]
            raise FormatError(f"tensor {tensor.name!r} is kept in another file ({names}); allowed: data in the file")
    domains = {node.domain for node in _nodes(model.graph, 0)} - {""}
    if domains:
        raise FormatError(f"uses operators of {sorted(domains)}; allowed: standard ONNX")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise FormatError(f"onnx.checker refuses it: {str(error).strip().splitlines()[0]}") from error


def _nodes(graph: Any, depth: int) -> Iterator[Any]:
    if depth > _DEPTH:
        raise FormatError(f"graphs nest deeper than {_DEPTH}")
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _nodes(inner, depth + 1)


def _tensors(graph: Any, depth: int) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in _nodes(graph, depth):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in [
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
                *attribute.sparse_tensors,
            ]:
                yield from (sparse.values, sparse.indices)
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from inner.initializer


def _read(onnx: Any, path: Path, content: bytes, model: Any) -> OnnxFile:
    notes = {entry.key: entry.value for entry in model.metadata_props}
    version = notes.get(f"{PREFIX}format")
    if version != FORMAT_VERSION:
        raise FormatError(f"given {PREFIX}format {version!r} in its metadata; allowed: {FORMAT_VERSION!r}")

    def note(name: str, kind: type[T]) -> T:
        if PREFIX + name not in notes:
            raise FormatError(f"has no metadata {name!r}")
        with reading(f"metadata {name!r}"):
            return parse_json(notes[PREFIX + name], kind)

    policy = note("policy", Policy)
    containers = note("containers", list[str])
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def array(name: str) -> npt.NDArray[Any] | None:
        return onnx.numpy_helper.to_array(tensors[name]) if name in tensors else None

    exact = note("exact", list[bool])
    form = form_of(str(notes[f"{PREFIX}form"]))
    shifts = note("shifts", list[Whole]) if form.integer else [0] * len(exact)
    layers = tuple(
        _layer(name, container, bits, array, exact=one, shift=shift)
        for name, container, bits, one, shift in zip(
            policy.layers, containers, policy.to_array().tolist(), exact, shifts, strict=True
        )
    )
    _check_scales(onnx, model, tensors)
    return OnnxFile(
        path=path,
        content=content,
        form=form,
        model=model,
        policy=policy,
        layers=layers,
        sizes=_sizes(note("sizes", dict[str, Whole])),
        fingerprints=note("fingerprints", dict[str, str]),
        provenance=note("provenance", dict[str, Any]),
        preprocess=Preprocess.from_json(note("preprocess", dict[str, Any])) if f"{PREFIX}preprocess" in notes else None,
    )


def _sizes(given: dict[str, int]) -> dict[str, int]:
    if set(given) != set(SIZES):
        raise FormatError(f"metadata 'sizes' holds {given}; allowed: numbers of bytes under {list(SIZES)}")
    return given


def _layer(name: str, container: str, bits: list[int], array: Any, *, exact: bool, shift: int) -> OnnxLayer:
    weight_bits, activation_bits = bits
    width = bits_of(container)
    levels = weight = scales = None
    if container == FLOAT:
        weight = _float32(array(f"{name}.weight"), f"layer {name!r}: weights")
    else:
        if weight_bits > width:
            raise FormatError(f"layer {name!r}: {weight_bits}-bit weights in container {container}")
        scales = _float32(array(f"{name}.weight_scales"), f"layer {name!r}: weight scales")
        levels = _levels(name, container, array, shift)
        lowest, highest = weight_range(weight_bits)
        if levels.size and not lowest <= int(levels.min()) <= int(levels.max()) <= highest:
            raise FormatError(
                f"layer {name!r}: weight levels {levels.min()}..{levels.max()}; allowed with {weight_bits} bits: "
                f"{lowest}..{highest}"
            )
        _check_positive(f"layer {name!r}: weight scales", scales)
    scale, zero = array(f"{name}.input_scale"), array(f"{name}.input_zero_point")
    if (scale is None) != (zero is None):
        raise FormatError(f"layer {name!r}: has one of input scale and zero point; allowed: both or neither")
    if zero is not None:
        lowest, highest = activation_range(activation_bits)
        if zero.size != 1 or scale.size != 1 or not lowest <= int(zero.astype(np.int64).reshape(())) <= highest:
            raise FormatError(f"layer {name!r}: input zero point {zero}; allowed: {lowest}..{highest}")
        _check_positive(f"layer {name!r}: input scale", scale)
    bias = array(f"{name}.bias")
    if bias is None and (steps := array(f"{name}.bias_levels")) is not None:
        bias = _bias(name, steps, scales, scale, array(f"{name}.bias_scales"))
    return OnnxLayer(
        name=name,
        container=container,
        levels=levels,
        scales=None if scales is None else scales * np.float32(2**shift),
        weight=weight,
        bias=None if bias is None else _float32(bias, f"layer {name!r}: bias").reshape(-1),
        input_scale=None if scale is None else float(scale.reshape(())),
        input_zero_point=None if zero is None else int(zero.astype(np.int64).reshape(())),
        exact=exact,
    )


def _bias(
    name: str,
    levels: npt.NDArray[Any],
    weight_scales: npt.NDArray[np.float32] | None,
    input_scale: npt.NDArray[np.float32] | None,
    steps: npt.NDArray[np.float32] | None,
) -> npt.NDArray[np.float32]:
    """Return a bias of int32 levels: their steps are the products of both scales, in the file or computed by it."""
    if weight_scales is None or input_scale is None or levels.dtype != np.int32 or levels.shape != weight_scales.shape:
        raise FormatError(f"layer {name!r}: bias levels {levels.dtype} {levels.shape}; allowed: int32, one a channel")
    if steps is None:
        steps = weight_scales * np.float32(input_scale)
    _check_positive(f"layer {name!r}: bias scales", steps)
    return np.asarray(levels * steps.astype(np.float64), dtype=np.float32)


def _levels(name: str, container: str, array: Any, shift: int) -> npt.NDArray[np.int8]:
    stored = array(f"{name}.weight_levels")
    if stored is None:
        raise FormatError(f"layer {name!r}: has no weight levels")
    if container == "uint8":
        return np.asarray((stored.astype(np.int16) - 128).astype(np.int8))
    if not container.startswith("bits"):
        levels = np.asarray(stored.astype(np.int8))
        if container != "int8" or not shift:
            return levels
        if shift >= 8 or (levels & np.int8(2**shift - 1)).any():
            raise FormatError(f"layer {name!r}: weight levels that are not shifted left by {shift} bits")
        return levels >> np.int8(shift)
    bits = bits_of(container)
    if stored.dtype != np.uint8 or stored.ndim != 3 or stored.shape[0] != bits or stored.shape[2] != 1:
        raise FormatError(f"layer {name!r}: bit planes of shape {stored.shape}; allowed: uint8 ({bits}, bytes, 1)")
    return from_planes(stored[:, :, 0], 8 * stored.shape[1])


def _float32(found: npt.NDArray[Any] | None, what: str) -> npt.NDArray[np.float32]:
    if found is None or found.dtype != np.float32 or not np.isfinite(found).all():
        raise FormatError(f"{what} are missing, not float32, or hold NaN or infinity")
    return found


def _check_scales(onnx: Any, model: Any, tensors: dict[str, Any]) -> None:
    """Raise unless every scale is a positive number kept in the file, or the product of two such."""
    products = {node.output[0]: list(node.input) for node in model.graph.node if node.op_type == "Mul"}
    for node in _nodes(model.graph, 0):
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        scale = node.input[1] if len(node.input) > 1 else ""
        names = products.get(scale, [scale])
        if any(name not in tensors for name in names):
            raise FormatError(f"a {node.op_type} computes its scale; allowed: scales in the file, products of two")
        for name in names:
            _check_positive(f"scale {name!r}", onnx.numpy_helper.to_array(tensors[name]))


def _check_positive(what: str, scales: npt.NDArray[Any]) -> None:
    if scales.dtype != np.float32 or not (np.isfinite(scales) & (scales > 0)).all():
        raise FormatError(f"{what} holds what is not a positive number")
