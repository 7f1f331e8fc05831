"""What a shipped file is compared with: the float network as ONNX, and onnxruntime's own static quantization of it."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from evoq_moo.errors import MissingPackageError
from evoq_moo.export._forms import FORMS, INT8
from evoq_moo.export._job import Choice
from evoq_moo.export._model import make_model
from evoq_moo.export._session import input_arrays
from evoq_moo.export._shipment import Shipment
from evoq_moo.export._target import DEFAULT_TARGET, TARGETS
from evoq_moo.export._template import OPSET, Template, make_template, require_onnx
from evoq_moo.graph import Samples, count, rows
from evoq_moo.quantizer import LayerParameters

FLOAT = 32


def float_model(shipment: Shipment, sample: Samples, template: Template | None = None) -> bytes:
    """Return the float network of a shipment as a serialized ONNX model.

    Args:
        shipment: The network; its policy does not matter.
        sample: Samples.
        template: Its marked graph, where there is one.
    """
    layers = tuple(
        LayerParameters(
            name=p.name,
            kind=p.kind,
            weight_bits=FLOAT,
            activation_bits=FLOAT,
            weight=layer.weight.detach(),
            weight_levels=None,
            weight_scales=None,
            bias=_bias(p.bias, None if layer.bias is None else layer.bias.detach()),
            activation_scale=None,
            activation_zero_point=None,
        )
        for p, layer in zip(shipment.layers, shipment.products, strict=True)
    )
    own = replace(shipment, layers=layers, results=(), outputs=() if template is None else shipment.outputs)
    choice = Choice(shipment=own, target=TARGETS[DEFAULT_TARGET], packed=True, two_bit_types=False)
    model, _ = make_model(template or make_template(own, sample), choice, FORMS[INT8], opset=OPSET)
    content: bytes = model.SerializeToString()
    return content


def _bias(quantized: torch.Tensor | None, own: torch.Tensor | None) -> torch.Tensor | None:
    """Return a layer's float bias: zeros where calibration gave it one."""
    return own if own is not None or quantized is None else torch.zeros_like(quantized)


def static_model(model: bytes, samples: Samples) -> bytes:
    """Return onnxruntime's static quantization of a float model: per channel, min and max of the samples.

    Args:
        model: The serialized float model.
        samples: What its ranges are found on, one at a time.

    Raises:
        MissingPackageError: onnxruntime is missing.
    """
    require_onnx()
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise MissingPackageError("static quantization needs onnxruntime: pip install 'onnxruntime>=1.22'") from error

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc] # the package is untyped
        def __init__(self) -> None:
            self.rest = _one_by_one(model, samples)

        def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
            return next(self.rest, None)

    with tempfile.TemporaryDirectory() as folder:
        given, prepared, made = (Path(folder) / f"{name}.onnx" for name in ("float", "prepared", "static"))
        given.write_bytes(model)
        quantization.quant_pre_process(str(given), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(made),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
        )
        return made.read_bytes()


def _one_by_one(model: bytes, samples: Samples) -> Iterator[dict[str, npt.NDArray[Any]]]:
    names: Sequence[str] = [value.name for value in require_onnx().ModelProto.FromString(model).graph.input]
    for i in range(count(samples)):
        yield input_arrays(names, rows(samples, slice(i, i + 1)))
