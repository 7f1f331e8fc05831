"""Running micro-batches on threads so that results do not depend on how many threads there are.

Torch's float32 kernels round differently with the number of threads they use, and with the batch size. Here each
micro-batch has a fixed size and runs on one torch thread; several micro-batches run at once on Python threads. That
gives the same bits with any number of threads (measured: also faster than torch's own threading on small batches).
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from evoq_moo.errors import check_count

MICRO_BATCH = 5
"""Images of one forward pass: few keep the activations of ImageNet networks in cache (measured)."""
T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """Return the number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _single_threaded() -> None:
    torch.set_num_threads(1)


class ComputePool:
    """Python threads of one torch thread each.

    Args:
        threads: How many; None for one a core.

    Raises:
        ArgumentError: `threads` is not a positive integer or None.
    """

    def __init__(self, *, threads: int | None = None) -> None:
        self.threads = available_cores() if threads is None else check_count("threads", threads)
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return `function` of each item, in order, computed without gradients.

        The first exception of an item is raised once all running items have ended.
        """
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(
                    self.threads, thread_name_prefix="evoq-compute", initializer=_single_threaded
                )

        def call(item: T) -> R:
            with torch.no_grad():
                return function(item)

        futures = [self._executor.submit(call, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            # What runs still reads what the caller is about to change.
            wait([future for future in futures if not future.cancel()])

    def run(self, function: Callable[[], R]) -> R:
        """Return `function()` computed on one torch thread, without gradients."""
        return self.map(lambda _: function(), [None])[0]

    def __getstate__(self) -> dict[str, int]:
        return {"threads": self.threads}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(threads=state["threads"])  # type: ignore[misc]


@contextmanager
def evaluation_mode(*networks: nn.Module | None) -> Iterator[None]:
    """Put networks into evaluation mode while the context lasts, then every module back as it was."""
    modes = [(module, module.training) for network in networks if network is not None for module in network.modules()]
    for network in networks:
        if network is not None:
            network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
