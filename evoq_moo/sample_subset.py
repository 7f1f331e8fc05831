"""A network on some of its samples: where the difference sits in few samples, those tell nearly all."""

import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from evoq_moo._setup import digest
from evoq_moo.errors import ArgumentError
from evoq_moo.graph import count, device_of, rows
from evoq_moo.network import QuantizedNetwork


class SampleSubset(QuantizedNetwork):
    """A network whose differences are those on some of its samples; ranges and weights stay those of all.

    Args:
        network: The network; it is not changed.
        samples: Indices of the samples, different ones.

    Raises:
        ArgumentError: Not a plain quantized network (calibration in the loop needs all samples), or the indices are
            not different ones of its samples.
    """

    def __init__(self, network: QuantizedNetwork, samples: Sequence[int] | npt.NDArray[np.int64]) -> None:
        if type(network) is not QuantizedNetwork:
            raise ArgumentError(f"network: given {type(network).__name__}; allowed: a QuantizedNetwork itself")
        chosen = [int(i) for i in samples]
        number = count(network.samples)
        if not chosen or len(set(chosen)) != len(chosen) or not all(0 <= i < number for i in chosen):
            raise ArgumentError(f"samples: given {chosen}; allowed: different indices below {number}")
        self.__dict__.update(network.__dict__)
        index = torch.tensor(chosen, device=device_of(network.samples))
        self.samples = rows(network.samples, index)
        self.float_heads = [head[index] for head in network.float_heads]
        self.fingerprint = digest(network.fingerprint.encode(), f"samples {chosen}".encode())
        self._engine = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_engine": None}


KEPT = 4
"""Subsets of a network that are kept at a time."""
_kept: WeakKeyDictionary[QuantizedNetwork, dict[str, SampleSubset]] = WeakKeyDictionary()
_keeping = threading.Lock()


def subset_of(network: QuantizedNetwork, samples: Sequence[int] | npt.NDArray[np.int64]) -> SampleSubset:
    """Return a network on some of its samples; the last few asked for are kept, since engines take time to make."""
    subset = SampleSubset(network, samples)
    with _keeping:
        kept = _kept.setdefault(network, {})
        subset = kept.pop(subset.fingerprint, subset)
        kept[subset.fingerprint] = subset
        if len(kept) > KEPT:
            del kept[next(iter(kept))]
    return subset
