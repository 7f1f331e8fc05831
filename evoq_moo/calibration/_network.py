"""`CalibratedNetwork`: a network that computes with calibrated parameters, and its files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import torch
from msgspec import Meta, Struct, defstruct
from msgspec.structs import asdict as row_dict
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from evoq_moo.calibration._outputs import OutputMap
from evoq_moo.calibration._report import CalibrationReport
from evoq_moo.difference import map_tensors
from evoq_moo.errors import ArgumentError, FormatError
from evoq_moo.files import read_bytes, read_json, read_tensors, reading, write_atomically
from evoq_moo.graph import RESULT_BITS, GraphNetwork, digest, kind_of, network_fingerprint, weight_of
from evoq_moo.network import QuantizedNetwork
from evoq_moo.quantizer import LayerParameters, ResultParameters, activation_range, quantized_copy, weight_range
from evoq_moo.space import ALLOWED_BITS, Policy

CALIBRATED_FORMAT = "evoq-moo/calibrated"
CALIBRATED_VERSION = 3
_TENSORS = ("weight", "weight_levels", "weight_scales", "bias")


class CalibratedNetwork(nn.Module):
    """A network that computes with one policy and calibrated parameters: what :func:`calibrate` returns.

    Attributes:
        network: The network, its layers quantized.
        layers: The parameters of each quantized layer, in policy order: integer levels, scales, zero points, biases.
        results: How results between layers are quantized, in execution order.
        outputs: For each head, the affine map behind the network.
        policy: Its bit-widths.
        report: What each step did.
        reference: The float network; not a submodule, so not in `parameters()` or `state_dict()`.
        preprocess: The float network's attribute of that name, if it has one.
    """

    reference: nn.Module

    def __init__(
        self,
        *,
        reference: nn.Module,
        layers: Sequence[LayerParameters],
        results: Sequence[ResultParameters],
        outputs: Sequence[OutputMap],
        report: CalibrationReport,
    ) -> None:
        super().__init__()
        self.__dict__["reference"] = reference
        self.layers = tuple(layers)
        self.results = tuple(results)
        self.outputs = tuple(outputs)
        self.report = report
        self.policy = Policy(
            tuple(p.name for p in self.layers),
            tuple(p.weight_bits for p in self.layers),
            tuple(p.activation_bits for p in self.layers),
        )
        self.network = quantized_copy(reference, self.layers, self.results)
        self.preprocess: Any = getattr(reference, "preprocess", None)
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the calibrated network; its output nests as the float network's does."""
        result = self.network(*args, **kwargs)
        if all(m.is_identity for m in self.outputs):
            return result
        maps = iter(self.outputs)
        return map_heads(result, maps)

    def save(self, folder: str | Path) -> None:
        """Write `calibrated.safetensors` and `calibrated.json` into a folder.

        Each file is replaced whole or not at all. The JSON file is written last and holds the digest of the tensors,
        so a pair of which only one was written is an error to load, never a mixture.

        Args:
            folder: The folder; made if needed.
        """
        folder = Path(folder)
        tensors: dict[str, Tensor] = {}
        rows: list[dict[str, Any]] = []
        for i, p in enumerate(self.layers):
            rows.append({f.name: getattr(p, f.name) for f in fields(p) if f.name not in _TENSORS})
            tensors |= {f"{i}.{key}": t.contiguous() for key in _TENSORS if (t := getattr(p, key)) is not None}
        for i, m in enumerate(self.outputs):
            tensors |= {f"output.{i}.scale": m.scale, f"output.{i}.shift": m.shift}
        data = save_tensors({key: t.detach().cpu() for key, t in tensors.items()})
        text = {
            "format": CALIBRATED_FORMAT,
            "version": CALIBRATED_VERSION,
            "network": network_fingerprint(self.reference),
            "tensors": digest(data),
            "layers": rows,
            "results": [asdict(p) for p in self.results],
            "output_axes": [m.axis for m in self.outputs],
            "report": self.report.to_json(),
        }
        write_atomically(folder / "calibrated.safetensors", data)
        write_atomically(folder / "calibrated.json", (json.dumps(text, indent=1) + "\n").encode())

    @classmethod
    def load(cls, folder: str | Path, network: QuantizedNetwork | nn.Module) -> "CalibratedNetwork":
        """Read what :meth:`save` wrote.

        Args:
            folder: The folder.
            network: The network that was calibrated: the `QuantizedNetwork`, or its folded float network.

        Raises:
            MissingFileError: A file isn't there.
            FormatError: A file is damaged, of another version, or not of the same save.
            ArgumentError: The network is another one.
        """
        folder = Path(folder)
        reference = network.network if isinstance(network, QuantizedNetwork) else network
        if not isinstance(reference, nn.Module):
            raise ArgumentError(f"network: given {type(network).__name__}; allowed: a QuantizedNetwork or its network")
        text = read_json(
            folder / "calibrated.json", _CalibratedData, format_name=CALIBRATED_FORMAT, version=CALIBRATED_VERSION
        )
        path = folder / "calibrated.safetensors"
        data = read_bytes(path)
        if digest(data) != text.tensors:
            raise FormatError(
                f"{path}: is not what {folder / 'calibrated.json'} was written with (damaged, or of another save)"
            )
        if network_fingerprint(reference) != text.network:
            raise ArgumentError(f"network: is not the one that {folder} was calibrated from (its weights differ)")
        with reading(f"{folder}: damaged", catch=(ValueError, KeyError)):
            tensors = read_tensors(data)
            layers = [_layer(i, row, tensors) for i, row in enumerate(text.layers)]
            outputs = [
                _output(tensors[f"output.{i}.scale"], tensors[f"output.{i}.shift"], axis)
                for i, axis in enumerate(text.output_axes)
            ]
            _check_fit(layers, reference)
            _check_results(text.results, reference)
        return cls(reference=reference, layers=layers, results=text.results, outputs=outputs, report=text.report)


_types = get_type_hints(LayerParameters)
_Row = defstruct("_Row", [(f.name, _types[f.name]) for f in fields(LayerParameters) if f.name not in _TENSORS])
"""What the JSON file holds of a layer: all but its tensors."""


class _CalibratedData(Struct):
    network: str
    tensors: str
    layers: tuple[_Row, ...]  # type: ignore[valid-type]
    results: tuple[ResultParameters, ...]
    output_axes: tuple[Annotated[int, Meta(ge=-4, le=-1)], ...]
    report: CalibrationReport


def _layer(i: int, row: Struct, tensors: Mapping[str, Tensor]) -> LayerParameters:
    values: dict[str, Any] = {**row_dict(row), **{key: tensors.get(f"{i}.{key}") for key in _TENSORS}}
    held = object.__new__(LayerParameters)  # as it is: making parameters computes with them
    held.__dict__.update(values)
    check_parameters(held)
    return replace(held)


def _output(scale: Tensor, shift: Tensor, axis: int) -> OutputMap:
    if scale.dim() != 1 or scale.shape != shift.shape or not all(_is_finite(t) for t in (scale, shift)):
        raise ValueError(f"an output has a scale {tuple(scale.shape)} and a shift {tuple(shift.shape)} of no use")
    return OutputMap(scale, shift, axis)


def _is_finite(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and bool(tensor.isfinite().all())


def _check_fit(layers: Sequence[LayerParameters], network: nn.Module) -> None:
    """Raise ValueError unless parameters are of different layers of a network, in the shapes that those have."""
    modules = dict(network.named_modules())
    if len({p.name for p in layers}) != len(layers):
        raise ValueError("names a layer twice")
    for p in layers:
        layer = modules.get(p.name)
        if layer is None or not hasattr(layer, "weight") or kind_of(layer) != p.kind:
            raise ValueError(f"layer {p.name!r}, a {p.kind}, is none of the network's")
        weight, bias = weight_of(layer), p.bias
        channels = len(weight)
        for what, found, shape in (
            ("weights", p.weight, weight.shape),
            ("weight levels", p.weight_levels, weight.shape),
            ("weight scales", p.weight_scales, (channels,)),
            ("bias", bias, (channels,)),
        ):
            if found is not None and found.shape != shape:
                raise ValueError(f"layer {p.name!r} has {what} {tuple(found.shape)}; the network's: {tuple(shape)}")


def _check_results(results: Sequence[ResultParameters], network: nn.Module) -> None:
    """Raise ValueError unless results are different ones of a network's, with levels of 8 bits."""
    known = {op.name for op in network.graph.ops} if isinstance(network, GraphNetwork) else set()
    highest = activation_range(RESULT_BITS)[1]
    if len({p.name for p in results}) != len(results):
        raise ValueError("names a result twice")
    for p in results:
        if p.name not in known:
            raise ValueError(f"result {p.name!r} is none of the network's")
        if not (0 < p.scale < float("inf") and 0 <= p.zero_point <= highest):
            raise ValueError(f"result {p.name!r} has a scale or zero point that {RESULT_BITS} bits forbid")


def check_parameters(p: LayerParameters) -> None:
    """Raise unless a layer's levels and scales are within what its bit-widths allow.

    Raises:
        ValueError: Names the layer.
    """
    if not all(type(b) is int and b in ALLOWED_BITS for b in (p.weight_bits, p.activation_bits)):
        bits = f"{p.weight_bits!r} and {p.activation_bits!r}"
        raise ValueError(f"layer {p.name!r} has bits {bits}; allowed: {list(ALLOWED_BITS)}")
    if (p.weight is None) == (p.weight_levels is None) or (p.weight_levels is None) != (p.weight_scales is None):
        raise ValueError(f"layer {p.name!r} must hold either float weights, or levels and scales")
    if not all(_is_finite(t) for t in (p.weight, p.bias, p.weight_scales) if t is not None):
        raise ValueError(f"layer {p.name!r} has weights, scales or a bias that are not finite float32 numbers")
    if p.weight_levels is not None and p.weight_scales is not None:
        lowest, highest = weight_range(p.weight_bits)
        if p.weight_levels.dtype != torch.int8 or not p.weight_levels.numel():
            shape = tuple(p.weight_levels.shape)
            raise ValueError(f"layer {p.name!r} has levels of {p.weight_levels.dtype} and shape {shape}; allowed: int8")
        low, high = (int(v) for v in torch.aminmax(p.weight_levels))
        if low < lowest or high > highest:
            raise ValueError(f"layer {p.name!r} has levels {low}..{high}; {p.weight_bits} bits: {lowest}..{highest}")
        if not (p.weight_scales > 0).all():
            raise ValueError(f"layer {p.name!r} has scales that are not positive numbers")
    weights = p.weight if p.weight is not None else p.weight_levels
    for what, found in (("scales", p.weight_scales), ("a bias", p.bias)):
        if found is not None and weights is not None and found.shape != weights.shape[:1]:
            raise ValueError(f"layer {p.name!r} has {what} {tuple(found.shape)} for weights {tuple(weights.shape)}")
    if (p.activation_scale is None) != (p.activation_zero_point is None):
        raise ValueError(f"layer {p.name!r} must hold both scale and zero point of its input, or neither")
    if p.activation_scale is not None and p.activation_zero_point is not None:
        lowest, highest = activation_range(p.activation_bits)
        if not (0 < p.activation_scale < float("inf") and lowest <= p.activation_zero_point <= highest):
            raise ValueError(f"layer {p.name!r} has an input scale or zero point that {p.activation_bits} bits forbid")


def map_heads(output: Any, maps: Any) -> Any:
    """Return an output of any nesting with each floating-point tensor mapped, in the order of `heads_of`."""
    return map_tensors(output, lambda tensor: next(maps)(tensor) if tensor.is_floating_point() else tensor)
