"""The tensors of a network's output, whatever its nesting: read, changed, or taken out and put back."""

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from evoq_moo.errors import ArgumentError, NetworkError

_PLACE = torch.empty(0)
"""Stands where a tensor was; made once, so that none is made while a network is traced."""


def _parts(output: object) -> list[object] | None:
    """Return what a container holds, in order (mappings by insertion order); None for anything else."""
    if isinstance(output, Mapping):
        return list(output.values())
    if isinstance(output, list | tuple):
        return list(output)
    if is_dataclass(output) and not isinstance(output, type):
        return [getattr(output, field.name) for field in fields(output)]
    return None


def _with_parts(output: Any, parts: Sequence[object]) -> Any:
    """Return a container of the same type and keys that holds other parts."""
    if isinstance(output, Mapping):
        if not isinstance(output, MutableMapping):
            return type(output)(dict(zip(output, parts, strict=True)))  # type: ignore[call-arg]
        changed: Any = copy.copy(output)  # also what a defaultdict has beside its items
        for key, part in zip(list(output), parts, strict=True):
            changed[key] = part
        return changed
    if isinstance(output, tuple):
        return output._make(parts) if hasattr(output, "_make") else type(output)(parts)
    changed = copy.copy(output)
    if isinstance(output, list):
        changed[:] = parts
        return changed
    for field, part in zip(fields(output), parts, strict=True):
        object.__setattr__(changed, field.name, part)  # frozen dataclasses too
    return changed


def _leaves(output: object) -> Iterator[Tensor]:
    parts = _parts(output)
    if isinstance(output, Tensor):
        yield output
    for part in parts or ():
        yield from _leaves(part)


def heads_of(output: object) -> list[Tensor]:
    """Return the floating-point tensors of a nested network output, in order (mappings by insertion order).

    Raises:
        NetworkError: The output holds no floating-point tensor.
    """
    heads = [tensor for tensor in _leaves(output) if tensor.is_floating_point()]
    if not heads:
        raise NetworkError(f"the network's output ({type(output).__name__}) holds no floating-point tensor to compare")
    return heads


def map_tensors(output: Any, function: Callable[[Tensor], object]) -> Any:
    """Return an output of the same nesting and types, every tensor replaced by `function` of it.

    Args:
        output: Any nesting of tuples (named ones too), lists, mappings and dataclasses (frozen ones too); whatever
            else it holds stays as it is. It is not changed.
        function: Called with the tensors in order, integer ones too.
    """
    if isinstance(output, Tensor):
        return function(output)
    parts = _parts(output)
    return output if parts is None else _with_parts(output, [map_tensors(part, function) for part in parts])


@dataclass(frozen=True)
class Rebuild:
    """The nesting of an output without its tensors; calling it with as many tensors gives an output.

    Attributes:
        nesting: The output with an empty tensor in the place of each: containers may refuse anything else.
        count: How many places there are, numbered in order.
    """

    nesting: object
    count: int

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        """Return an output of this nesting that holds the tensors.

        Raises:
            ArgumentError: Not as many tensors as places.
        """
        if len(tensors) != self.count:
            raise ArgumentError(f"tensors: given {len(tensors)}; allowed: {self.count}, one for each of the output's")
        places = iter(tensors)
        return map_tensors(self.nesting, lambda _: next(places))


def skeleton(output: object) -> tuple[list[Tensor], Rebuild]:
    """Return the tensors of an output, in order, and what builds such an output from a list of tensors.

    Example:
        >>> leaves, rebuild = skeleton({"boxes": torch.zeros(2, 4), "labels": torch.ones(2, dtype=torch.int64)})
        >>> output = rebuild([2 * leaf for leaf in leaves])
    """
    leaves = list(_leaves(output))
    return leaves, Rebuild(map_tensors(output, lambda _: _PLACE), len(leaves))
