"""Samples of any form that a network takes: one tensor, a tuple of tensors, or a mapping of tensors by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evoq_moo.errors import ArgumentError

Samples = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]
"""Tensors of one number of rows each: a tensor is the network's one argument, a tuple holds its positional arguments, a
mapping its keyword arguments."""
_ALLOWED = (
    "allowed: a tensor (samples, ...), a tuple of such tensors (positional arguments) or a mapping of such tensors "
    "(keyword arguments), float32 or integers"
)


def arguments(samples: Samples) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return the positional and keyword arguments that hand samples to a network."""
    if isinstance(samples, Tensor):
        return (samples,), {}
    if isinstance(samples, Mapping):
        return (), dict(samples)
    return tuple(samples), {}


def leaves(samples: Samples) -> tuple[Tensor, ...]:
    """Return the tensors of samples, in order."""
    args, kwargs = arguments(samples)
    return (*args, *kwargs.values())


def count(samples: Samples) -> int:
    """Return the number of samples."""
    return len(leaves(samples)[0])


def map_samples(function: Any, *samples: Samples) -> Samples:
    """Return samples of the same form with a function of their tensors in the place of each."""
    first = samples[0]
    if isinstance(first, Tensor):
        result: Samples = function(*samples)
        return result
    if isinstance(first, Mapping):
        return {key: function(*(s[key] for s in samples)) for key in first}  # type: ignore[index,call-overload]
    return tuple(function(*tensors) for tensors in zip(*samples, strict=True))


def rows(samples: Samples, index: Any) -> Samples:
    """Return some of the samples; `index` is what a tensor's first dimension takes."""
    return map_samples(lambda tensor: tensor[index], samples)


def split(samples: Samples, size: int) -> tuple[Samples, ...]:
    """Return samples in micro-batches of at most `size`."""
    return tuple(rows(samples, slice(i, i + size)) for i in range(0, count(samples), size))


def join(parts: Sequence[Samples]) -> Samples:
    """Return micro-batches as one."""
    return map_samples(lambda *tensors: torch.cat(tensors), *parts)


def filled(samples: Samples, size: int) -> Samples:
    """Return samples with the first repeated behind them until there are `size`."""
    missing = size - count(samples)
    return samples if missing <= 0 else join([samples, *[rows(samples, slice(0, 1))] * missing])


def device_of(samples: Samples) -> torch.device:
    """Return the device that samples lie on."""
    return leaves(samples)[0].device


def are_images(samples: Samples) -> bool:
    """Return whether samples are one float tensor `(N, channels, height, width)`."""
    return isinstance(samples, Tensor) and samples.dim() == 4 and samples.is_floating_point()


def run(network: Any, samples: Samples) -> Any:
    """Return what a network gives for samples."""
    args, kwargs = arguments(samples)
    return network(*args, **kwargs)


def check_samples(samples: object) -> Samples:
    """Return samples that a network can be measured on.

    Raises:
        ArgumentError: Not tensors of one number of rows, of float32 or integers, finite, with at least one sample.
    """
    if isinstance(samples, Mapping):
        named = {f"[{key!r}]": value for key, value in samples.items()}
        if any(not isinstance(key, str) for key in samples):
            raise ArgumentError(f"samples: given a mapping of {list(samples)[:5]}; {_ALLOWED}")
        samples = dict(samples)
    elif isinstance(samples, tuple | list):
        named = {f"[{i}]": value for i, value in enumerate(samples)}
        samples = tuple(samples)
    else:
        named = {"": samples}
    if not named:
        raise ArgumentError(f"samples: given none; {_ALLOWED}")
    number: int | None = None
    for where, tensor in named.items():
        number = _check_tensor(where, tensor, number)
    return samples  # type: ignore[return-value]


def _check_tensor(where: str, tensor: object, number: int | None) -> int:
    if not isinstance(tensor, Tensor):
        raise ArgumentError(f"samples{where}: given {type(tensor).__name__}; {_ALLOWED}")
    given = f"{tensor.dtype} {tuple(tensor.shape)}"
    plain = tensor.layout is torch.strided and not tensor.is_quantized and tensor.device.type != "meta"
    integers = tensor.dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    if not plain or not (tensor.dtype == torch.float32 or integers) or tensor.dim() < 1 or len(tensor) == 0:
        raise ArgumentError(f"samples{where}: given {given}; {_ALLOWED}, with at least one sample")
    if tensor.dim() < 2 and not integers:
        raise ArgumentError(f"samples{where}: given {given}; {_ALLOWED}, with at least one sample")
    if number is not None and len(tensor) != number:
        raise ArgumentError(f"samples{where}: given {len(tensor)} samples and {number} in another tensor; {_ALLOWED}")
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        bad = (~torch.isfinite(tensor).flatten(1).all(dim=1)).nonzero().flatten().tolist()
        raise ArgumentError(f"samples{where}: NaN or infinity in samples {bad[:10]}; allowed: finite values")
    return len(tensor)
