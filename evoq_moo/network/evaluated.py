"""What evaluators, workers and sensitivity scans need of a network, and a base of what evaluates it otherwise."""

import threading
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from evoq_moo.errors import ArgumentError
from evoq_moo.graph import Samples
from evoq_moo.network.network import QuantizedNetwork
from evoq_moo.space import SearchSpace


@runtime_checkable
class EvaluatedNetwork(Protocol):
    """A network whose policies can be evaluated: quantized as it is, calibrated in the loop, or on some samples."""

    @property
    def space(self) -> SearchSpace:
        """The search space."""

    @property
    def samples(self) -> Samples:
        """The samples that differences are measured on."""

    @property
    def metric(self) -> str:
        """Name of the difference."""

    @property
    def identity(self) -> str:
        """Fingerprint of the pre-trained network alone."""

    @property
    def float_difference(self) -> float:
        """The difference of the float network to itself: that of 16 and 32 bits."""

    @property
    def fingerprint(self) -> str:
        """What determines a difference, together with a policy: the store's key."""

    def difference_of(self, bits: npt.ArrayLike) -> float:
        """Return the output difference of bit-widths `(layers, 2)`.

        Raises:
            NonFiniteError: The policy has none: the network or the metric gives NaN or infinity.
        """

    def scan(self, bits: npt.ArrayLike) -> Iterator[float]:
        """Give the difference of each of many bit-widths `(policies, layers, 2)` that leave most layers in float.

        Raises:
            NonFiniteError: The next policy has none.
        """

    def set_threads(self, threads: int | None) -> None:
        """Compute on this many threads from now on; None for one a core. Results stay the same."""


class DerivedNetwork:
    """Base of what evaluates the policies of a quantized network in another way than the network itself.

    Args:
        network: The network; it is not changed.

    Attributes:
        network: The network.

    Raises:
        ArgumentError: Not a quantized network.
    """

    def __init__(self, network: QuantizedNetwork) -> None:
        if not isinstance(network, QuantizedNetwork):
            raise ArgumentError(f"network: given {type(network).__name__}; allowed: a QuantizedNetwork")
        self.network = network
        self._lock = threading.RLock()

    @property
    def space(self) -> SearchSpace:
        """The network's search space."""
        return self.network.space

    @property
    def metric(self) -> str:
        """Name of the difference."""
        return self.network.metric

    @property
    def identity(self) -> str:
        """Fingerprint of the pre-trained network alone."""
        return self.network.identity

    @property
    def float_difference(self) -> float:
        """The difference of the float network to itself."""
        return self.network.float_difference

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()
