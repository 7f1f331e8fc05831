"""Levels of every layer's input, in an ONNX file and in the network it was made from: where the two part, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from evoq_moo._compute import MICRO_BATCH
from evoq_moo.errors import ArgumentError
from evoq_moo.export._read import OnnxFile
from evoq_moo.export._session import open_session, run_session
from evoq_moo.export._template import require_onnx
from evoq_moo.graph import Samples, observed, run, split
from evoq_moo.quantizer import LayerParameters, centered_levels

_Values = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class LevelReport:
    """Levels of inputs on some images.

    Attributes:
        values: How many were compared.
        equal: Share that are equal, 0..1.
        largest: The largest distance (levels).
        first: The first layer in which some differ; None if none do.
    """

    values: int
    equal: float
    largest: int
    first: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Parted:
    """An image that file and network classify differently, in the batch in which they did.

    Attributes:
        image: Its position among all images.
        batch: The float32 batch `(n, ...)`.
        row: Its position in the batch.
        expected: The network's choice.
        found: The file's choice.
        margin: How far the network's logits of the two choices are apart.
    """

    image: int
    batch: Samples
    row: int
    expected: int
    found: int
    margin: float


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """An image that the two classify differently.

    Attributes:
        image: Its position.
        expected: The network's choice.
        found: The file's choice.
        margin: How far the network's logits of the two choices are apart.
        first_layer: The first layer whose input levels differ; None if only the logits do.
        different: How many of its input levels differ.
        border: How far, at most, those inputs are from the border between their two levels (levels, 0 on the border).
    """

    image: int
    expected: int
    found: int
    margin: float
    first_layer: str | None
    different: int
    border: float

    def __str__(self) -> str:
        where = (
            f"{self.different} input levels of {self.first_layer} part first, all within {self.border:.2g} levels "
            "of the border between two levels"
            if self.first_layer is not None
            else "all input levels are equal: a tie of logits, summed in another order"
        )
        return f"image {self.image}: {self.expected} and {self.found}, {self.margin:.3g} apart; {where}"


def compare_levels(
    found: OnnxFile, against: nn.Module, layers: Sequence[LayerParameters], images: Samples
) -> LevelReport:
    """Return how many input levels of every layer are equal on some images.

    Args:
        found: The file.
        against: The network.
        layers: Its layers.
        images: Float32 `(n, ...)`.
    """
    values = same = largest = 0
    first: str | None = None
    session, names = _session_of_inputs(found, layers)
    exact = {layer.name for layer in found.layers if layer.exact}
    # Sums of float32 depend on the size of a batch, so whatever is compared is computed in the same batches.
    for batch in split(images, MICRO_BATCH):
        there, here = _inputs_of_file(session, names, batch), _inputs_of_network(against, layers, batch)
        for p in layers:
            if p.name not in names:
                continue
            distance = np.abs(
                _levels_of_values(there[p.name], p, p.name in exact) - _levels(here[p.name][: len(there[p.name])], p)
            )
            distance[np.isnan(distance)] = 2**p.activation_bits  # NaN has no level: further than any other
            values += distance.size
            same += int((distance == 0).sum())
            if distance.size and int(distance.max()) > 0:
                largest = max(largest, int(distance.max()))
                first = first or p.name
    return LevelReport(values=values, equal=same / values if values else 1.0, largest=largest, first=first)


def explain(
    found: OnnxFile,
    against: nn.Module,
    layers: Sequence[LayerParameters],
    parted: Sequence[Parted],
) -> tuple[Disagreement, ...]:
    """Return where file and network part on images that they classify differently.

    Args:
        found: The file.
        against: The network.
        layers: Its layers.
        parted: The images, each in the batch in which the two were compared.
    """
    if not parted:
        return ()
    session, names = _session_of_inputs(found, layers)
    exact = {layer.name for layer in found.layers if layer.exact}
    results = []
    for one in parted:
        there, here = _inputs_of_file(session, names, one.batch), _inputs_of_network(against, layers, one.batch)
        first, different, border = None, 0, 0.0
        for p in layers:
            if p.name not in names:
                continue
            x = here[p.name][one.row]
            unequal = _levels_of_values(there[p.name][one.row], p, p.name in exact) != _levels(x, p)
            if unequal.any():
                scaled = x[unequal].astype(np.float64) / np.float32(p.activation_scale)
                first, different = p.name, int(unequal.sum())
                border = float(np.abs(np.abs(scaled - np.floor(scaled)) - 0.5).max())
                break
        results.append(
            Disagreement(
                image=one.image,
                expected=one.expected,
                found=one.found,
                margin=one.margin,
                first_layer=first,
                different=different,
                border=border,
            )
        )
    return tuple(results)


def _session_of_inputs(found: OnnxFile, layers: Sequence[LayerParameters]) -> tuple[Any, set[str]]:
    """Return a session of the file with its layers' quantized inputs as outputs, and the names of those layers.

    A layer that shares another's quantized input is not among them.
    """
    onnx = require_onnx()
    model = onnx.ModelProto.FromString(found.content)
    made = {name for node in model.graph.node for name in node.output}
    names = {p.name for p in layers if p.quantized_activation and f"{p.name}.input" in made}
    for p in layers:
        if p.name in names:
            value = onnx.helper.make_tensor_value_info(f"{p.name}.input", onnx.TensorProto.FLOAT, None)
            model.graph.output.append(value)
    return open_session(model.SerializeToString()), names


def _inputs_of_file(session: Any, names: set[str], batch: Samples) -> _Values:
    wanted = [f"{name}.input" for name in names]
    found = run_session(session, batch, wanted) if wanted else []
    return dict(zip(names, found, strict=True))


def _inputs_of_network(network: nn.Module, layers: Sequence[LayerParameters], batch: Samples) -> _Values:
    """Return the float input of each layer's first call, before it is quantized."""
    kept: _Values = {}

    def keep(name: str, x: Tensor) -> None:
        kept.setdefault(name, x.detach().cpu().numpy().copy())

    inner: Any = network.network
    with observed(inner, [p.name for p in layers], keep), torch.no_grad():
        run(network, batch)
    return kept


def _levels(x: npt.NDArray[np.float32], p: LayerParameters) -> npt.NDArray[np.float32]:
    """Return the levels of float inputs, as the arithmetic says; NaN where those are NaN."""
    if p.activation_scale is None or p.activation_zero_point is None:
        raise ArgumentError(f"layer {p.name!r}: given an input that is not quantized; allowed: quantized ones")
    levels = centered_levels(torch.from_numpy(x), p.activation_scale, p.activation_zero_point, p.activation_bits)
    return np.asarray(levels.add_(p.activation_zero_point).numpy())


def _levels_of_values(x: npt.NDArray[np.float32], p: LayerParameters, exact: bool) -> npt.NDArray[np.float32]:
    """Return the levels of values that were quantized and dequantized, to integers in the exact form."""
    step = np.float32(1) if exact or p.activation_scale is None else np.float32(p.activation_scale)
    return np.asarray(np.rint(x / step) + np.float32(p.activation_zero_point or 0))
