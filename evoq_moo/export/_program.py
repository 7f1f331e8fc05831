"""`export_program`: a network under its policy as a torch.export program, which needs no class of ours to run."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from evoq_moo.errors import ArgumentError, NetworkError, check_memory
from evoq_moo.export._exact import exact_network
from evoq_moo.export._shipment import check_network, sample_for, shipment_of
from evoq_moo.export._template import batch_shapes
from evoq_moo.files import write_atomically
from evoq_moo.graph import Samples, arguments, leaves, quiet


def export_program(network: nn.Module, path: str | Path, *, sample: Samples | Sequence[int] | None = None) -> int:
    """Write a network under its policy as a torch.export program (`.pt2`), for any number of samples at once.

    Weights are int8 levels in the file, whatever their bits; the program computes products of integers,
    held in float32, as an ONNX file of the exact form does.
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
    whole = exact_network(shipment, tuple(arguments(x)[1]))
    try:
        with quiet(), torch.no_grad():
            shapes = batch_shapes(x) if shipment.graph.graph.any_size else None
            program = torch.export.export(whole, leaves(x), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch.export fails in many ways on code it can't follow
        check_memory(error)
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
