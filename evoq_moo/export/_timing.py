"""Times of several computations, taken in turns so that what slows the machine down slows all of them."""

import time
from collections.abc import Callable, Mapping

import torch

WARM = 3
"""Passes that are not counted."""


def in_turns(computations: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the times of each computation (ms); torch computes in one thread.

    Args:
        computations: By name.
        repeats: How often each is run, warming up not counted.
    """
    spent: dict[str, list[float]] = {name: [] for name in computations}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for i in range(repeats + WARM):
                for name, compute in computations.items():
                    begun = time.perf_counter()
                    compute()
                    if i >= WARM:
                        spent[name].append(1000 * (time.perf_counter() - begun))
    finally:
        torch.set_num_threads(threads)
    return spent
