"""Worker processes of our own: replaced when they die, gone when their parent is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evoq_moo.errors import ArgumentError, WorkerError
from evoq_moo.evaluation import ProcessPool, live_with_parent

PARENT = """
import sys, time
from evoq_moo.evaluation import ProcessPool, live_with_parent

if __name__ == "__main__":
    pool = ProcessPool(1, live_with_parent)
    import os
    print(next(pool.results(os.getpid, [()]))[1], flush=True)
    next(pool.results(time.sleep, [(600,)]))
"""


def die_once(folder, i):
    """End this process the first time it is asked for 3, as the kernel does where memory is short."""
    mark = Path(folder) / "died"
    if i == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return i * i


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(i):
    raise ValueError(f"given {i}")


def test_a_dead_process_is_replaced_its_errors_are_not_and_one_that_always_dies_is_an_error(tmp_path):
    """One test for all, as each process takes seconds to import torch."""
    pool = ProcessPool(1, live_with_parent)
    try:
        assert dict(pool.results(die_once, [(tmp_path, i) for i in range(6)])) == {i: i * i for i in range(6)}
        with pytest.raises(ValueError, match="given 7"):
            list(pool.results(fail, [(7,)]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("evoq_moo.evaluation.workers.RETRIES", 0)
            with pytest.raises(WorkerError, match="died 1 times"):
                list(pool.results(die, [(0,)]))
    finally:
        pool.close()
    with pytest.raises(ArgumentError, match="workers: given 0"):
        ProcessPool(0, live_with_parent)


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{worker}/stat").exists() and ") Z" in Path(f"/proc/{worker}/stat").read_text():
            return  # it has ended; nobody reaps orphans here
        time.sleep(0.05)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlives its parent")
