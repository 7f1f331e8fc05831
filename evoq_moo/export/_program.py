"""`export_program`: a network under its policy as a torch.export program, which needs no class of ours to run."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from evoq_moo._files import write_atomically
from evoq_moo.arithmetic import activation_range, per_channel
from evoq_moo.calibration._parameters import LayerParameters
from evoq_moo.engines.reference import WrappedLayer
from evoq_moo.errors import ArgumentError, NetworkError
from evoq_moo.export._shipment import check_network, sample_for, shipment_of
from evoq_moo.export._template import quiet, replaced


class _ProgramLayer(WrappedLayer):
    """A layer that holds int8 levels and computes with them; every operation is one that torch.export knows."""

    levels: Tensor
    scales: Tensor

    def __init__(self, layer: nn.Module, p: LayerParameters) -> None:
        super().__init__(layer)
        self.quantized = p.weight_levels is not None
        if p.weight_levels is not None and p.weight_scales is not None:
            self.register_buffer("levels", p.weight_levels.clone())
            self.register_buffer("scales", per_channel(p.weight_scales, p.weight_levels, p.channel_dim).clone())
            # Its place is taken in forward; the float values must not be in the file.
            layer.weight = nn.Parameter(torch.empty(0), requires_grad=False)
        if p.bias is not None:
            layer.bias = nn.Parameter(p.bias.clone(), requires_grad=False)
        self.scale = p.activation_scale
        self.zero = p.activation_zero_point or 0
        self.highest = activation_range(p.activation_bits)[1]
        if p.activation_scale is not None:
            step = torch.tensor(p.activation_scale, dtype=torch.float32)
            self.scale, self.inverse = step.item(), step.reciprocal().item()

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: A002 - the name torch's layers use
        if self.scale is not None:
            levels = torch.clamp(torch.round(input * self.inverse), -self.zero, self.highest - self.zero)
            input = levels * self.scale  # noqa: A001
        if not self.quantized:
            return self.layer(input, *args, **kwargs)
        return functional_call(self.layer, {"weight": self.levels.float() * self.scales}, (input, *args), kwargs)


def export_program(network: nn.Module, path: str | Path, *, sample: Tensor | Sequence[int] | None = None) -> int:
    """Write a network under its policy as a torch.export program (`.pt2`), for any number of samples at once.

    Weights are int8 levels in the file, whatever their bits; the program computes our arithmetic in float32.
    `torch.export.load(path).module()` gives it back with torch alone. That reads a graph in JSON and raw tensors, but
    torch unpickles what a file says is pickled: load files of strangers in no other way than you would run their code.
    Nothing of evoq-moo ever loads one.

    Args:
        network: A `CalibratedNetwork`, or what `QuantizedNetwork.apply` gives.
        path: The file.
        sample: Samples `(n, ...)` or the shape of one; None for what the network's preprocessing says.

    Returns:
        Size of the file (bytes).

    Raises:
        ArgumentError: An argument is not allowed.
        NetworkError: The network can't be exported.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ArgumentError(f"path: given {str(path)!r}; allowed: a name ending in .pt2")
    shipment = shipment_of(network)
    x = sample_for(shipment, sample)
    check_network(shipment, x)
    whole = replaced(shipment, lambda layer, i: _ProgramLayer(layer, shipment.layers[i]))
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(whole, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)
    except Exception as error:  # torch.export fails in many ways on code it can't follow
        reason = str(error).strip().splitlines()
        raise NetworkError(
            f"network: can't be exported with any number of samples: {type(error).__name__}: "
            f"{reason[0] if reason else 'no reason given'}"
        ) from error
    with tempfile.TemporaryDirectory() as folder, quiet():
        made = os.path.join(folder, "program.pt2")
        torch.export.save(program, made)
        content = Path(made).read_bytes()
    write_atomically(path, content)
    return len(content)
