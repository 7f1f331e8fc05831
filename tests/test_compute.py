"""The compute pool: it never returns while something of it still runs."""

import threading
import time

import pytest

from evoq_moo._compute import ComputePool


def test_an_error_is_raised_once_nothing_runs_any_more():
    """What still ran read tensors that the caller went on to change."""
    running, ended = threading.Event(), threading.Event()

    def work(item):
        if item == "fails":
            running.wait(5)
            raise ValueError("one fails")
        running.set()
        time.sleep(0.2)
        ended.set()

    with pytest.raises(ValueError, match="one fails"):
        ComputePool(threads=2).map(work, ["fails", "lasts", *["never begun"] * 3])
    assert ended.is_set()
