"""A network on some of its samples: where the difference sits in few samples, those tell nearly all."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evoq_moo.engines import Engine
from evoq_moo.errors import ArgumentError
from evoq_moo.graph import Samples, count, device_of, digest, rows
from evoq_moo.network.evaluated import DerivedNetwork
from evoq_moo.network.network import QuantizedNetwork
from evoq_moo.space import Policy


class SampleSubset(DerivedNetwork):
    """The differences of a network's policies on some of its samples; ranges and weights stay those of all.

    Args:
        network: The network; it is not changed.
        samples: Indices of the samples, different ones.

    Attributes:
        network: The network.
        samples: The samples.
        fingerprint: Of the network and the indices.

    Raises:
        ArgumentError: Not a quantized network (calibration in the loop needs all samples), or the indices are not
            different ones of its samples.
    """

    def __init__(self, network: QuantizedNetwork, samples: Sequence[int] | npt.NDArray[np.int64]) -> None:
        super().__init__(network)
        chosen = [int(i) for i in samples]
        number = count(network.samples)
        if not chosen or len(set(chosen)) != len(chosen) or not all(0 <= i < number for i in chosen):
            raise ArgumentError(f"samples: given {chosen}; allowed: different indices below {number}")
        index = torch.tensor(chosen, device=device_of(network.samples))
        self.samples: Samples = rows(network.samples, index)
        self.fingerprint = digest(network.fingerprint.encode(), f"samples {chosen}".encode())
        self._float_heads = [head[index] for head in network.float_heads]
        self._engine: Engine | None = None

    @property
    def float_difference(self) -> float:
        """The difference of the float network to itself on these samples."""
        return self.difference_between(self._float_heads)

    def set_threads(self, threads: int | None) -> None:
        """Compute this many micro-batches at once from now on; None for one a core. Results stay the same."""
        self.network.set_threads(threads)
        self._engine = None

    def difference_between(self, heads: list[Tensor]) -> float:
        """Return the difference of outputs on these samples to the float network's.

        Raises:
            NonFiniteError: The metric gives NaN or infinity.
        """
        return self.network.difference_between(heads, self._float_heads)

    def difference_of(self, bits: npt.ArrayLike) -> float:
        """Return the output difference of bit-widths `(layers, 2)` on these samples.

        Raises:
            NonFiniteError: The network or the metric gives NaN or infinity.
        """
        return next(self.scan(np.asarray(bits)[None]))

    def scan(self, bits: npt.ArrayLike) -> Iterator[float]:
        """Give the difference of many bit-widths `(policies, layers, 2)`, one full evaluation each.

        Raises:
            NonFiniteError: The network or the metric gives NaN or infinity.
        """
        for widths in np.asarray(bits):
            array = Policy.from_array(self.space.layer_names, widths).to_array()
            with self._lock:
                if self._engine is None:
                    self._engine = self.network.engine_on(self.samples)
                heads = self._engine.heads(array)
            yield self.network.finite_difference(heads, array, self._float_heads)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_engine": None}
