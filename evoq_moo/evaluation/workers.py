"""Worker processes: each builds the network once and gets integer vectors only."""

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import suppress
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from evoq_moo.errors import ArgumentError, WorkerError, check_count
from evoq_moo.network import EvaluatedNetwork
from evoq_moo.space import IntArray

NetworkFactory = Callable[[], EvaluatedNetwork]
"""Makes the network in a worker: a picklable function of no arguments, e.g. a `functools.partial`."""

RETRIES = 3
"""Our choice: how often dead processes are replaced without any result in between."""
R = TypeVar("R")

_networks: dict[str, EvaluatedNetwork] = {}
"""Networks this worker process has built, by fingerprint."""
_building = threading.Lock()


def live_with_parent() -> None:
    """Make this worker process leave Ctrl-C to its parent, and end when the parent ends, however that ends."""
    # Ctrl-C reaches every process of the terminal; the parent decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)  # nobody is left to take results, and nothing of ours needs more

    threading.Thread(target=watch, name="evoq-parent", daemon=True).start()


class ProcessPool:
    """Processes of our own. One that dies is replaced, and what it was computing is computed again.

    Args:
        workers: How many.
        initializer: Runs in each before anything else; it should call :func:`live_with_parent`.
        initargs: Its arguments.

    Raises:
        ArgumentError: `workers` is not a positive integer.
    """

    def __init__(self, workers: int, initializer: Callable[..., None], initargs: tuple[Any, ...] = ()) -> None:
        self.workers = check_count("workers", workers)
        self._initializer = initializer
        self._initargs = initargs
        self._lock = threading.Lock()
        self._pool = self._new()

    def _new(self) -> ProcessPoolExecutor:
        # Forking a process that runs torch threads can hang it.
        return ProcessPoolExecutor(
            self.workers, mp_context=get_context("spawn"), initializer=self._initializer, initargs=self._initargs
        )

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is broken:
                broken.shutdown(wait=False, cancel_futures=True)
                self._pool = self._new()

    def results(self, function: Callable[..., R], calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, R]]:
        """Give the index and the result of each call, as they become known.

        Args:
            function: What runs in a worker.
            calls: Its arguments, for each call.

        Raises:
            WorkerError: Processes died again and again, with no result in between.
        """
        left = dict(enumerate(calls))
        failures = 0
        while left:
            pool, before = self._pool, len(left)
            futures: dict[Future[R], int] = {}
            with suppress(BrokenExecutor):  # it may have broken while it had nothing to do
                futures.update((pool.submit(function, *arguments), i) for i, arguments in left.items())
            try:
                for future in as_completed(futures):
                    if not isinstance(future.exception(), BrokenExecutor):
                        yield futures[future], future.result()
                        del left[futures[future]]
            finally:
                for future in futures:
                    future.cancel()
            if left:
                self._replace(pool)
                failures = 0 if len(left) < before else failures + 1
                if failures > RETRIES:
                    raise WorkerError(
                        f"worker processes died {failures} times without any result; is there enough memory?"
                    )

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)


def _receive(pickled: bytes) -> None:
    live_with_parent()
    # Bytes that our own parent process sent over its pipe; never a file.
    network: EvaluatedNetwork = pickle.loads(pickled)  # noqa: S301
    network.set_threads(1)
    _networks[network.fingerprint] = network


def _evaluate(fingerprint: str, recipe: NetworkFactory | None, bits: IntArray) -> float:
    with _building:
        if fingerprint not in _networks:
            _networks[fingerprint] = _build(fingerprint, recipe)
        network = _networks[fingerprint]
    return network.difference_of(bits)


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
        self._executor = executor
        self._pool: ProcessPool | None = None
        if executor is not None:
            return
        try:
            pickled = pickle.dumps(network)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ArgumentError(
                f"workers: the network can't be sent to other processes ({error}); "
                "allowed: models and differences defined at the top level of a module"
            ) from error
        self._pool = ProcessPool(check_count("workers", workers), _receive, (pickled,))

    def results(self, policies: Sequence[IntArray]) -> Iterator[tuple[int, float]]:
        """Evaluate policies `(layers, 2)` and give the index and the difference of each, as they become known.

        Raises:
            WorkerError: Processes of our own died again and again. What a given executor raises is left as it is.
        """
        calls = [(self._fingerprint, self._recipe, bits) for bits in policies]
        if self._pool is not None:
            yield from self._pool.results(_evaluate, calls)
        if self._executor is None:
            return
        futures = {self._executor.submit(_evaluate, *arguments): i for i, arguments in enumerate(calls)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """End the processes of our own; a given executor stays open."""
        if self._pool is not None:
            self._pool.close()
