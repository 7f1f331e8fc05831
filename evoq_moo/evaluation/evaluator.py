"""Evaluating policies: from the store where they are known, by the network (or workers) where not."""

import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evoq_moo.errors import ArgumentError, NonFiniteError
from evoq_moo.evaluation.store import EvaluationStore, policy_key
from evoq_moo.evaluation.workers import NetworkFactory, Workers
from evoq_moo.network import EvaluatedNetwork
from evoq_moo.space import FloatArray, IntArray

logger = logging.getLogger("evoq_moo")
NO_DIFFERENCE = math.inf
"""What stands for the difference of a policy that has none, in the store too: it is infeasible."""


def open_store(store: EvaluationStore | str | Path | None) -> EvaluationStore:
    """Return a store: the given one, one at a path, or one in memory.

    Raises:
        ArgumentError: None of these.
        StoreError: The file can't be used.
    """
    if isinstance(store, EvaluationStore):
        return store
    if store is None:
        return EvaluationStore(":memory:")
    if not isinstance(store, str | Path):
        raise ArgumentError(f"store: given {type(store).__name__}; allowed: a path, an EvaluationStore or None")
    return EvaluationStore(store)


class Evaluator:
    """Gives the difference of policies, each computed at most once.

    A policy under which the network or the metric gives NaN or infinity has none: it is noted in the log, and kept as
    infinite, so that a search goes on without it.

    Args:
        network: The network.
        store: Where results are kept: a path, an open store, or None for memory.
        workers: Evaluate on this many processes of our own.
        executor: Or on this `concurrent.futures.Executor`.
        recipe: With `executor`: makes the network in a worker.

    Attributes:
        computed: How many policies were computed, not found in the store, so far.

    Raises:
        StoreError: The store can't be used or belongs to another network.
        ArgumentError: The arguments don't fit together.
    """

    def __init__(
        self,
        network: EvaluatedNetwork,
        *,
        store: EvaluationStore | str | Path | None = None,
        workers: int | None = None,
        executor: Executor | None = None,
        recipe: NetworkFactory | None = None,
    ) -> None:
        self.network = network
        self._workers: Workers | None = None
        self.store = open_store(store)
        self._own_store = self.store is not store
        self.store.bind(network.identity)
        if workers is not None or executor is not None:
            self._workers = Workers(network, workers=workers, executor=executor, recipe=recipe)
        self.computed = 0

    def differences(
        self, bits: IntArray, *, on_result: Callable[[], None] | None = None, scan: bool = False
    ) -> FloatArray:
        """Return the differences of policies.

        Every result is in the store as soon as it is known, so nothing is lost when this is interrupted.

        Args:
            bits: Bit-widths, int64 `(n, layers, 2)`.
            on_result: Called after each policy that had to be computed.
            scan: Say that the policies leave most layers in float, which the integer engine makes use of.

        Returns:
            Float64 `(n,)`; infinite where a policy has none.

        Raises:
            StoreError: The store can't be read or written.
        """
        keys = [policy_key(b) for b in bits]
        known = self.store.get(self.network.fingerprint, list(dict.fromkeys(keys)))
        missing = {key: b for key, b in zip(keys, bits, strict=True) if key not in known}

        def take(key: bytes, value: float) -> None:
            self.store.put(self.network.fingerprint, {key: value})
            known[key] = value
            self.computed += 1
            if on_result is not None:
                on_result()

        if self._workers is None:
            compute = self._scan if scan else self._one_by_one
            for key, value in zip(missing, compute(list(missing.values())), strict=True):
                take(key, value)
        else:
            order = list(missing)
            for i, value in self._workers.results(list(missing.values())):
                take(order[i], value)
        return np.array([known[key] for key in keys], dtype=np.float64)

    def _one_by_one(self, policies: list[IntArray]) -> Iterator[float]:
        for policy in policies:
            yield _difference(partial(self.network.difference_of, policy))

    def _scan(self, policies: list[IntArray]) -> Iterator[float]:
        done = 0
        while done < len(policies):  # a policy without a difference ends the network's scan
            values = self.network.scan(np.stack(policies[done:]))
            while done < len(policies):
                value = _difference(partial(next, values))
                done += 1
                yield value
                if value == NO_DIFFERENCE:
                    break

    def known(self, bits: IntArray) -> npt.NDArray[np.bool_]:
        """Return which policies' differences are in the store, bool `(n,)`.

        Args:
            bits: Bit-widths, int64 `(n, layers, 2)`.
        """
        keys = [policy_key(b) for b in bits]
        found = self.store.get(self.network.fingerprint, keys)
        return np.array([key in found for key in keys], dtype=bool)

    def close(self) -> None:
        """End the worker processes and close the store, unless it was given open."""
        if self._workers is not None:
            self._workers.close()
        if self._own_store:
            self.store.close()

    def __getstate__(self) -> dict[str, Any]:
        # A pool of processes can't be sent to another process; the copy computes by itself, with the same results.
        return {**self.__dict__, "_workers": None}


def _difference(compute: Callable[[], float]) -> float:
    """Return a difference, `NO_DIFFERENCE` with a note in the log where there is none."""
    try:
        return compute()
    except NonFiniteError as error:
        logger.warning("a policy is infeasible: %s", error)
        return NO_DIFFERENCE
