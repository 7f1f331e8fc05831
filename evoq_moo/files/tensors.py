"""Tensors of files: strided, real, and not larger than the file."""

from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch

from evoq_moo.files.schema import FREE

_REAL = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)


def read_tensors(data: bytes) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file; within `evoq_moo.files.reading`.

    Raises:
        ValueError: Damaged, or a tensor is not strided and real.
    """
    try:
        tensors: dict[str, torch.Tensor] = safetensors.torch.load(data)
    except MemoryError:
        raise
    except Exception as error:  # SafetensorError, or what torch says of a dtype or a shape
        raise ValueError(f"not a safetensors file: {error}") from error
    check_tensors(tensors, len(data))
    return tensors


def check_tensors(tensors: Mapping[Any, Any], size: int) -> None:
    """Raise unless tensors are strided, real, in memory, and together not larger than what a file can hold.

    Args:
        tensors: By name.
        size: Of their file (bytes).

    Raises:
        ValueError: Names the tensor.
    """
    left = FREE + 2 * size  # tied weights are written once and count twice
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{name!r} is a {type(tensor).__name__}; allowed: tensors by name")
        strided = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
        if not strided or tensor.dtype not in _REAL:
            kind = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
            raise ValueError(
                f"{name!r} is a tensor of {tensor.dtype}, {kind}, on {tensor.device.type}; allowed: real numbers, "
                "strided, with their data"
            )
        left -= tensor.numel() * tensor.element_size()
        if left < 0 or tensor.untyped_storage().nbytes() > size:
            raise ValueError(f"{name!r} of shape {tuple(tensor.shape)} expands beyond the {size} bytes of the file")
