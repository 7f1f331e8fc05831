"""Worker processes: each builds the network once and gets integer vectors only."""

import copy
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Self

import numpy as np
import numpy.typing as npt

from evoq_moo.errors import ArgumentError, check_count
from evoq_moo.evaluated import EvaluatedNetwork
from evoq_moo.network import QuantizedNetwork
from evoq_moo.sample_subset import SampleSubset
from evoq_moo.space import IntArray

NetworkFactory = Callable[[], EvaluatedNetwork]
"""Makes the network in a worker: a picklable function of no arguments, e.g. a `functools.partial`."""

_networks: dict[str, EvaluatedNetwork] = {}
"""Networks this worker process has built, by fingerprint."""
_subsets: dict[tuple[str, tuple[int, ...]], SampleSubset] = {}
"""The last few of them on some samples, since engines take time to make."""
KEPT = 4
_building = threading.Lock()


def _receive(pickled: bytes) -> None:
    # Ctrl-C reaches every process of the terminal; the parent decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Bytes that our own parent process sent over its pipe; never a file.
    network: EvaluatedNetwork = pickle.loads(pickled)  # noqa: S301
    network.set_threads(1)
    _networks[network.fingerprint] = network


def _evaluate(
    fingerprint: str, recipe: NetworkFactory | None, samples: tuple[int, ...] | None, bits: IntArray
) -> float:
    with _building:
        if fingerprint not in _networks:
            _networks[fingerprint] = _build(fingerprint, recipe)
        network = _networks[fingerprint] if samples is None else _subset(fingerprint, samples)
    return network.difference_of(bits)


def _subset(fingerprint: str, samples: tuple[int, ...]) -> SampleSubset:
    key = (fingerprint, samples)
    network = _networks[fingerprint]
    if not isinstance(network, QuantizedNetwork):
        raise ArgumentError(f"samples: given of a {type(network).__name__}; allowed: of a QuantizedNetwork")
    subset = _subsets.pop(key, None) or SampleSubset(network, samples)
    _subsets[key] = subset
    if len(_subsets) > KEPT:
        del _subsets[next(iter(_subsets))]
    return subset


def _build(fingerprint: str, recipe: NetworkFactory | None) -> EvaluatedNetwork:
    if recipe is None:
        raise ArgumentError("executor: a worker has no network; give recipe=, a function that makes it")
    network = recipe()
    network.set_threads(1)
    if network.fingerprint != fingerprint:
        raise ArgumentError(
            f"recipe: made a network with fingerprint {network.fingerprint[:12]}...; allowed: the problem's, "
            f"{fingerprint[:12]}... (same weights, samples, ranges and metric)"
        )
    return network


class Workers:
    """Evaluates policies on an executor.

    Args:
        network: The network.
        workers: Start this many processes of our own, one torch thread each.
        executor: Or use this executor, e.g. Dask's `client.get_executor()`. It stays open.
        recipe: With `executor`: a picklable function of no arguments that makes the same network in a worker.

    Raises:
        ArgumentError: Not exactly one of `workers` and `executor`; `executor` without `recipe`; or the network can't
            be sent to other processes (e.g. a difference that is a lambda).
    """

    def __init__(
        self,
        network: EvaluatedNetwork,
        *,
        workers: int | None = None,
        executor: Executor | None = None,
        recipe: NetworkFactory | None = None,
    ) -> None:
        if (workers is None) == (executor is None):
            raise ArgumentError("workers, executor: give one of them")
        if executor is not None and recipe is None:
            raise ArgumentError(
                "recipe: given None; allowed with executor=: a picklable function that makes the network"
            )
        self._fingerprint = network.fingerprint
        self._recipe = recipe
        self._samples: tuple[int, ...] | None = None
        self._own: ProcessPoolExecutor | None = None
        if executor is not None:
            self._executor: Executor = executor
            return
        try:
            pickled = pickle.dumps(network)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ArgumentError(
                f"workers: the network can't be sent to other processes ({error}); "
                "allowed: models and differences defined at the top level of a module"
            ) from error
        # Forking a process that runs torch threads can hang it.
        self._own = ProcessPoolExecutor(
            check_count("workers", workers), mp_context=get_context("spawn"), initializer=_receive, initargs=(pickled,)
        )
        self._executor = self._own

    def on_samples(self, samples: Sequence[int] | npt.NDArray[np.int64]) -> Self:
        """Return workers on the same executor that evaluate on some of the samples; closing them ends nothing."""
        part = copy.copy(self)
        part._samples = tuple(int(i) for i in samples)
        part._own = None
        return part

    def submit(self, policies: list[IntArray]) -> list[Future[float]]:
        """Start evaluating policies `(layers, 2)` and return their futures, in order."""
        known = (self._fingerprint, self._recipe, self._samples)
        return [self._executor.submit(_evaluate, *known, bits) for bits in policies]

    def close(self) -> None:
        """End the processes of our own; a given executor stays open."""
        if self._own is not None:
            self._own.shutdown(cancel_futures=True)
